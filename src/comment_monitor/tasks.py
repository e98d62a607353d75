"""The Celery side: `celery -A comment_monitor.tasks worker`.

A worker process holds one event loop and enters the core through it.
"""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import uvloop
from celery import Celery, Task, signals

from comment_monitor import log
from comment_monitor.analysis import warm_up
from comment_monitor.broker import ANALYSE, make_celery
from comment_monitor.config import load
from comment_monitor.worker import Worker, open_worker

settings = load()
app: Celery = make_celery(settings)


class Process:
    """One worker process: its event loop and its worker."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.stack = AsyncExitStack()
        self.worker: Worker = self.runner.run(self.stack.enter_async_context(open_worker(settings)))

    def close(self) -> None:
        """Gives back the connections."""
        self.runner.run(self.stack.aclose())
        self.runner.close()


_process: Process | None = None


def process() -> Process:
    """This process's worker, opened with its first task: a pool of any kind starts the same way."""
    global _process  # noqa: PLW0603 - one per process is the point
    if _process is None:
        _process = Process()
    return _process


@app.task(name=ANALYSE, bind=True, Strategy="comment_monitor.gathering:strategy")
def analyse_batch(self: "Task[Any, Any]", *outbox_ids: int) -> None:
    """Analyses the comments of outbox rows: those of a message, or of several, as a busy worker takes them."""
    info = self.request.delivery_info or {}
    here = process()
    here.runner.run(here.worker.analyse_batches(outbox_ids, redelivered=bool(info.get("redelivered"))))


@signals.setup_logging.connect
def configure_logging(**_: object) -> None:
    """Our log format instead of Celery's."""
    log.configure(settings.log_level)


@signals.worker_init.connect
def load_models(**_: object) -> None:
    """Loads the models once, before the pool forks, so that its processes share them."""
    warm_up()


@signals.worker_process_shutdown.connect
def close_process(**_: object) -> None:
    """Leaves no connection behind."""
    if _process is not None:
        _process.close()
