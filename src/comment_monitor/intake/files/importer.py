"""Feeds a file's comments to the pipeline: in chunks, several of them concurrently, in constant memory."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress

from comment_monitor.core.errors import Problem
from comment_monitor.core.model import Comment, Outcome
from comment_monitor.intake.files.file_kind import FileError
from comment_monitor.intake.files.idle_reader import PausingInput
from comment_monitor.intake.files.numbered import BadLine, Numbered


async def feed(
    items: Iterable[Numbered | BadLine],
    submit: Callable[[list[Comment]], Awaitable[list[Outcome]]],
    *,
    chunk: int,
    in_flight: int,
    on_bad: Callable[[BadLine], None],
    pausing: PausingInput | None = None,
) -> None:
    """Feeds comments to the pipeline in chunks of `chunk` comments, at most `in_flight` chunks concurrently.

    Memory is bounded by `chunk * in_flight` comments. After the first error of the pipeline no further chunk starts;
    when the file can't be read further, the comments before that point are still stored. Chunks in flight are always
    completed. When `pausing`, the input behind `items`, pauses, an incomplete chunk is stored too.

    Raises:
        FileError: the file can't be read to its end.
        Problem: the pipeline's first error.
    """
    slots = asyncio.Semaphore(in_flight)
    failures: list[FileError | Problem] = []

    async def store(part: list[Numbered]) -> None:
        try:
            result: list[Outcome] = await submit([item.comment for item in part])
            for item, outcome in zip(part, result, strict=True):
                if outcome.status == "rejected":
                    on_bad(BadLine(item.line, item.comment.id, outcome.reason))
        except Problem as problem:
            failures.append(problem)
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        async for part in _ReadAhead(_Chunks(items, chunk, on_bad, failures), pausing).parts():
            await slots.acquire()
            if any(isinstance(failure, Problem) for failure in failures):
                break
            group.create_task(store(part))
    if failures:
        raise failures[0]


class _Chunks:
    """The comments in lists of `size`.

    If the file can't be read further, yields the comments before that point and adds the error to `failures`.
    """

    def __init__(
        self,
        items: Iterable[Numbered | BadLine],
        size: int,
        on_bad: Callable[[BadLine], None],
        failures: list[FileError | Problem],
    ):
        self._items = items
        self._size = size
        self._on_bad = on_bad
        self._failures = failures
        self._part: list[Numbered] = []

    def __iter__(self) -> Iterator[list[Numbered]]:
        try:
            for item in self._items:
                if isinstance(item, BadLine):
                    self._on_bad(item)
                    continue
                self._part.append(item)
                if len(self._part) == self._size:
                    yield self.take()
        except FileError as error:
            self._failures.append(error)
        if self._part:
            yield self.take()

    def take(self) -> list[Numbered]:
        """Takes the comments collected so far for the next list."""
        part, self._part = self._part, []
        return part


class _ReadAhead:
    """Reads in a separate thread, one part ahead, so that a pipe that pauses blocks no transaction and no earlier part.

    The thread is abandoned if it still waits for input when the import ends.
    """

    def __init__(self, chunks: _Chunks, pausing: PausingInput | None):
        self._chunks = chunks
        self._loop = asyncio.get_running_loop()
        self._ahead: asyncio.Queue[list[Numbered] | BaseException | None] = asyncio.Queue(maxsize=1)
        if pausing:
            pausing.on_pause = self._flush

    async def parts(self) -> AsyncIterator[list[Numbered]]:
        """Yields the lists as they become available."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        while (item := await self._ahead.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _read(self) -> None:
        # If the event loop has ended meanwhile, no consumer is left.
        with suppress(RuntimeError, CancelledError):
            try:
                for part in self._chunks:
                    self._hand_over(part)
                self._hand_over(None)
            except Exception as error:  # noqa: BLE001 - raised in the consumer
                self._hand_over(error)

    def _flush(self) -> None:
        if part := self._chunks.take():
            self._hand_over(part)

    def _hand_over(self, item: list[Numbered] | BaseException | None) -> None:
        taken: Future[None] = Future()
        # The coroutine is created within the loop, so none remains un-awaited if Ctrl-C ends the loop first.
        self._loop.call_soon_threadsafe(self._put, item, taken)
        taken.result()

    def _put(self, item: list[Numbered] | BaseException | None, taken: "Future[None]") -> None:
        task = self._loop.create_task(self._ahead.put(item))
        task.add_done_callback(lambda done: taken.cancel() if done.cancelled() else taken.set_result(None))
