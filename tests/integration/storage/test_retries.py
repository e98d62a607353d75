"""Retries: they succeed in the end or stop after the configured number, and their waits grow with jitter."""

import asyncio
from collections.abc import Iterator

import httpx
import msgspec
import pytest
import stamina.instrumentation
from stamina.instrumentation import RetryDetails
from tests.conftest import MakeSettings, execute, metric, open_client, until
from tests.support.database import analyse_all, holding, names, outbox
from tests.support.intake import PATH, outcome_counts, process, refused, several
from tests.support.requests import body, comment, parsed
from tests.support.triggers import LOCK_NOT_AVAILABLE, SERIALIZATION_FAILURE, refuse, refuse_first, tries

from comment_monitor.core.errors import DatabaseUnavailable
from comment_monitor.runtime import open_runtime
from comment_monitor.storage.postgres import CONFLICT_ERRORS
from comment_monitor.storage.retry import FIRST_WAIT, LONGEST_WAIT, with_retries

CONFLICTS = [SERIALIZATION_FAILURE, LOCK_NOT_AVAILABLE, "40P01"]


async def answer(make_settings: MakeSettings, **settings: object) -> httpx.Response:
    """Returns the response to a request of 25 comments."""
    async with open_client(make_settings(COMMENT_BATCH_SIZE=25, **settings)) as client:
        return await client.post(PATH, json=body(*several(25)))


@pytest.mark.parametrize("code", CONFLICTS, ids=["serialization", "lock", "deadlock"])
async def test_a_transient_fault_is_hidden_by_retries(make_settings: MakeSettings, dsn: str, code: str) -> None:
    await refuse_first(dsn, 3, code)
    response = await answer(make_settings, COMMENT_MAX_RETRIES=3, COMMENT_BACKOFF_MULTIPLIER=1)
    assert response.status_code == 200
    assert outcome_counts(response.json()) == (25, 0, 0, 0)
    # Three writes failed at their first row, and the fourth wrote all rows.
    assert tries(dsn) == 3 + 25
    assert [len(row.comments) for row in outbox(dsn)] == [25]


@pytest.mark.parametrize("retries", [0, 2])
async def test_a_lasting_fault_is_answered_503_after_the_configured_retries(
    make_settings: MakeSettings, dsn: str, retries: int
) -> None:
    await refuse_first(dsn, 1000, SERIALIZATION_FAILURE)
    before = metric("comment_processing_errors_total", reason="database-unavailable")
    settings = {"COMMENT_MAX_RETRIES": retries, "COMMENT_BACKOFF_MULTIPLIER": 1}
    document = refused(await answer(make_settings, **settings), 503, "database-unavailable")
    assert "repeating the request is safe" in document["detail"]
    assert tries(dsn) == 1 + retries
    assert metric("comment_processing_errors_total", reason="database-unavailable") - before == 1
    assert names(dsn) == []


async def test_requests_that_share_a_write_get_separate_exceptions(make_settings: MakeSettings, dsn: str) -> None:
    """The traceback of a shared exception would grow with each request."""
    await refuse_first(dsn, 1000, SERIALIZATION_FAILURE)
    settings = make_settings(COMMENT_MAX_RETRIES=0, COMMENT_WRITERS=1)
    async with open_runtime(settings, application="test") as runtime:
        requests = [parsed(comment(number)) for number in range(20)]
        found = await asyncio.gather(*map(runtime.pipeline.process, requests), return_exceptions=True)
    assert {type(error) for error in found} == {DatabaseUnavailable}
    assert len(set(map(id, found))) == 20


async def test_a_permanent_error_is_not_retried(make_settings: MakeSettings, dsn: str) -> None:
    await refuse_first(dsn, 1000, "P0001")
    refused(await answer(make_settings), 503, "database-unavailable")
    assert tries(dsn) == 1


async def test_a_lock_timeout_is_retried(make_settings: MakeSettings, dsn: str) -> None:
    ((name,),) = execute(dsn, "SELECT current_database()")
    execute(dsn, f"ALTER DATABASE {name} SET lock_timeout = '50ms'")
    with holding(dsn, "LOCK TABLE comments IN EXCLUSIVE MODE"):
        refused(await answer(make_settings, COMMENT_MAX_RETRIES=1), 503, "database-unavailable")
    assert outcome_counts((await answer(make_settings)).json()) == (25, 0, 0, 0)


async def test_a_worker_retries_its_batch(make_settings: MakeSettings, client: httpx.AsyncClient, dsn: str) -> None:
    await process(client, *several(5))
    await refuse(dsn, "INSERT", "comment_analyses", "nextval('tries') <= 2", SERIALIZATION_FAILURE)
    await analyse_all(make_settings(COMMENT_MAX_RETRIES=2, COMMENT_BACKOFF_MULTIPLIER=1))
    assert tries(dsn) == 2 + 5
    assert outbox(dsn) == []


@pytest.fixture
def waits() -> Iterator[list[float]]:
    """The scheduled waits."""
    found: list[float] = []

    def note(details: RetryDetails) -> None:
        found.append(details.wait_for)

    stamina.instrumentation.set_on_retry_hooks([note])
    yield found
    stamina.instrumentation.set_on_retry_hooks(())


class Failing:
    """Always fails, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        raise CONFLICT_ERRORS[0]("still")


async def test_waits_grow_by_the_multiplier_with_jitter(make_settings: MakeSettings, waits: list[float]) -> None:
    attempt = Failing()
    settings = make_settings(COMMENT_MAX_RETRIES=3, COMMENT_BACKOFF_MULTIPLIER=3)
    with pytest.raises(CONFLICT_ERRORS):
        await with_retries(settings, attempt)
    assert attempt.calls == 4
    steps = [FIRST_WAIT * 3**number for number in range(3)]
    assert all(step <= wait <= step + FIRST_WAIT for step, wait in zip(steps, waits, strict=True))
    assert len({round(wait - step, 12) for step, wait in zip(steps, waits, strict=True)}) == 3


async def test_no_wait_exceeds_the_longest_wait(make_settings: MakeSettings, waits: list[float]) -> None:
    trying = asyncio.create_task(with_retries(make_settings(COMMENT_BACKOFF_MULTIPLIER=10), Failing()))
    # The third wait would be ten seconds.
    await until(lambda: len(waits) >= 3)
    trying.cancel()
    await asyncio.wait([trying])
    assert waits[2] == LONGEST_WAIT


async def test_no_retry_begins_after_the_time_limit(make_settings: MakeSettings, waits: list[float]) -> None:
    attempt = Failing()
    short = msgspec.structs.replace(make_settings(COMMENT_MAX_RETRIES=10), processing_timeout=1)
    with pytest.raises(CONFLICT_ERRORS):
        await with_retries(short, attempt)
    assert 2 <= attempt.calls < 6
    assert sum(waits[:-1]) <= short.processing_timeout
