"""Retries while the database is unavailable: a bounded number, each after a longer wait with jitter."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator

import pytest
import stamina.instrumentation
from stamina.instrumentation import RetryDetails

from comment_monitor.core import config
from comment_monitor.storage.retry import with_retries

CLIENTS = 5


@pytest.fixture
def waits() -> Iterator[list[RetryDetails]]:
    """The scheduled retries."""
    noted: list[RetryDetails] = []

    def note(details: RetryDetails) -> None:
        noted.append(details)

    stamina.instrumentation.set_on_retry_hooks([note])
    try:
        yield noted
    finally:
        stamina.instrumentation.set_on_retry_hooks(())


class Failing:
    """A function that always fails."""

    def __init__(self, error: Exception):
        self.error = error
        self.tries = 0

    async def __call__(self) -> None:
        self.tries += 1
        raise self.error


async def fail(error: Exception, **variables: str) -> int:
    """Returns the number of attempts."""
    work = Failing(error)
    with pytest.raises(type(error)):
        await with_retries(config.load(variables), work)
    return work.tries


@pytest.mark.parametrize(("retries", "multiplier"), [(0, 2), (3, 2), (2, 4)])
async def test_waits_grow_by_the_multiplier_with_jitter(
    waits: list[RetryDetails], retries: int, multiplier: int
) -> None:
    variables = {"COMMENT_MAX_RETRIES": str(retries), "COMMENT_BACKOFF_MULTIPLIER": str(multiplier)}
    tries = await asyncio.gather(*(fail(ConnectionError(), **variables) for _ in range(CLIENTS)))
    assert tries == [1 + retries] * CLIENTS
    by_number = defaultdict(set)
    for details in waits:
        by_number[details.retry_num].add(details.wait_for)
    assert list(by_number) == list(range(1, 1 + retries))
    for number, found in by_number.items():
        least = 0.1 * multiplier ** (number - 1)
        assert len(found) == CLIENTS
        assert all(least <= wait <= least + 0.1 for wait in found), (number, found)


async def test_a_permanent_error_is_not_retried(waits: list[RetryDetails]) -> None:
    assert await fail(ValueError()) == 1
    assert waits == []
