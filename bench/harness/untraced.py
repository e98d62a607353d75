"""The program without its trace code; the difference to the program shows the cost of tracing that is switched off.

python -m bench.harness.untraced <arguments of comment-monitor>
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import structlog

from comment_monitor.cli import main
from comment_monitor.messaging import publisher
from comment_monitor.messaging.producer import OutboxMessage
from comment_monitor.observability import metrics, tracing
from comment_monitor.observability.correlation import RequestContext
from comment_monitor.storage.postgres import Connection, Query


async def fetch(self: Connection, query: Query, *args: Any) -> Sequence[Any]:
    """Returns all rows."""
    started = time.perf_counter()
    try:
        return await self.raw.fetch(query.sql, *args)
    finally:
        metrics.DB_QUERY_DURATION.labels(query=query.name).observe(time.perf_counter() - started)


def send(self: publisher.Publisher, waiting: Sequence[Any]) -> None:
    """Sends a task for each group of outbox ids."""
    assert self._link  # noqa: S101 - as the original
    ids_per_message = self._ids_per_message
    groups = [waiting[at : at + ids_per_message] for at in range(0, len(waiting), ids_per_message)]
    messages = [
        OutboxMessage([row.outbox_id for row in group], {row.outbox_id: row.contexts for row in group if row.contexts})
        for group in groups
    ]
    self._link.send(messages)
    self._depth += len(waiting)
    self._sent = (self._sent[0] + len(waiting), self._sent[1] + len(messages))


def request_context() -> RequestContext | None:
    """Returns the context of the current request."""
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    return RequestContext(request_id) if request_id is not None else None


def span(*_: object, **__: object) -> AbstractContextManager[None]:
    """Creates no span."""
    return nullcontext()


if __name__ == "__main__":
    Connection.fetch = fetch  # type: ignore[method-assign]
    publisher.Publisher._send = send  # type: ignore[method-assign]  # noqa: SLF001
    tracing.span = span
    tracing.request_context = request_context
    main()
