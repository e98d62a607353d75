"""The bounded queue of batches between the requests and the writers of one process."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from comment_monitor.core.errors import Draining, QueueFull
from comment_monitor.core.model import Comment, Outcome
from comment_monitor.observability import metrics
from comment_monitor.observability.correlation import RequestContext


class Batch:
    """Up to COMMENT_BATCH_SIZE comments of one request. `same_write`: write them together with the previous batch."""

    __slots__ = ("arrived", "comments", "outcomes", "request", "same_write")

    def __init__(self, request: "PendingRequest", comments: Sequence[Comment], *, same_write: bool):
        self.request = request
        self.comments = comments
        self.same_write = same_write
        self.outcomes: list[Outcome] | None = None
        self.arrived = time.perf_counter()

    def complete(self, outcomes: list[Outcome]) -> None:
        """Records the outcomes of the committed batch."""
        # A request that has ended releases the comments of its open batches itself.
        if not self.request.done.done():
            self.outcomes = outcomes
            self.request.batch_completed(len(outcomes))

    def fail(self, problem: Exception) -> None:
        """Fails the batch's request: the batch will not be committed."""
        if not self.request.done.done():
            self.request.done.set_exception(problem)


class PendingRequest:
    """The batches of one request; `done` completes with the last of them, or with the first failure."""

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
        self.done.add_done_callback(self._release_open)

    async def outcomes(self) -> list[Outcome]:
        """Waits until all comments are committed and returns the outcome of each, in order.

        If this call is cancelled, the queued batches are dropped.

        Raises:
            Exception: the exception with which a batch failed.
        """
        try:
            if self.batches:
                await self.done
            return [outcome for batch in self.batches for outcome in batch.outcomes or ()]
        finally:
            # Batches refer to their request: only the garbage collector would free such a cycle, a thousand at a time.
            self.batches.clear()

    def batch_completed(self, count: int) -> None:
        """Counts one committed batch of `count` comments."""
        self._release(count)
        self._open -= 1
        self._comments_open -= count
        if not self._open:
            self.done.set_result(None)

    def _release_open(self, _: "asyncio.Future[None]") -> None:
        if self._open:
            self._release(self._comments_open)


class ProcessingQueue:
    """Batches in order of arrival. The length counts comments, from acceptance until their batch is completed."""

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._waiting: deque[Batch] = deque()
        self._length = 0
        self._wakeup = asyncio.Condition()
        self._closed = False
        # Export the metric from the start.
        metrics.QUEUE_LENGTH.inc(0)

    def __len__(self) -> int:
        return self._length

    def require_capacity(self) -> None:
        """Raises QueueFull if the queue is full, so that a caller can check before it reads a request."""
        if self._length >= self._capacity:
            raise self._full()

    def _full(self) -> QueueFull:
        return QueueFull(f"{self._length} comments are waiting in this process; repeat the request later.")

    async def put(
        self, parts: Sequence[Sequence[Comment]], *, same_write: bool = False, context: RequestContext | None = None
    ) -> PendingRequest:
        """Accepts all parts or none.

        Raises:
            QueueFull: the queue is full. (A queue below its capacity accepts a request of any size: otherwise a large
                request could enter only while nobody else sends. So it exceeds its capacity by at most one request.)
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
        """Waits for and returns the oldest batches: at least one, or several with at most `limit` comments in total.

        A batch with `same_write` is included even above the limit. Drops batches whose request has ended: no request
        waits for them, and the client repeats them. Returns None once the queue is closed and empty.
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
        """Rejects new requests from now on; `take` still returns the queued batches."""
        self._closed = True
        async with self._wakeup:
            self._wakeup.notify_all()
