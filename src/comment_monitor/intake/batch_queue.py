"""This process's bounded queue of batches between the requests and the writers."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from comment_monitor.core.errors import Draining, QueueFull
from comment_monitor.core.model import Comment, Outcome
from comment_monitor.observability import metrics
from comment_monitor.observability.correlation import RequestContext


class Batch:
    """Up to COMMENT_BATCH_SIZE comments of one request. `same_write`: they go into the write of the batch before it."""

    __slots__ = ("arrived", "comments", "outcomes", "request", "same_write")

    def __init__(self, request: "PendingRequest", comments: Sequence[Comment], *, same_write: bool):
        self.request = request
        self.comments = comments
        self.same_write = same_write
        self.outcomes: list[Outcome] | None = None
        self.arrived = time.perf_counter()

    def complete(self, outcomes: list[Outcome]) -> None:
        """It is committed."""
        # Of a request that was given up, all that was open is released already, or is about to be.
        if not self.request.done.done():
            self.outcomes = outcomes
            self.request.batch_completed(len(outcomes))

    def fail(self, problem: Exception) -> None:
        """It is not going to be committed, so its request is not either."""
        if not self.request.done.done():
            self.request.done.set_exception(problem)


class PendingRequest:
    """The batches of one request; `done` ends with the last of them, or with the first that fails."""

    __slots__ = ("_comments_open", "_open", "_release", "batches", "context", "done")

    def __init__(
        self,
        parts: Sequence[Sequence[Comment]],
        release: Callable[[int], None],
        *,
        same_write: bool,
        context: RequestContext | None = None,
    ):
        self.context = context
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.batches = [Batch(self, part, same_write=same_write and number > 0) for number, part in enumerate(parts)]
        self._open = len(parts)
        self._comments_open = sum(map(len, parts))
        self._release = release
        self.done.add_done_callback(self._given_up)

    async def outcomes(self) -> list[Outcome]:
        """The outcome of each comment, in order, once all are committed; cancelled, nobody waits for the rest any more.

        Raises:
            Exception: the one that a batch failed with.
        """
        try:
            if self.batches:
                await self.done
            return [outcome for batch in self.batches for outcome in batch.outcomes or ()]
        finally:
            # They refer to their request: in such a cycle only the collector would find them, a thousand at a time.
            self.batches.clear()

    def batch_completed(self, count: int) -> None:
        """One of them is, which had so many comments."""
        self._release(count)
        self._open -= 1
        self._comments_open -= count
        if not self._open:
            self.done.set_result(None)

    def _given_up(self, _: "asyncio.Future[None]") -> None:
        if self._open:
            self._release(self._comments_open)


class ProcessingQueue:
    """Batches in order of arrival. Its length counts comments, from acceptance until their batch is completed."""

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._waiting: deque[Batch] = deque()
        self._length = 0
        self._wakeup = asyncio.Condition()
        self._closed = False
        # From here on this process has a queue, and tells its length.
        metrics.QUEUE_LENGTH.inc(0)

    def __len__(self) -> int:
        return self._length

    def require_capacity(self) -> None:
        """Raises QueueFull where nothing more fits: known before a request is read."""
        if self._length >= self._capacity:
            raise self._full()

    def _full(self) -> QueueFull:
        return QueueFull(f"{self._length} comments are waiting in this process; repeat the request later.")

    async def put(
        self, parts: Sequence[Sequence[Comment]], *, same_write: bool = False, context: RequestContext | None = None
    ) -> PendingRequest:
        """Accepts all parts or none.

        Raises:
            QueueFull: the queue is full. (Into one that is not, any request fits, the largest too: it would otherwise
                wait for the moment at which nobody else sends anything. So it holds one request more at most.)
            Draining: the queue is closed.
        """
        if self._closed:
            raise Draining("This process is shutting down; repeat the request.")
        count = sum(map(len, parts))
        self.require_capacity()
        accepted = PendingRequest(parts, self._release, same_write=same_write, context=context)
        self._length += count
        metrics.QUEUE_LENGTH.inc(count)
        metrics.ATTEMPTS.inc(len(parts))
        self._waiting.extend(accepted.batches)
        async with self._wakeup:
            self._wakeup.notify()
        return accepted

    def _release(self, count: int) -> None:
        self._length -= count
        metrics.QUEUE_LENGTH.inc(-count)

    async def take(self, limit: int) -> list[Batch] | None:
        """The oldest batches, at least one, together at most `limit` comments; None once closed and empty.

        Batches whose request has given up are dropped: nobody waits for them, and their sender repeats them.
        """
        async with self._wakeup:
            while True:
                group: list[Batch] = []
                count = 0
                while self._waiting and (
                    not group or self._waiting[0].same_write or count + len(self._waiting[0].comments) <= limit
                ):
                    batch = self._waiting.popleft()
                    if not batch.request.done.done():
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
