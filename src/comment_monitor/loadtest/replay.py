"""The requests of a run with the comments of a file, as `ingest` reads it: JSON Lines, gzip or not."""

import gzip
import itertools
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from comment_monitor.intake.comment_decoder import DEFAULT_SOURCE
from comment_monitor.intake.files.file_stream import open_stream
from comment_monitor.loadtest.plan import Load, encode

# Posts whose comments wait for company to fill a request.
MAX_OPEN: Final = 1000
DAMAGED: Final = (EOFError, gzip.BadGzipFile, zlib.error, OSError)

Line = dict[str, Any]
_decode: Final = msgspec.json.Decoder(Line).decode


class BadLineError(Exception):
    """A line that belongs to no post."""


class Skipped:
    """The lines that could not be sent: how many, and the first one's reason."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""

    def add(self, line: int, reason: str) -> None:
        """Counts one; `line` from 1."""
        self.count += 1
        self.first = self.first or f"line {line}: {reason}"


def from_file(path: Path, *, batch: int, total: int | None, repeat: bool, skipped: Skipped) -> Iterator[Load]:
    """Requests of up to `batch` comments of one source and post, until `total` comments (None: the whole file).

    Whether a comment is a good one is for the service to say; a line that is no JSON object or names no post can't be
    sent and goes into `skipped`. `repeat` begins the file again at its end.
    """
    return _grouped(itertools.islice(_comments(path, skipped, repeat=repeat), total), batch)


def _comments(path: Path, skipped: Skipped, *, repeat: bool) -> Iterator[tuple[str, str, Line]]:
    while True:
        found = 0
        for found, comment in enumerate(_once(path, skipped), 1):  # noqa: B007 - looked at below
            yield comment
        if not repeat or not found:
            return


def _once(path: Path, skipped: Skipped) -> Iterator[tuple[str, str, Line]]:
    number = 0
    with path.open("rb") as raw:
        try:
            for number, line in enumerate(open_stream(raw), 1):
                if not line.strip():
                    continue
                try:
                    yield _comment(line)
                except BadLineError as error:
                    skipped.add(number, str(error))
        except DAMAGED as error:
            skipped.add(number + 1, f"damaged or cut short from here on ({error})")


def _comment(line: bytes) -> tuple[str, str, Line]:
    try:
        comment = _decode(line.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadLineError(str(error)) from None
    source = comment.pop("source", None) or DEFAULT_SOURCE
    post = comment.pop("post_id", None)
    if not isinstance(source, str) or not isinstance(post, str) or not post:
        raise BadLineError("`source` and `post_id` must be texts, and `post_id` can't be left out")
    return source, post, comment


def _grouped(comments: Iterable[tuple[str, str, Line]], batch: int) -> Iterator[Load]:
    waiting: dict[tuple[str, str], list[Line]] = {}
    for source, post, comment in comments:
        part = waiting.setdefault((source, post), [])
        part.append(comment)
        if len(part) == batch:
            yield _load((source, post), waiting.pop((source, post)))
        elif len(waiting) > MAX_OPEN:
            oldest = next(iter(waiting))
            yield _load(oldest, waiting.pop(oldest))
    for key, part in waiting.items():
        yield _load(key, part)


def _load(key: tuple[str, str], part: list[Line]) -> Load:
    return Load(encode({"source": key[0], "post_id": key[1], "comments": part}), len(part), None)
