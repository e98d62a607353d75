"""All connections of this process: how many there may be, and the one clock that ends those which keep it waiting."""

import asyncio
import resource
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from comment_monitor.observability import logs, metrics
from comment_monitor.web.connection import Connection
from comment_monitor.web.refusals import Refusals

logger = logs.get(__name__)

# Seconds between two looks at the connections.
LOOK_EVERY: Final = 1.0
# Connections beyond the limit that are heard, so that a probe is answered and the rest is told to come back.
EXCESS: Final = 64
# Bytes of answers that are kept for clients which do not take them.
ANSWERS: Final = 64 * 1024 * 1024
# Files that this process needs for itself: its servers, logs, metrics.
OWN_FILES: Final = 128
MOST_FILES: Final = 65_536


class Door:
    """Counts connections.

    Beyond the limit the connection that has been idle longest makes room. Where none is idle, a new one is heard
    nevertheless, for `/health` has to be answered in a flood too, but its other requests are answered 503.
    """

    def __init__(self, limit: int):
        self.limit = min(limit, open_files() - OWN_FILES - EXCESS)
        if self.limit < limit:
            logger.warning("connections_limited", limit=self.limit, wanted=limit, reason="the system's limit of files")
        self._all: set[Connection] = set()
        # In the order in which they came: the loop's clock counts milliseconds, and of two that are idle since the same
        # one the first goes.
        self._inside: dict[Connection, None] = {}
        self._excess: dict[Connection, None] = {}
        # Whose answers are not taken, the longest first.
        self._stuck: dict[Connection, None] = {}
        self._refusals = Refusals()

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, connection: Connection) -> None:
        """A connection is made."""
        self._all.add(connection)
        if len(self._inside) < self.limit or self._make_room():
            self._inside[connection] = None
            return
        connection.excess = True
        self._excess[connection] = None
        if len(self._excess) > EXCESS:
            oldest = next(iter(self._excess))
            del self._excess[oldest]
            oldest.transport.abort()

    def leave(self, connection: Connection) -> None:
        """A connection is lost."""
        self._all.discard(connection)
        self._inside.pop(connection, None)
        self._excess.pop(connection, None)
        self._stuck.pop(connection, None)
        if self._excess and len(self._inside) < self.limit:
            oldest = next(iter(self._excess))
            del self._excess[oldest]
            oldest.excess = False
            self._inside[oldest] = None

    def _make_room(self) -> bool:
        idle = min((one for one in self._inside if one.idle), key=lambda one: one.idle_since, default=None)
        if idle is None:
            return False
        del self._inside[idle]
        idle.transport.close()
        return True

    def stuck(self, connection: Connection) -> None:
        """Its client takes no more of its answer.

        What such clients leave to us to keep is bounded: the first to go is the one that takes nothing for longest.
        """
        self._stuck[connection] = None
        kept = sum(one.unsent for one in self._stuck)
        for one in tuple(self._stuck):
            if kept <= ANSWERS or one is connection:
                return
            kept -= one.unsent
            del self._stuck[one]
            one.transport.abort()
            self._refusals.note("answer-not-taken")

    def moves(self, connection: Connection) -> None:
        """It takes more."""
        self._stuck.pop(connection, None)

    def refused(self, status: HTTPStatus) -> None:
        """A connection answered for itself."""
        metrics.count_error("bad-http")
        self._refusals.note("bad-http", status=status.value)

    async def watch(self) -> None:
        """Looks at every connection each second, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            now = loop.time()
            for connection in tuple(self._all):
                connection.look(now)
            metrics.CONNECTIONS.set(len(self))


def open_files() -> int:
    """How many files this process may have open: as many as the system lets it have, from here on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # A system may take less than it says.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft
