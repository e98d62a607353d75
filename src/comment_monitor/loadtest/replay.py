"""Requests with the comments of a file of JSON Lines, with or without gzip, which is read as by `ingest`."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from comment_monitor.intake.comment_decoder import DEFAULT_SOURCE
from comment_monitor.intake.files.file_stream import DAMAGE, open_stream
from comment_monitor.loadtest.plan import Load, encode

# Maximum number of posts with a request that is not full yet. Above this number, the oldest of these requests is sent.
MAX_OPEN: Final = 1000

Line = dict[str, Any]
_decode: Final = msgspec.json.Decoder(Line).decode


class BadLineError(Exception):
    """A line that can't be sent: it is not a JSON object, or its post or source is not valid."""


class Skipped:
    """The lines that can't be sent: their number, and the reason for the first."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""

    def add(self, line: int, reason: str) -> None:
        """Counts a line; `line` is its number, from 1."""
        self.count += 1
        self.first = self.first or f"line {line}: {reason}"


def from_file(path: Path, *, batch: int, total: int | None, repeat: bool, skipped: Skipped) -> Iterator[Load]:
    """Yields requests of at most `batch` comments of one source and post, up to `total` comments (None: no limit).

    Leaves the validation of comments to the service. Counts in `skipped` the lines that can't be sent, which are not
    JSON objects or name no post. `repeat` starts the file again at its end.
    """
    return _grouped(itertools.islice(_comments(path, skipped, repeat=repeat), total), batch)


def _comments(path: Path, skipped: Skipped, *, repeat: bool) -> Iterator[tuple[str, str, Line]]:
    while True:
        found = 0
        for found, comment in enumerate(_once(path, skipped), 1):  # noqa: B007 - read below
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
        except DAMAGE as error:
            skipped.add(number + 1, f"damaged or cut short from here on ({error})")


def _comment(line: bytes) -> tuple[str, str, Line]:
    try:
        comment = _decode(line.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadLineError(str(error)) from None
    source = comment.pop("source", None) or DEFAULT_SOURCE
    post = comment.pop("post_id", None)
    if not isinstance(source, str) or not isinstance(post, str) or not post:
        raise BadLineError("`source` and `post_id` must be strings, and `post_id` is required")
    return source, post, comment


def _grouped(comments: Iterable[tuple[str, str, Line]], batch: int) -> Iterator[Load]:
    unfilled: dict[tuple[str, str], list[Line]] = {}
    for source, post, comment in comments:
        part = unfilled.setdefault((source, post), [])
        part.append(comment)
        if len(part) == batch:
            yield _load((source, post), unfilled.pop((source, post)))
        elif len(unfilled) > MAX_OPEN:
            oldest = next(iter(unfilled))
            yield _load(oldest, unfilled.pop(oldest))
    for key, part in unfilled.items():
        yield _load(key, part)


def _load(key: tuple[str, str], part: list[Line]) -> Load:
    return Load(encode({"source": key[0], "post_id": key[1], "comments": part}), len(part), None)
