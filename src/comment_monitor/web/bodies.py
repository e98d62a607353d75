"""Bounds the request bodies of one process: their bytes, their time, and which body is dropped when capacity is short.

A body counts from its first byte until its request is answered, because its comments are held as long.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final

from comment_monitor.core import errors
from comment_monitor.observability import metrics

if TYPE_CHECKING:
    from litestar.types import Receive

# Bytes up to which a body is small. A quarter of the capacity is reserved for small bodies, so that slow large bodies
# are no reason to refuse them.
SMALL: Final = 65_536
LARGE_SHARE: Final = 0.75
# Seconds without a byte after which a body is given up, and seconds for a whole body.
PATIENCE: Final = 30.0
LONGEST: Final = 600.0
# Seconds after a body's start in which its speed says nothing yet.
EARLY: Final = 5.0
# Seconds that a client gets for the rest of its request once this process drains.
GRACE: Final = 2.0
# Seconds between two checks of the bodies' timeouts.
CHECK_INTERVAL: Final = 1.0


class Body:
    """One request's body: its bytes so far, and the times of its reading."""

    __slots__ = ("_bodies", "began", "gives_up", "limit", "moved", "size")

    def __init__(self, bodies: "Bodies", now: float):
        self._bodies = bodies
        self.size = 0
        self.began = self.moved = now
        # While the body is being read: the timeout that ends the reading, and the reason if it was ended.
        self.limit: asyncio.Timeout | None = None
        self.gives_up: errors.Problem | None = None

    def speed(self, now: float) -> float:
        """Returns the average speed in bytes a second."""
        return self.size / (now - self.began)

    async def read(self, receive: "Receive", most: int) -> bytes:
        """Reads the whole body.

        Args:
            receive: the ASGI callable of the request.
            most: the number of bytes that the body may have.

        Raises:
            Overloaded: this process has no free capacity for the body, or needs its capacity for a faster one.
            BodyTooSlow: no byte came for too long, or the whole body took too long.
            Draining: this process is shutting down, and the rest did not come within the grace period.
            TooLarge: the body has more bytes.
            Incomplete: the connection ended.
        """
        chunks: list[bytes] = []
        try:
            async with self._bodies.reading(self):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise errors.Incomplete("The connection ended before the request did.")
                    if chunk := message["body"]:
                        if self.size + len(chunk) > most:
                            raise errors.TooLarge(f"A request may hold at most {most} bytes.")
                        self.grow(len(chunk))
                        chunks.append(chunk)
                    if not message["more_body"]:
                        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except TimeoutError:
            raise self.gives_up or errors.Draining(
                "This process shut down before the request was complete; repeat it."
            ) from None

    def grow(self, count: int) -> None:
        """Adds `count` bytes to the body.

        Raises:
            Overloaded: this process has no free capacity for them.
        """
        self._bodies.take(self, count)
        self.moved = asyncio.get_running_loop().time()

    def give_up(self, problem: errors.Problem) -> None:
        """Ends the reading with this problem, at the reader's next turn."""
        if self.limit and not self.gives_up and not self.limit.expired():
            self.gives_up = problem
            self.limit.reschedule(asyncio.get_running_loop().time())


class Bodies:
    """All bodies of one process, with a capacity in bytes.

    When the capacity is used up, the slowest of the bodies that are still being read are given up, if they had time to
    show their speed and if that frees enough: a large, slow body must not block the others. A large body replaces
    large bodies only.
    """

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._held = 0
        self._large = 0
        self._reading: set[Body] = set()
        self._ends: float | None = None

    @property
    def held(self) -> int:
        """Bytes of all bodies at the moment."""
        return self._held

    @contextmanager
    def hold(self) -> Iterator[Body]:
        """Yields a new body, and releases its bytes at the end of the block."""
        body = Body(self, asyncio.get_running_loop().time())
        try:
            yield body
        finally:
            self._release(body)

    def reading(self, body: Body) -> "_Reading":
        """Returns a context manager for reading the body; giving the body up raises TimeoutError in it."""
        return _Reading(body, self._reading, self._ends)

    def take(self, body: Body, count: int) -> None:
        """Gives a body capacity for `count` more bytes.

        Raises:
            Overloaded: there is no free capacity.
        """
        size = body.size + count
        if not self._fits(body, size):
            for slow in self._replaceable(body, size):
                slow.give_up(errors.Overloaded("A faster request needed the capacity of this one; repeat it."))
                self._reading.discard(slow)
                self._release(slow)
        self._held += count
        if size > SMALL:
            self._large += count if body.size > SMALL else size
        body.size = size

    def _fits(self, body: Body, size: int, *, without: Sequence[Body] = ()) -> bool:
        held = self._held - body.size + size - sum(other.size for other in without)
        large = self._large - sum(other.size for other in (body, *without) if other.size > SMALL)
        if size > SMALL:
            # A single large body always fits: otherwise a body above the capacity would be refused forever.
            return not large or (held <= self._capacity and large + size <= self._capacity * LARGE_SHARE)
        return held <= self._capacity or held - large <= self._capacity * (1 - LARGE_SHARE)

    def _replaceable(self, body: Body, size: int) -> list[Body]:
        """Returns the slowest bodies, as many as `body` has to replace; a large body replaces large bodies only.

        Raises:
            Overloaded: all slower bodies would not be enough; then none is replaced.
        """
        now = asyncio.get_running_loop().time()
        least = SMALL if size > SMALL else 0
        known = [other for other in self._reading if now - other.began > EARLY and other.size > least]
        chosen: list[Body] = []
        for slow in sorted(known, key=lambda other: other.speed(now)):
            if slow is body:
                break
            chosen.append(slow)
            if self._fits(body, size, without=chosen):
                return chosen
        raise errors.Overloaded("This process holds as many bytes of requests as it may; repeat the request.")

    def _release(self, body: Body) -> None:
        self._held -= body.size
        if body.size > SMALL:
            self._large -= body.size
        body.size = 0

    def drain(self) -> None:
        """Ends all reading after the grace period, which begins now."""
        self._ends = asyncio.get_running_loop().time() + GRACE
        for body in self._reading:
            if body.limit and not body.gives_up:
                body.limit.reschedule(self._ends)

    async def watch(self) -> None:
        """Checks the timeouts of all bodies each second, forever: a timer for each body would cost more."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            self.check(loop.time())
            metrics.BODY_BYTES.set(self._held)

    def check(self, now: float) -> None:
        """Gives up the bodies that have kept this process waiting for too long.

        Args:
            now: the loop's time in seconds.
        """
        for body in tuple(self._reading):
            if now - body.moved > PATIENCE:
                body.give_up(_too_slow(f"Nothing came for {PATIENCE:.0f} seconds; repeat the request."))
            elif now - body.began > LONGEST:
                body.give_up(_too_slow(f"It took more than {LONGEST:.0f} seconds; send less at once."))


def _too_slow(detail: str) -> errors.BodyTooSlow:
    # The connection closes, because nothing waits for the rest of the body.
    return errors.BodyTooSlow(detail, headers={"Connection": "close"})


class _Reading:
    """The context manager of `Bodies.reading`; a class, because a generator costs more on each request."""

    __slots__ = ("_all", "_body", "_limit")

    def __init__(self, body: Body, reading: set[Body], ends: float | None):
        self._body = body
        self._all = reading
        self._limit = asyncio.timeout_at(ends)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._body.limit = self._limit
        self._all.add(self._body)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.discard(self._body)
        # Raises TimeoutError if the timeout ended the block.
        await self._limit.__aexit__(kind, error, trace)
