"""The bodies of requests that one process holds: how many bytes, for how long, and who gives way where room is short.

A body counts from its first byte until its request is answered, for what is made of it is held as long.
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

# Bytes up to which a body is small: a quarter of the room is left to such, for large ones that crawl are no reason
# to refuse them.
SMALL: Final = 65_536
LARGE_SHARE: Final = 0.75
# Seconds without a byte after which a body is given up, and seconds for the whole of one.
PATIENCE: Final = 30.0
LONGEST: Final = 600.0
# Seconds within which a body's speed says nothing yet.
EARLY: Final = 5.0
# Seconds that a client gets for the rest of its request once this process takes no new ones.
GRACE: Final = 2.0
# Seconds between two looks at the clocks of the bodies.
LOOK_EVERY: Final = 1.0


class Body:
    """One request's body: its bytes so far, and the clock of its reading."""

    __slots__ = ("_bodies", "began", "gives_up", "limit", "moved", "size")

    def __init__(self, bodies: "Bodies", now: float):
        self._bodies = bodies
        self.size = 0
        self.began = self.moved = now
        # While it is being read: what ends the reading, and why where something did.
        self.limit: asyncio.Timeout | None = None
        self.gives_up: errors.Problem | None = None

    def speed(self, now: float) -> float:
        """Bytes a second."""
        return self.size / (now - self.began)

    async def read(self, receive: "Receive", most: int) -> bytes:
        """All of it.

        Args:
            receive: the ASGI callable of its request.
            most: bytes that it may have.

        Raises:
            Overloaded: this process has no room for it, or needs the room for a faster one.
            BodyTooSlow: nothing came for too long, or the whole took too long.
            Draining: this process is on its way out, and the rest did not come within the grace.
            TooLarge: it has more bytes.
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
        """So many bytes more.

        Raises:
            Overloaded: there is no room for them.
        """
        self._bodies.take(self, count)
        self.moved = asyncio.get_running_loop().time()

    def give_up(self, problem: errors.Problem) -> None:
        """Ends its reading, at the reader's next turn."""
        if self.limit and not self.gives_up and not self.limit.expired():
            self.gives_up = problem
            self.limit.reschedule(asyncio.get_running_loop().time())


class Bodies:
    """Room for so many bytes.

    Where it is used up, the slowest of the bodies that are still being read lose their places, if they had time to
    show their speed and if that is enough: who holds much and sends little is not to hold up the rest. A large one
    takes the places of large ones only.
    """

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._held = 0
        self._large = 0
        self._reading: set[Body] = set()
        self._ends: float | None = None

    @property
    def held(self) -> int:
        """Bytes at the moment."""
        return self._held

    @contextmanager
    def hold(self) -> Iterator[Body]:
        """A body; its bytes are free again at the end of the block."""
        body = Body(self, asyncio.get_running_loop().time())
        try:
            yield body
        finally:
            self._release(body)

    def reading(self, body: Body) -> "_Reading":
        """The body is being read: within this it can be given up, by a TimeoutError."""
        return _Reading(body, self._reading, self._ends)

    def take(self, body: Body, count: int) -> None:
        """Gives a body room for so many bytes more.

        Raises:
            Overloaded: there is none.
        """
        size = body.size + count
        if not self._fits(body, size):
            for slow in self._who_gives_way(body, size):
                slow.give_up(errors.Overloaded("A faster request needed the room of this one; repeat it."))
                self._reading.discard(slow)
                self._release(slow)
        self._held += count
        if size > SMALL:
            self._large += count if body.size > SMALL else size
        body.size = size

    def _fits(self, body: Body, size: int, *, without: Sequence[Body] = ()) -> bool:
        held = self._held - body.size + size - sum(one.size for one in without)
        large = self._large - sum(one.size for one in (body, *without) if one.size > SMALL)
        if size > SMALL:
            # The only large one fits always: else one above the room would be refused for ever.
            return not large or (held <= self._capacity and large + size <= self._capacity * LARGE_SHARE)
        return held <= self._capacity or held - large <= self._capacity * (1 - LARGE_SHARE)

    def _who_gives_way(self, body: Body, size: int) -> list[Body]:
        """The slowest, as many as are needed; a large one takes the place of large ones only.

        Raises:
            Overloaded: all who are slower would not be enough, and then none gives way.
        """
        now = asyncio.get_running_loop().time()
        known = [one for one in self._reading if now - one.began > EARLY and one.size > (SMALL if size > SMALL else 0)]
        chosen: list[Body] = []
        for slow in sorted(known, key=lambda one: one.speed(now)):
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
        """From now on what is being read has the grace to be complete."""
        self._ends = asyncio.get_running_loop().time() + GRACE
        for body in self._reading:
            if body.limit and not body.gives_up:
                body.limit.reschedule(self._ends)

    async def watch(self) -> None:
        """Looks at the clocks of all bodies each second, for ever: a timer for each would cost more."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self.look(loop.time())
            metrics.BODY_BYTES.set(self._held)

    def look(self, now: float) -> None:
        """Gives up what kept us waiting for too long.

        Args:
            now: the loop's time.
        """
        for body in tuple(self._reading):
            if now - body.moved > PATIENCE:
                body.give_up(_too_slow(f"Nothing came for {PATIENCE:.0f} seconds; repeat the request."))
            elif now - body.began > LONGEST:
                body.give_up(_too_slow(f"It took more than {LONGEST:.0f} seconds; send less at once."))


def _too_slow(detail: str) -> errors.BodyTooSlow:
    # Its rest is not waited for either.
    return errors.BodyTooSlow(detail, headers={"Connection": "close"})


class _Reading:
    """What `Bodies.reading` returns; by hand, for a generator's way costs more on each request."""

    __slots__ = ("_all", "_body", "_limit")

    def __init__(self, body: Body, everyone: set[Body], ends: float | None):
        self._body = body
        self._all = everyone
        self._limit = asyncio.timeout_at(ends)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._body.limit = self._limit
        self._all.add(self._body)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.discard(self._body)
        # It raises TimeoutError where it ended the block.
        await self._limit.__aexit__(kind, error, trace)
