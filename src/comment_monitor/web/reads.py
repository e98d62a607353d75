"""Bounds concurrent reads, so that slow searches block neither other reads nor other clients.

Three kinds share the pool. Searches may take half of its connections, lists all but one, and lookups of one comment
any: a lookup finds a connection whatever the searches do.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Final

from comment_monitor.core import errors

# Seconds that a read waits at most for a connection, and reads under way for each connection, waiting ones included.
PATIENCE: Final = 5.0
WAITING: Final = 25
# Of the reads that one client may have under way, one in SEARCHES may be a search.
SEARCHES: Final = 4


class Kind(Enum):
    """The cost of a read: a lookup uses an index, a list pages in an index's order, a search may scan every row."""

    LOOKUP = "lookup"
    LIST = "list"
    SEARCH = "search"


class Reads:
    """The reads of one process.

    Args:
        connections: the number of connections in the pool for reading.
        per_client: reads that one client may have under way at a time, waiting ones included; 0: any number.
    """

    def __init__(self, connections: int, per_client: int):
        self._per_client = per_client
        self._searches_per_client = max(1, per_client // SEARCHES)
        self._lookups = asyncio.Semaphore(connections)
        self._lists = asyncio.Semaphore(max(1, connections - 1))
        self._searches = asyncio.Semaphore(max(1, connections // 2))
        self._most_waiting = connections * WAITING
        self.under_way = 0
        self._of: Counter[str] = Counter()
        self._searches_of: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(self, client: str, kind: Kind) -> AsyncIterator[None]:
        """Reserves a connection of the pool for one read until the end of the block.

        Raises:
            TooManyReads: this client has its maximum of reads under way.
            ReadsBusy: no connection became free in time, or too many reads wait.
        """
        self._require(client, kind)
        self.under_way += 1
        self._of[client] += 1
        self._searches_of[client] += kind is Kind.SEARCH
        taken: list[asyncio.Semaphore] = []
        try:
            try:
                async with asyncio.timeout(PATIENCE):
                    for gate in self._gates(kind):
                        await gate.acquire()
                        taken.append(gate)
            except TimeoutError:
                raise _busy() from None
            yield
        finally:
            for gate in reversed(taken):
                gate.release()
            self.under_way -= 1
            _less(self._of, client, 1)
            _less(self._searches_of, client, kind is Kind.SEARCH)

    def _require(self, client: str, kind: Kind) -> None:
        if self._per_client:
            if self._of[client] >= self._per_client:
                raise _too_many(self._per_client, "reads")
            if kind is Kind.SEARCH and self._searches_of[client] >= self._searches_per_client:
                raise _too_many(self._searches_per_client, "searches")
        if self.under_way >= self._most_waiting:
            raise _busy()

    def _gates(self, kind: Kind) -> tuple[asyncio.Semaphore, ...]:
        # The narrowest gate first: a read that waits there holds no place at a wider one.
        return {
            Kind.LOOKUP: (self._lookups,),
            Kind.LIST: (self._lists, self._lookups),
            Kind.SEARCH: (self._searches, self._lists, self._lookups),
        }[kind]


def _less(counter: Counter[str], client: str, amount: int) -> None:
    # A client without reads leaves no entry behind.
    counter[client] -= amount
    if counter[client] <= 0:
        del counter[client]


def _too_many(most: int, kind: str) -> errors.TooManyReads:
    return errors.TooManyReads(f"One client may have {most} {kind} under way at a time; wait for an answer.")


def _busy() -> errors.ReadsBusy:
    return errors.ReadsBusy("Other reads take all connections; repeat the request, or narrow it with `post_id`.")
