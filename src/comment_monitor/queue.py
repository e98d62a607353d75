"""This process's bounded queue of batches between the requests and the writers."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

from comment_monitor import metrics
from comment_monitor.errors import Draining, QueueFull
from comment_monitor.model import Comment, Fate


class Batch:
    """Up to COMMENT_BATCH_SIZE comments of one request; `done` gets the fate of each, or the error."""

    __slots__ = ("arrived", "comments", "done", "joined")

    def __init__(self, comments: Sequence[Comment], done: "asyncio.Future[list[Fate]]", *, joined: bool = False):
        self.comments = comments
        self.joined = joined
        self.done = done
        self.arrived = time.perf_counter()


class ProcessingQueue:
    """Batches in order of arrival. Its length counts comments, from acceptance until their batch is settled."""

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._waiting: deque[Batch] = deque()
        self._length = 0
        self._wakeup = asyncio.Condition()
        self._closed = False

    def __len__(self) -> int:
        return self._length

    async def put(self, parts: Sequence[Sequence[Comment]], *, joined: bool = False) -> list[Batch]:
        """Accepts all parts or none.

        Raises:
            QueueFull: they do not fit. (Into an empty queue anything fits: a request above the capacity would
                otherwise be refused for ever.)
            Draining: the queue is closed.
        """
        if self._closed:
            raise Draining("This process is shutting down; repeat the request.")
        count = sum(map(len, parts))
        if self._length and self._length + count > self._capacity:
            raise QueueFull(f"{self._length} comments are waiting in this process; repeat the request later.")
        loop = asyncio.get_running_loop()
        batches = [Batch(part, loop.create_future(), joined=joined and number > 0) for number, part in enumerate(parts)]
        for batch in batches:
            batch.done.add_done_callback(partial(self._settle, len(batch.comments)))
        self._length += count
        metrics.QUEUE_LENGTH.inc(count)
        metrics.ATTEMPTS.inc(len(batches))
        self._waiting.extend(batches)
        async with self._wakeup:
            self._wakeup.notify()
        return batches

    def _settle(self, count: int, _: "asyncio.Future[list[Fate]]") -> None:
        self._length -= count
        metrics.QUEUE_LENGTH.dec(count)

    async def take(self, limit: int) -> list[Batch] | None:
        """The oldest batches, at least one, together at most `limit` comments; None once closed and empty.

        Batches whose request has given up are dropped: nobody waits for them, and their sender repeats them.
        """
        async with self._wakeup:
            while True:
                group: list[Batch] = []
                count = 0
                while self._waiting and (
                    not group or self._waiting[0].joined or count + len(self._waiting[0].comments) <= limit
                ):
                    batch = self._waiting.popleft()
                    if not batch.done.done():
                        group.append(batch)
                        count += len(batch.comments)
                if group:
                    if self._waiting:
                        self._wakeup.notify()
                    return group
                if self._closed:
                    return None
                await self._wakeup.wait()

    async def close(self) -> None:
        """No more is accepted; what is waiting is still handed out."""
        self._closed = True
        async with self._wakeup:
            self._wakeup.notify_all()
