"""Who gives way where the room for bodies is used up: the slowest, if that is enough; small ones to no large one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

import pytest
from tests.conftest import until

from comment_monitor.core import errors
from comment_monitor.web.bodies import EARLY, SMALL, Bodies, Body

KIB: Final = 1024
ROOM: Final = 4096 * KIB
# Large ones may have three quarters of it.
LARGE_ROOM: Final = ROOM * 3 // 4


class Stage:
    """Bodies that are being read."""

    def __init__(self, stack: AsyncExitStack):
        self._stack = stack
        self.bodies = Bodies(ROOM)

    async def body(self, size: int, *, age: float = EARLY + 5) -> Body:
        """One of so many bytes, which began so many seconds ago."""
        body = self._stack.enter_context(self.bodies.hold())
        reading = asyncio.create_task(self._read(body))
        self._stack.callback(reading.cancel)
        await until(lambda: body.limit)
        body.began -= age
        self.bodies.take(body, size)
        return body

    async def _read(self, body: Body) -> None:
        """Until it is given up: nothing more comes."""
        with suppress(TimeoutError):
            async with self.bodies.reading(body):
                await asyncio.Event().wait()


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(stack)


async def test_the_slowest_gives_way_and_no_more_than_is_needed() -> None:
    async with stage() as one:
        slow = await one.body(LARGE_ROOM // 3, age=60)
        others = [await one.body(LARGE_ROOM // 3) for _ in range(2)]
        await one.body(LARGE_ROOM // 3, age=0)
        assert isinstance(slow.gives_up, errors.Overloaded)
        assert [other.gives_up for other in others] == [None, None]
        assert one.bodies.held == LARGE_ROOM // 3 * 3


async def test_who_had_no_time_to_show_its_speed_stays() -> None:
    async with stage() as one:
        young = await one.body(LARGE_ROOM, age=EARLY - 1)
        with pytest.raises(errors.Overloaded):
            await one.body(2 * SMALL, age=0)
        assert young.gives_up is None


async def test_nobody_gives_way_where_that_is_not_enough() -> None:
    async with stage() as one:
        young = await one.body(LARGE_ROOM - 4 * SMALL, age=0)
        slow = await one.body(2 * SMALL)
        with pytest.raises(errors.Overloaded):
            await one.body(8 * SMALL, age=0)
        assert (young.gives_up, slow.gives_up) == (None, None)


async def test_small_ones_give_way_to_no_large_one_and_have_their_quarter() -> None:
    async with stage() as one:
        small = [await one.body(4 * KIB, age=300) for _ in range(8)]
        large = await one.body(LARGE_ROOM, age=0)
        with pytest.raises(errors.Overloaded):
            await one.body(2 * SMALL, age=0)
        small += [await one.body(SMALL, age=0) for _ in range(8)]
        assert {body.gives_up for body in (*small, large)} == {None}


async def test_among_small_ones_the_slowest_gives_way() -> None:
    async with stage() as one:
        count = ROOM // SMALL
        small = [await one.body(SMALL, age=300 if number == 7 else EARLY + 5) for number in range(count)]
        await one.body(KIB, age=0)
        assert [number for number, body in enumerate(small) if body.gives_up] == [7]


async def test_a_released_body_frees_its_room() -> None:
    async with stage() as one:
        with one.bodies.hold() as body:
            one.bodies.take(body, 10 * ROOM)
            # The only large one may be above the room.
            assert one.bodies.held == 10 * ROOM
        assert one.bodies.held == 0
