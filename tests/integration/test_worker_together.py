"""Several outbox rows in one go: what one by one would have given, in fewer transactions, and none in another's way."""

import asyncio
import time

import pytest
from tests.conftest import MakeSettings, execute, until
from tests.integration.test_worker import BAD, Taste, taste  # noqa: F401 - a fixture
from tests.support.database import (
    blocked,
    broken_promises,
    holding,
    outbox,
    results,
    take_in,
    terminate_blocked,
)
from tests.support.locks import locked
from tests.support.requests import comment

from comment_monitor import analysis
from comment_monitor.analysis import Finding
from comment_monitor.broker import make_celery
from comment_monitor.config import Settings
from comment_monitor.worker import open_worker


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(COMMENT_BATCH_SIZE=5)


async def analyse_together(settings: Settings, *, redelivered: bool = False) -> None:
    async with open_worker(settings) as worker:
        await worker.analyse_batches([row.id for row in outbox(settings.postgres_dsn)], redelivered=redelivered)


async def test_all_rows_are_ended_and_every_comment_has_its_result(settings: Settings) -> None:
    await take_in(settings, *map(comment, range(300)))
    assert len(outbox(settings.postgres_dsn)) == 60
    await analyse_together(settings)
    assert outbox(settings.postgres_dsn) == []
    assert len(results(settings.postgres_dsn)) == 300
    assert await broken_promises(settings) == []


async def test_a_row_with_a_text_that_breaks_an_analyser_keeps_only_that_text(
    settings: Settings,
    taste: Taste,  # noqa: F811 - the fixture
) -> None:
    await take_in(settings, *map(comment, range(7)), comment(7, BAD), *map(comment, range(8, 20)))
    await analyse_together(settings)
    (row,) = outbox(settings.postgres_dsn)
    assert (row.comments, row.failures) == (["7"], 1)
    assert len(results(settings.postgres_dsn)) == 19


async def test_a_comment_that_stands_in_two_rows_gets_the_result_of_its_latest_text(settings: Settings) -> None:
    await take_in(settings, comment(1, "What is this?"), comment(2))
    await take_in(settings, comment(1, "I see, thank you"))
    assert len(outbox(settings.postgres_dsn)) == 2
    await analyse_together(settings)
    assert outbox(settings.postgres_dsn) == []
    assert (results(settings.postgres_dsn)["1"].revision, results(settings.postgres_dsn)["1"].labels) == (2, [])


async def test_rows_whose_comments_were_removed_are_ended_too(settings: Settings) -> None:
    await take_in(settings, *map(comment, range(12)))
    execute(settings.postgres_dsn, "DELETE FROM comments WHERE comment_id IN ('0', '1', '2', '3', '4', '7')")
    await analyse_together(settings)
    assert outbox(settings.postgres_dsn) == []
    assert len(results(settings.postgres_dsn)) == 6


async def test_a_row_that_was_sent_before_goes_its_own_way(settings: Settings) -> None:
    await take_in(settings, *map(comment, range(10)))
    first = outbox(settings.postgres_dsn)[0].id
    # So often begun that it has to be taken apart.
    execute(settings.postgres_dsn, f"UPDATE analysis_outbox SET resends = 1, starts = 9 WHERE id = {first}")  # noqa: S608
    await analyse_together(settings)
    assert len(results(settings.postgres_dsn)) == 5
    assert [len(row.comments) for row in outbox(settings.postgres_dsn)] == [1] * 5


async def test_rows_of_a_message_that_comes_again_go_one_by_one(settings: Settings) -> None:
    """Each counts its own starts, so that the one which ends the process is the one that is found out."""
    await take_in(settings, *map(comment, range(15)))
    first, second, third = (row.id for row in outbox(settings.postgres_dsn))
    execute(settings.postgres_dsn, f"UPDATE analysis_outbox SET starts = 9 WHERE id = {second}")  # noqa: S608
    await analyse_together(settings, redelivered=True)
    assert len(results(settings.postgres_dsn)) == 10
    assert [len(row.comments) for row in outbox(settings.postgres_dsn)] == [1] * 5
    assert {first, second, third}.isdisjoint(row.id for row in outbox(settings.postgres_dsn))


async def test_a_connection_that_is_cut_costs_time_only(settings: Settings) -> None:
    await take_in(settings, *map(comment, range(200)))
    with holding(settings.postgres_dsn, "SELECT FROM comments WHERE comment_id = '150' FOR UPDATE"):
        task = asyncio.create_task(analyse_together(settings))
        await until(lambda: blocked(settings.postgres_dsn))
        terminate_blocked(settings.postgres_dsn)
    await task
    assert len(results(settings.postgres_dsn)) == 200
    assert outbox(settings.postgres_dsn) == []


async def test_an_analysis_that_takes_all_of_the_time_is_stored(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done; thrown away it would be begun again, for ever."""

    def slow(_text: object, _found: object) -> dict[str, object]:
        time.sleep(1)
        return {}

    monkeypatch.setattr(analysis, "FINDINGS", (*analysis.FINDINGS, Finding("slow", slow)))
    await take_in(settings, comment(1))
    async with open_worker(settings) as worker:
        deadline = asyncio.get_running_loop().time() + 0.5
        await worker.analyse_batch(outbox(settings.postgres_dsn)[0].id, redelivered=True, deadline=deadline)
    assert {one.status for one in results(settings.postgres_dsn).values()} == {"done"}


@pytest.mark.parametrize("redelivered", [False, True])
async def test_who_waits_for_a_lock_gives_up_before_its_process_is_killed_for_it(
    make_settings: MakeSettings, redelivered: bool
) -> None:
    """Killed, it would look as if a comment had done it, which is marked failed after some times."""
    settings = make_settings(COMMENT_PROCESSING_TIMEOUT=15, COMMENT_MAX_RETRIES=1)
    for number in range(3):
        await take_in(settings, comment(number))
    with locked(settings.postgres_dsn, "comment_analyses"):
        async with asyncio.timeout(make_celery(settings).conf.task_time_limit):
            await analyse_together(settings, redelivered=redelivered)
    assert execute(settings.postgres_dsn, "SELECT starts FROM analysis_outbox") == [(0,)] * 3
    await analyse_together(settings, redelivered=redelivered)
    assert {one.status for one in results(settings.postgres_dsn).values()} == {"done"}
