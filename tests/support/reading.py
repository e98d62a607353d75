"""Short forms for reading comments from a file's bytes or text."""

import io
from collections.abc import Iterable

from comment_monitor.core.model import Comment
from comment_monitor.intake.files.formats import BadLine, Numbered, Reading, open_comments


def read(raw: "bytes | str", how: Reading | None = None, *, post_id: str | None = None) -> list[Numbered | BadLine]:
    data = raw.encode() if isinstance(raw, str) else raw
    return list(open_comments(io.BytesIO(data), how or Reading(post_id=post_id)))


def comments(items: Iterable[Numbered | BadLine]) -> list[Comment]:
    return [item.comment for item in items if isinstance(item, Numbered)]


def bad(items: Iterable[Numbered | BadLine]) -> list[BadLine]:
    return [item for item in items if isinstance(item, BadLine)]


def ids(items: Iterable[Numbered | BadLine]) -> list[str]:
    return [comment.id for comment in comments(items)]
