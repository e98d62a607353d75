"""What a file's readers give: comments and bad lines, each with its place in the file."""

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from msgspec.structs import replace

from comment_monitor.incoming import BadCommentError
from comment_monitor.model import MAX_ID, Comment

# An id as spreadsheets and data frames write large numbers; its last digits are lost.
_ROUNDED: Final = re.compile(r"[+-]?[0-9]{1,4}(?:[eE]\+[0-9]{1,3}|[.,][0-9]{1,20}[eE]\+?[0-9]{1,3})")
_FORMULA: Final = re.compile(r"""=\s*["'].*|\#{3,}|\#(?:NAME\?|VALUE!|REF!|NUM!|NULL!|N/A|DIV/0!)""", re.DOTALL)
# What either of them begins with.
_SUSPECT: Final = frozenset("=#+-0123456789 \t\n\r\u00a0")
AS_TEXT: Final = "format the column as text and export the file again"


class BadLine(NamedTuple):
    """A line that holds no comment that can be stored; `is_csv_fault`: it was left out because it is no CSV."""

    line: int
    id: str | None
    reason: str
    is_csv_fault: bool = False


class Numbered(NamedTuple):
    """A comment and the line on which it ends."""

    line: int
    comment: Comment


class Defaults(NamedTuple):
    """The post and the source of comments that name none."""

    post_id: str | None
    source: str | None


def with_whole_ids(comment: Comment) -> Comment:
    """The same comment, where no spreadsheet has changed one of its ids.

    Raises:
        BadCommentError: an id is a rounded number or a formula, and so perhaps that of several comments.
    """
    parent, author = comment.parent_id, comment.author_id
    # Nearly every id is plain, and this is asked of every line.
    id_, post = comment.id, comment.post_id
    if (
        (id_.isalnum() or id_[0] not in _SUSPECT)
        and (post.isalnum() or post[0] not in _SUSPECT)
        and (parent is None or parent.isalnum() or parent[0] not in _SUSPECT)
        and (author is None or author.isalnum() or author[0] not in _SUSPECT)
    ):
        return comment
    ids = (("id", id_), ("post_id", post), ("parent_id", parent), ("author_id", author))
    for name, value in ids:
        if value is None or value.isalnum() or value[0] not in _SUSPECT:
            continue
        if _ROUNDED.fullmatch(value.strip()):
            raise BadCommentError(f"`{name}` is a number that a spreadsheet has rounded ({value}): {AS_TEXT}")
        if _FORMULA.fullmatch(value.strip()):
            raise BadCommentError(f"`{name}` is a formula of a spreadsheet, not an id: {AS_TEXT}")
    return comment


def within_posts(items: Iterable[Numbered | BadLine]) -> Iterator[Numbered | BadLine]:
    """The same with ids that hold their post's: for sources that number the comments of each post from 1."""
    for item in items:
        if isinstance(item, BadLine):
            yield item
            continue
        comment = item.comment
        own = f"{comment.post_id}/{comment.id}"
        parent = f"{comment.post_id}/{comment.parent_id}" if comment.parent_id else None
        fault = next((name for name, value in (("id", own), ("parent_id", parent)) if len(value or "") > MAX_ID), None)
        if fault:
            yield BadLine(
                item.line, comment.id, f"`{fault}` with its post before it is longer than {MAX_ID} characters"
            )
        else:
            yield Numbered(item.line, replace(comment, id=own, parent_id=parent))
