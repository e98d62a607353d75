"""Starts the program so that it is killed, once, at a named point of the data flow.

    python -m tests.support.killpoints <point> <call> <self|all> <marker file> <arguments of comment-monitor>

The function of the point is wrapped from outside; the program is unchanged. `all` kills the whole process
group: a worker with its pool. The marker file is created at the kill, and disables every later kill.
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
    """A function of the program, and whether the kill precedes or follows it."""

    owner: Any
    name: str
    after: bool


ORCHESTRATOR: Final = {
    "before-add": Point(comments, "add", after=False),
    "after-add": Point(pipeline.Pipeline, "_add_new", after=True),
    "before-write": Point(comments, "write", after=False),
    "before-commit": Point(comments, "write", after=True),
    "after-commit": Point(pipeline.Pipeline, "_write_transaction", after=True),
    "before-publish": Point(publisher.Publisher, "publish", after=False),
    "after-publish": Point(publisher.Publisher, "_send", after=True),
    "before-response": Point(pipeline.Pipeline, "process", after=True),
}
WORKER: Final = {
    "before-load": Point(outbox, "load_batches", after=False),
    "after-load": Point(outbox, "load_batches", after=True),
    "before-save": Point(analyses, "save_results", after=False),
    "before-save-commit": Point(analyses, "save_results", after=True),
    "after-save-commit": Point(batch_processor.BatchProcessor, "_save", after=True),
}
# For resent rows and a slow analysis.
SLOW_WORKER: Final = {
    "before-count-starts": Point(batch_processor.BatchProcessor, "_count_starts", after=False),
    "after-count-starts": Point(batch_processor.BatchProcessor, "_count_starts", after=True),
    "before-shrink": Point(batch_processor.BatchProcessor, "_keep_row", after=False),
    "before-shrink-commit": Point(batch_processor.BatchProcessor, "_keep_row", after=True),
    "before-give-back": Point(batch_processor.BatchProcessor, "_give_back", after=False),
    "after-give-back": Point(batch_processor.BatchProcessor, "_give_back", after=True),
}


class Killer:
    """Kills at the given call, unless the marker shows an earlier kill."""

    def __init__(self, call: int, marker: Path, *, everything: bool):
        self._left = call
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
    """Wraps the function with the kill."""
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
    name, call, target, marker, *arguments = sys.argv[1:]
    if SLOW_SECONDS:
        add_finding()
    wrap({**ORCHESTRATOR, **WORKER, **SLOW_WORKER}[name], Killer(int(call), Path(marker), everything=target == "all"))
    sys.argv = ["comment-monitor", *arguments]
    main()
