"""The Celery entry point: `celery -A comment_monitor.tasks worker`.

Each worker process has one event loop, in which it runs the batch processor.
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
    """One worker process: its event loop and its batch processor."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.stack = AsyncExitStack()
        self.worker: BatchProcessor = self.runner.run(self.stack.enter_async_context(open_worker(settings)))
        try:
            tracing.start(settings.otlp_endpoint, SERVICE)
        except ConfigurationError as error:
            # `comment-monitor worker` reports this at its start; comments are analysed without traces.
            logger.error("no_traces", reason=str(error))  # noqa: TRY400 - the reason is what matters

    def analyse(self, outbox_ids: Sequence[int], task_id: str, known: RequestContexts, *, redelivered: bool) -> None:
        """Analyses a task's batches; log lines have the task's id, and spans join the traces of the requests."""
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
        """Closes the connections, the event loop and the tracing."""
        self.runner.run(self.stack.aclose())
        self.runner.close()
        tracing.stop()


_process: Process | None = None


def process() -> Process:
    """Returns this process's worker, which opens at the first task, so that pools of any kind start the same way."""
    global _process  # noqa: PLW0603 - one per process is the point
    if _process is None:
        _process = Process()
    return _process


@app.task(name=ANALYSE, bind=True, Strategy="comment_monitor.messaging.coalescing:strategy")
def analyse_batch(self: "Task[Any, Any]", *outbox_ids: int) -> None:
    """Analyses the comments of outbox rows, of one message or of several that a busy worker combines."""
    info = self.request.delivery_info or {}
    known = correlation.decode((self.request.headers or {}).get(correlation.HEADER))
    process().analyse(outbox_ids, str(self.request.id), known, redelivered=bool(info.get("redelivered")))


def _log_from_signal(message: str, _file: object = None) -> None:
    logs.from_a_signal(worker_signals.__name__, message)


@signals.setup_logging.connect
def configure_logging(**_: object) -> None:
    """Sets up this program's log format instead of Celery's."""
    logs.configure(settings.log_level)
    # The pool's logger does not propagate by default, and Python prints lines of a logger without a handler
    # unformatted, such as that a process was killed.
    pool_logger().propagate = True
    # Celery prints messages of its signal handlers without a logger, and has no setting for that.
    worker_signals.safe_say = _log_from_signal  # type: ignore[attr-defined]
    log_level.follow(settings.log_level_file, settings.log_level)


@signals.worker_process_init.connect
def follow_log_level(**_: object) -> None:
    """Makes each process of the pool follow the log level file."""
    log_level.follow_after_fork()


@signals.worker_init.connect
def load_models(**_: object) -> None:
    """Loads the models once, before the pool forks, so that its processes share them."""
    warm_up()


@signals.worker_process_shutdown.connect
def close_process(**_: object) -> None:
    """Closes the connections of a process of the pool."""
    if _process is not None:
        _process.close()
