"""Starts the program so that it is killed, once, at a named point of a comment's way.

    python -m tests.support.killpoints <point> <passing> <self|all> <marker file> <arguments of comment-monitor>

The named function is wrapped from outside; the program itself knows nothing of it. `all` kills the whole process
group: a worker with its pool. The marker file is made at the kill, and its presence lets every later passing through.
"""

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from comment_monitor.analysis import batch_processor
from comment_monitor.cli import main
from comment_monitor.intake import pipeline
from comment_monitor.messaging import publisher
from comment_monitor.storage import analyses, comments, outbox
from tests.support.deadly import SLOW_SECONDS, add_finding


class Point(NamedTuple):
    """A function of the program, and whether the kill comes before or after it."""

    owner: Any
    name: str
    after: bool


ORCHESTRATOR: Final = {
    "before what is new is added": Point(comments, "add", after=False),
    "after what is new is added": Point(pipeline.Pipeline, "_add_new", after=True),
    "before the write": Point(comments, "write", after=False),
    "before the commit": Point(comments, "write", after=True),
    "after the commit": Point(pipeline.Pipeline, "_write_transaction", after=True),
    "before the publish": Point(publisher.Publisher, "publish", after=False),
    "after the publish": Point(publisher.Publisher, "_send", after=True),
    "before the answer": Point(pipeline.Pipeline, "process", after=True),
}
WORKER: Final = {
    "before the batch is loaded": Point(outbox, "load_batches", after=False),
    "after the batch is loaded": Point(outbox, "load_batches", after=True),
    "before the result is written": Point(analyses, "save_results", after=False),
    "before the result's commit": Point(analyses, "save_results", after=True),
    "after the result's commit": Point(batch_processor.BatchProcessor, "_save", after=True),
}
# Where rows were sent before, and an analysis is slow.
SLOW_WORKER: Final = {
    "before a group's starts are counted": Point(batch_processor.BatchProcessor, "_count_starts", after=False),
    "after a group's starts are counted": Point(batch_processor.BatchProcessor, "_count_starts", after=True),
    "before a row is shrunk": Point(batch_processor.BatchProcessor, "_keep_row", after=False),
    "before the commit of a shrunk row": Point(batch_processor.BatchProcessor, "_keep_row", after=True),
    "before rows are given back": Point(batch_processor.BatchProcessor, "_give_back", after=False),
    "after rows are given back": Point(batch_processor.BatchProcessor, "_give_back", after=True),
}


class Killer:
    """Kills at the given passing, unless the marker says that it has done so."""

    def __init__(self, passing: int, marker: Path, *, everything: bool):
        self._left = passing
        self._marker = marker
        self._everything = everything

    def __call__(self) -> None:
        self._left -= 1
        if self._left > 0:
            return
        try:
            self._marker.touch(exist_ok=False)
        except FileExistsError:
            return
        if self._everything:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def wrap(point: Point, kill: Killer) -> None:
    """Puts the kill in front of or behind the function."""
    inner: Callable[..., Any] = getattr(point.owner, point.name)

    @functools.wraps(inner)
    def around(*args: Any, **kwargs: Any) -> Any:
        if not point.after:
            kill()
        result = inner(*args, **kwargs)
        if point.after:
            kill()
        return result

    @functools.wraps(inner)
    async def around_async(*args: Any, **kwargs: Any) -> Any:
        if not point.after:
            kill()
        result = await inner(*args, **kwargs)
        if point.after:
            kill()
        return result

    setattr(point.owner, point.name, around_async if inspect.iscoroutinefunction(inner) else around)


if __name__ == "__main__":
    name, passing, who, marker, *arguments = sys.argv[1:]
    if SLOW_SECONDS:
        add_finding()
    wrap({**ORCHESTRATOR, **WORKER, **SLOW_WORKER}[name], Killer(int(passing), Path(marker), everything=who == "all"))
    sys.argv = ["comment-monitor", *arguments]
    main()
