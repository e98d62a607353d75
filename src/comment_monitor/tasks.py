"""The Celery side: `celery -A comment_monitor.tasks worker`.

A worker process holds one event loop and enters the core through it.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog
import uvloop
from billiard.util import get_logger as pool_logger
from celery import Celery, Task, signals
from celery.apps import worker as worker_signals

from comment_monitor.analysis.batch_processor import BatchProcessor, open_worker
from comment_monitor.analysis.engine import warm_up
from comment_monitor.core.config import load
from comment_monitor.core.errors import ConfigurationError
from comment_monitor.messaging.celery_app import ANALYSE, make_celery
from comment_monitor.observability import correlation, log_level, logs, tracing
from comment_monitor.observability.correlation import RequestContexts, unique

SERVICE: Final = "comment-worker"
SPAN: Final = "analyse comment-analysis"

logger = logs.get(__name__)
settings = load()
app: Celery = make_celery(settings)


class Process:
    """One worker process: its event loop and its worker."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.stack = AsyncExitStack()
        self.worker: BatchProcessor = self.runner.run(self.stack.enter_async_context(open_worker(settings)))
        try:
            tracing.start(settings.otlp_endpoint, SERVICE)
        except ConfigurationError as error:
            # `comment-monitor worker` says it at its start; comments are analysed all the same.
            logger.error("no_traces", reason=str(error))  # noqa: TRY400 - the reason is what matters

    def analyse(self, outbox_ids: Sequence[int], task_id: str, known: RequestContexts, *, redelivered: bool) -> None:
        """Analyses a task's batches; its lines bear its id, its spans are in the traces of the requests behind it."""
        self.runner.run(self._analyse(outbox_ids, task_id, known, redelivered))

    async def _analyse(
        self, outbox_ids: Sequence[int], task_id: str, known: RequestContexts, redelivered: bool
    ) -> None:
        requests = unique(known) if tracing.on() else ()
        with (
            structlog.contextvars.bound_contextvars(task_id=task_id),
            tracing.Several(SPAN, "CONSUMER", requests, messaging__message__id=task_id, batches=len(outbox_ids)),
        ):
            await self.worker.analyse_batches(outbox_ids, redelivered=redelivered, known=known)

    def close(self) -> None:
        """Gives back the connections."""
        self.runner.run(self.stack.aclose())
        self.runner.close()
        tracing.stop()


_process: Process | None = None


def process() -> Process:
    """This process's worker, opened with its first task: a pool of any kind starts the same way."""
    global _process  # noqa: PLW0603 - one per process is the point
    if _process is None:
        _process = Process()
    return _process


@app.task(name=ANALYSE, bind=True, Strategy="comment_monitor.messaging.coalescing:strategy")
def analyse_batch(self: "Task[Any, Any]", *outbox_ids: int) -> None:
    """Analyses the comments of outbox rows: those of a message, or of several, as a busy worker takes them."""
    info = self.request.delivery_info or {}
    known = correlation.decode((self.request.headers or {}).get(correlation.HEADER))
    process().analyse(outbox_ids, str(self.request.id), known, redelivered=bool(info.get("redelivered")))


def _say(words: str, _file: object = None) -> None:
    logs.from_a_signal(worker_signals.__name__, words)


@signals.setup_logging.connect
def configure_logging(**_: object) -> None:
    """Our log format instead of Celery's."""
    logs.configure(settings.log_level)
    # It keeps to itself, and what has no handler Python prints as it is: that a process was killed, for one.
    pool_logger().propagate = True
    # What it says within a signal's handler it prints, past every logger; there is no setting for it.
    worker_signals.safe_say = _say  # type: ignore[attr-defined]
    log_level.follow(settings.log_level_file, settings.log_level)


@signals.worker_process_init.connect
def follow_log_level(**_: object) -> None:
    """Each process of the pool follows the level by itself."""
    log_level.follow_after_fork()


@signals.worker_init.connect
def load_models(**_: object) -> None:
    """Loads the models once, before the pool forks, so that its processes share them."""
    warm_up()


@signals.worker_process_shutdown.connect
def close_process(**_: object) -> None:
    """Leaves no connection behind."""
    if _process is not None:
        _process.close()
