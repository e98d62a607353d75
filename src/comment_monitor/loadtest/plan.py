"""The requests of a run: comments, made up or from a file, put together by post."""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from comment_monitor.loadtest.drive import Load
from comment_monitor.loadtest.texts import Made

_encode = msgspec.json.Encoder().encode
# Posts whose comments wait for company, from a file with many posts.
MAX_OPEN: Final = 1000


def made_up(comments: Iterator[Made], *, batch: int, total: int | None, until: float | None) -> Iterator[Load]:
    """Requests of `batch` made-up comments until `total` comments are sent or the clock reads `until`.

    A request goes to one post; the generator's choice of post is that of its first comment's.
    """
    left = total
    while (left is None or left > 0) and (until is None or time.perf_counter() < until):
        size = batch if left is None else min(batch, left)
        part = list(itertools.islice(comments, size))
        body = {"post_id": f"load-{part[0].post}", "source": "load-test", "comments": [one.comment for one in part]}
        yield Load(_encode(body), size)
        if left is not None:
            left -= size


def from_file(path: Path, *, batch: int, total: int | None, repeat: bool) -> Iterator[Load]:
    """Requests from JSON Lines as `ingest` reads them, grouped by source and post.

    Raises:
        ValueError: a line is no JSON object with a post_id.
    """
    comments = itertools.chain.from_iterable(_lines(path) for _ in (itertools.count() if repeat else range(1)))
    return _grouped(itertools.islice(comments, total), batch)


def _lines(path: Path) -> Iterator[dict[str, object]]:
    from comment_monitor.ingest import open_stream  # noqa: PLC0415 - brings the parser, which made-up load needs not

    with path.open("rb") as raw:
        for number, line in enumerate(open_stream(raw), 1):
            if not line.strip():
                continue
            try:
                yield msgspec.json.decode(line, type=dict[str, object])
            except msgspec.MsgspecError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None


def _grouped(comments: Iterable[dict[str, object]], batch: int) -> Iterator[Load]:
    waiting: defaultdict[tuple[object, object], list[dict[str, object]]] = defaultdict(list)
    for one in comments:
        key = (one.pop("source", "threads"), one.pop("post_id", ""))
        waiting[key].append(one)
        if len(waiting[key]) == batch:
            yield _load(key, waiting.pop(key))
        elif len(waiting) > MAX_OPEN:
            oldest = next(iter(waiting))
            yield _load(oldest, waiting.pop(oldest))
    for key, part in waiting.items():
        yield _load(key, part)


def _load(key: tuple[object, object], part: list[dict[str, object]]) -> Load:
    return Load(_encode({"source": key[0], "post_id": key[1], "comments": part}), len(part))
