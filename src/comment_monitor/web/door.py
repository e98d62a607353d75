"""All connections of this process: the limit on their number, and the one timer that ends stalled connections."""

import asyncio
import resource
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from comment_monitor.observability import logs, metrics
from comment_monitor.web.connection import Connection
from comment_monitor.web.refusals import Refusals

logger = logs.get(__name__)

# Seconds between two checks of the connections.
CHECK_INTERVAL: Final = 1.0
# Connections that are accepted above the limit, so that probes get an answer and other requests a 503.
EXCESS: Final = 64
# Bytes of answers that are buffered for clients that do not read them.
ANSWERS: Final = 64 * 1024 * 1024
# File descriptors that this process needs for itself: connections to servers, logs, metrics.
OWN_FILES: Final = 128
MOST_FILES: Final = 65_536


class Door:
    """Counts connections and enforces their limit.

    Above the limit, the connection that has been idle longest is closed. If none is idle, the new connection is
    accepted all the same, because `/health` has to be answered in a flood too; its other requests are answered 503.
    """

    def __init__(self, limit: int):
        self.limit = min(limit, open_files() - OWN_FILES - EXCESS)
        if self.limit < limit:
            logger.warning("connections_limited", limit=self.limit, wanted=limit, reason="the system's limit of files")
        self._all: set[Connection] = set()
        # In order of arrival: the loop's clock counts milliseconds, and of two connections idle since the same
        # millisecond the first is closed.
        self._inside: dict[Connection, None] = {}
        self._excess: dict[Connection, None] = {}
        # Connections whose client does not read its answers, the longest stalled first.
        self._stuck: dict[Connection, None] = {}
        self._refusals = Refusals()

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, connection: Connection) -> None:
        """Registers a new connection."""
        self._all.add(connection)
        if len(self._inside) < self.limit or self._close_idle():
            self._inside[connection] = None
            return
        connection.excess = True
        self._excess[connection] = None
        if len(self._excess) > EXCESS:
            oldest = next(iter(self._excess))
            del self._excess[oldest]
            oldest.transport.abort()

    def leave(self, connection: Connection) -> None:
        """Removes a lost connection; the oldest one above the limit may take its place."""
        self._all.discard(connection)
        self._inside.pop(connection, None)
        self._excess.pop(connection, None)
        self._stuck.pop(connection, None)
        if self._excess and len(self._inside) < self.limit:
            oldest = next(iter(self._excess))
            del self._excess[oldest]
            oldest.excess = False
            self._inside[oldest] = None

    def _close_idle(self) -> bool:
        candidates = (connection for connection in self._inside if connection.idle)
        idle = min(candidates, key=lambda connection: connection.idle_since, default=None)
        if idle is None:
            return False
        del self._inside[idle]
        idle.transport.close()
        return True

    def stuck(self, connection: Connection) -> None:
        """Notes that a client has stopped reading its answer.

        The bytes buffered for such clients are bounded: above the bound, the longest stalled connections are aborted.
        """
        self._stuck[connection] = None
        kept = sum(stalled.unsent for stalled in self._stuck)
        for stalled in tuple(self._stuck):
            if kept <= ANSWERS or stalled is connection:
                return
            kept -= stalled.unsent
            del self._stuck[stalled]
            stalled.transport.abort()
            self._refusals.note("answer-not-taken")

    def moves(self, connection: Connection) -> None:
        """Notes that the client reads its answer again."""
        self._stuck.pop(connection, None)

    def refused(self, status: HTTPStatus) -> None:
        """Counts a request that its connection refused without the application."""
        metrics.count_error("bad-http")
        self._refusals.note("bad-http", status=status.value)

    async def watch(self) -> None:
        """Checks every connection each second, forever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            now = loop.time()
            for connection in tuple(self._all):
                connection.check(now)
            metrics.CONNECTIONS.set(len(self))


def open_files() -> int:
    """Raises this process's limit of open files as far as the system allows, and returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # The system may accept less than the limit that it reports.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft
