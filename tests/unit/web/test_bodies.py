"""Which request bodies are dropped when their capacity is used up: the slowest, but no small body for a large one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

import pytest
from tests.conftest import until

from comment_monitor.core import errors
from comment_monitor.web.bodies import EARLY, SMALL, Bodies, Body

KIB: Final = 1024
CAPACITY: Final = 4096 * KIB
# Large bodies may use three quarters of the capacity.
LARGE_CAPACITY: Final = CAPACITY * 3 // 4


class OpenBodies:
    """Bodies that are being read, and never end."""

    def __init__(self, stack: AsyncExitStack):
        self._stack = stack
        self.bodies = Bodies(CAPACITY)

    async def body(self, size: int, *, age: float = EARLY + 5) -> Body:
        """Returns a body with `size` bytes that began `age` seconds ago."""
        body = self._stack.enter_context(self.bodies.hold())
        reading = asyncio.create_task(self._read(body))
        self._stack.callback(reading.cancel)
        await until(lambda: body.limit)
        body.began -= age
        self.bodies.take(body, size)
        return body

    async def _read(self, body: Body) -> None:
        """Waits until the body is dropped; no further byte arrives."""
        with suppress(TimeoutError):
            async with self.bodies.reading(body):
                await asyncio.Event().wait()


@asynccontextmanager
async def open_bodies() -> AsyncIterator[OpenBodies]:
    async with AsyncExitStack() as stack:
        yield OpenBodies(stack)


async def test_the_slowest_body_is_dropped_and_no_more_than_needed() -> None:
    async with open_bodies() as opened:
        slow = await opened.body(LARGE_CAPACITY // 3, age=60)
        others = [await opened.body(LARGE_CAPACITY // 3) for _ in range(2)]
        await opened.body(LARGE_CAPACITY // 3, age=0)
        assert isinstance(slow.gives_up, errors.Overloaded)
        assert [other.gives_up for other in others] == [None, None]
        assert opened.bodies.held == LARGE_CAPACITY // 3 * 3


async def test_a_body_without_a_measured_speed_is_not_dropped() -> None:
    async with open_bodies() as opened:
        young = await opened.body(LARGE_CAPACITY, age=EARLY - 1)
        with pytest.raises(errors.Overloaded):
            await opened.body(2 * SMALL, age=0)
        assert young.gives_up is None


async def test_no_body_is_dropped_if_that_would_not_free_enough() -> None:
    async with open_bodies() as opened:
        young = await opened.body(LARGE_CAPACITY - 4 * SMALL, age=0)
        slow = await opened.body(2 * SMALL)
        with pytest.raises(errors.Overloaded):
            await opened.body(8 * SMALL, age=0)
        assert (young.gives_up, slow.gives_up) == (None, None)


async def test_small_bodies_keep_a_quarter_and_are_not_dropped_for_large_ones() -> None:
    async with open_bodies() as opened:
        small = [await opened.body(4 * KIB, age=300) for _ in range(8)]
        large = await opened.body(LARGE_CAPACITY, age=0)
        with pytest.raises(errors.Overloaded):
            await opened.body(2 * SMALL, age=0)
        small += [await opened.body(SMALL, age=0) for _ in range(8)]
        assert {body.gives_up for body in (*small, large)} == {None}


async def test_the_slowest_small_body_is_dropped_for_another_small_body() -> None:
    async with open_bodies() as opened:
        count = CAPACITY // SMALL
        small = [await opened.body(SMALL, age=300 if number == 7 else EARLY + 5) for number in range(count)]
        await opened.body(KIB, age=0)
        assert [number for number, body in enumerate(small) if body.gives_up] == [7]


async def test_a_released_body_frees_its_bytes() -> None:
    async with open_bodies() as opened:
        with opened.bodies.hold() as body:
            opened.bodies.take(body, 10 * CAPACITY)
            # A single large body may exceed the capacity.
            assert opened.bodies.held == 10 * CAPACITY
        assert opened.bodies.held == 0
