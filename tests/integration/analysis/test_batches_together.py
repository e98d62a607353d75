"""Several outbox rows in a task: the same results as one by one, in fewer transactions, independent of each other."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import psycopg2.extensions
import pytest
import uvloop
from tests.conftest import MakeSettings, execute, metric, until
from tests.integration.analysis.test_batch_processor import BAD, FailingFinding, failing  # noqa: F401 - a fixture
from tests.support.database import (
    blocked,
    holding,
    outbox,
    results,
    take_in,
    terminate_blocked,
    violated_invariants,
)
from tests.support.locks import locked
from tests.support.messages import Wire
from tests.support.requests import comment

from comment_monitor.analysis import engine
from comment_monitor.analysis.batch_processor import open_worker
from comment_monitor.analysis.engine import Finding
from comment_monitor.analysis.findings.text import Text
from comment_monitor.core.config import Settings
from comment_monitor.messaging.celery_app import make_celery
from comment_monitor.storage.outbox import load_batches

STARTS: Final = "SELECT starts FROM analysis_outbox ORDER BY id"


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(COMMENT_BATCH_SIZE=5)


async def analyse_together(settings: Settings, *, redelivered: bool = False) -> None:
    async with open_worker(settings) as worker:
        await worker.analyse_batches([row.id for row in outbox(settings.postgres_dsn)], redelivered=redelivered)


async def test_all_rows_finish_and_every_comment_has_a_result(settings: Settings) -> None:
    await take_in(settings, *map(comment, range(300)))
    assert len(outbox(settings.postgres_dsn)) == 60
    await analyse_together(settings)
    assert outbox(settings.postgres_dsn) == []
    assert len(results(settings.postgres_dsn)) == 300
    assert await violated_invariants(settings) == []


async def test_a_row_keeps_only_the_text_that_makes_an_analyser_fail(
    settings: Settings,
    failing: FailingFinding,  # noqa: F811 - the fixture
) -> None:
    await take_in(settings, *map(comment, range(7)), comment(7, BAD), *map(comment, range(8, 20)))
    await analyse_together(settings)
    (row,) = outbox(settings.postgres_dsn)
    assert (row.comments, row.failures) == (["7"], 1)
    assert len(results(settings.postgres_dsn)) == 19


async def test_a_comment_in_two_rows_gets_the_result_of_its_latest_text(settings: Settings) -> None:
    await take_in(settings, comment(1, "What is this?"), comment(2))
    await take_in(settings, comment(1, "I see, thank you"))
    assert len(outbox(settings.postgres_dsn)) == 2
    await analyse_together(settings)
    assert outbox(settings.postgres_dsn) == []
    assert (results(settings.postgres_dsn)["1"].revision, results(settings.postgres_dsn)["1"].labels) == (2, [])


async def test_rows_whose_comments_were_removed_finish(settings: Settings) -> None:
    await take_in(settings, *map(comment, range(12)))
    execute(settings.postgres_dsn, "DELETE FROM comments WHERE comment_id IN ('0', '1', '2', '3', '4', '7')")
    await analyse_together(settings)
    assert outbox(settings.postgres_dsn) == []
    assert len(results(settings.postgres_dsn)) == 6


def statements(name: str) -> float:
    """Returns how often this statement was executed."""
    return metric("comment_db_query_duration_seconds_count", query=name)


async def test_a_row_that_was_started_before_is_processed_alone(settings: Settings) -> None:
    await take_in(settings, *map(comment, range(10)))
    first = outbox(settings.postgres_dsn)[0].id
    # Started so often that the row has to be split.
    execute(settings.postgres_dsn, f"UPDATE analysis_outbox SET starts = 9 WHERE id = {first}")  # noqa: S608
    await analyse_together(settings)
    assert len(results(settings.postgres_dsn)) == 5
    assert [len(row.comments) for row in outbox(settings.postgres_dsn)] == [1] * 5


async def test_rows_of_a_redelivered_message_are_processed_separately(settings: Settings) -> None:
    """Each row counts its own starts, so that the row that ends the process is identified."""
    await take_in(settings, *map(comment, range(15)))
    first, second, third = (row.id for row in outbox(settings.postgres_dsn))
    execute(settings.postgres_dsn, f"UPDATE analysis_outbox SET starts = 9 WHERE id = {second}")  # noqa: S608
    await analyse_together(settings, redelivered=True)
    assert len(results(settings.postgres_dsn)) == 10
    assert [len(row.comments) for row in outbox(settings.postgres_dsn)] == [1] * 5
    assert {first, second, third}.isdisjoint(row.id for row in outbox(settings.postgres_dsn))


async def test_a_cut_connection_loses_no_result(settings: Settings) -> None:
    await take_in(settings, *map(comment, range(200)))
    with holding(settings.postgres_dsn, "SELECT FROM comments WHERE comment_id = '150' FOR UPDATE"):
        task = asyncio.create_task(analyse_together(settings))
        await until(lambda: blocked(settings.postgres_dsn))
        terminate_blocked(settings.postgres_dsn)
    await task
    assert len(results(settings.postgres_dsn)) == 200
    assert outbox(settings.postgres_dsn) == []


async def test_resent_rows_stay_grouped_and_count_starts_in_a_single_statement(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resent rows have most likely only waited; processed separately, they would take several times as long."""
    seen: set[tuple[int, ...]] = set()

    def record(_text: object, _found: object) -> dict[str, object]:
        seen.add(tuple(starts for (starts,) in execute(settings.postgres_dsn, STARTS)))
        return {}

    monkeypatch.setattr(engine, "FINDINGS", (*engine.FINDINGS, Finding("record", record)))
    await take_in(settings, *map(comment, range(60)))
    execute(settings.postgres_dsn, "UPDATE analysis_outbox SET resends = 2 WHERE id % 2 = 0")
    before = {name: statements(name) for name in ("count_starts", "save_results")}
    await analyse_together(settings)
    assert len(results(settings.postgres_dsn)) == 60
    assert outbox(settings.postgres_dsn) == []
    assert statements("count_starts") - before["count_starts"] == 1
    assert statements("save_results") - before["save_results"] <= 3
    # The count is committed before the first comment is analysed.
    assert (1, 0) * 6 in seen or (0, 1) * 6 in seen


async def test_the_starts_of_a_cancelled_group_stay_counted(settings: Settings) -> None:
    await take_in(settings, *map(comment, range(20)))
    execute(settings.postgres_dsn, "UPDATE analysis_outbox SET resends = 1")
    with holding(settings.postgres_dsn, "SELECT FROM comments WHERE comment_id = '12' FOR UPDATE"):
        task = asyncio.create_task(analyse_together(settings))
        await until(lambda: blocked(settings.postgres_dsn))
        assert {starts for (starts,) in execute(settings.postgres_dsn, STARTS)} == {1}
        task.cancel()
        await asyncio.wait([task])
    # A cancelled group is like a killed worker: the count stays, and the next worker processes each row alone.
    assert {starts for (starts,) in execute(settings.postgres_dsn, STARTS)} == {1}
    await analyse_together(settings)
    assert len(results(settings.postgres_dsn)) == 20


async def test_a_row_that_another_worker_has_taken_keeps_its_starts(settings: Settings) -> None:
    """A start that could not be counted is not taken back either."""
    await take_in(settings, comment(1))
    (row,) = outbox(settings.postgres_dsn)
    async with open_worker(settings) as worker:
        attempt = worker.attempt(redelivered=False)
        async with worker._database.connection() as conn:
            loaded = await load_batches(conn, [row.id])
            execute(settings.postgres_dsn, "UPDATE analysis_outbox SET failures = 1, starts = 2")
            assert await worker._count_starts(conn, loaded, attempt) == {}
        attempt.unfinished.add(row.id)
        await worker._give_back(attempt)
    assert execute(settings.postgres_dsn, STARTS) == [(2,)]


async def test_a_start_whose_response_was_lost_is_counted_once(
    make_settings: MakeSettings, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement was committed, the connection ended before the response, and the statement runs again."""
    ((port,),) = execute(dsn, "SHOW port")
    parts = psycopg2.extensions.parse_dsn(dsn)
    wire = Wire(f"postgresql://127.0.0.1:{port}/", path=f"{parts['host']}/.s.PGSQL.{port}")
    proxied_dsn = psycopg2.extensions.make_dsn(**{**parts, "host": "127.0.0.1", "port": urlsplit(wire.url).port})
    await take_in(make_settings(), *map(comment, range(3)))
    (row,) = outbox(dsn)
    seen: set[int] = set()

    def record(_text: object, _found: object) -> dict[str, object]:
        seen.update(starts for (starts,) in execute(dsn, STARTS))
        return {}

    monkeypatch.setattr(engine, "FINDINGS", (*engine.FINDINGS, Finding("record", record)))
    tries = statements("count_starts")
    try:
        async with open_worker(make_settings(POSTGRES_DSN=proxied_dsn)) as worker:
            with holding(dsn, "SELECT FROM analysis_outbox FOR UPDATE") as holder:
                task = asyncio.create_task(worker.analyse_batch(row.id, redelivered=True))
                await until(lambda: blocked(dsn))
                wire.answers = False
                holder.commit()
            await until(lambda: execute(dsn, STARTS) == [(1,)])
            wire.cut()
            wire.answers = wire.open = True
            await task
    finally:
        wire.close()
    assert statements("count_starts") - tries == 2
    assert seen == {1}
    assert {result.status for result in results(dsn).values()} == {"done"}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Adds a finding that takes the given seconds for a text, and otherwise no time."""
    seconds: dict[str, float] = {}

    def find(text: Text, _: object) -> dict[str, object]:
        time.sleep(seconds.get(text.typed, 0))
        return {}

    monkeypatch.setattr(engine, "FINDINGS", (*engine.FINDINGS, Finding("slow", find)))
    return seconds


def text_of(number: int) -> str:
    return f"This is the text of number {number}"


async def take_in_texts(settings: Settings, amount: int) -> None:
    await take_in(settings, *(comment(number, text_of(number)) for number in range(amount)))


def in_uvloop(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs like a worker: the time of uvloop's event loop does not advance during an analysis."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(act())


def test_results_are_stored_when_the_time_limit_ends_a_group(settings: Settings, slow: dict[str, float]) -> None:
    """A discarded result would be computed again, forever. The interrupted text counts no failure."""
    asyncio.run(take_in_texts(settings, 3))
    slow |= {text_of(0): 0.6, text_of(1): 60}

    async def act() -> None:
        async with open_worker(settings) as worker:
            attempt = worker.attempt(redelivered=True)
            attempt.ends = time.monotonic() + 1.2
            attempt.limit = attempt.limit._replace(until=attempt.ends)
            await worker.analyse_batch(outbox(settings.postgres_dsn)[0].id, redelivered=True, attempt=attempt)
            await worker._give_back(attempt)

    in_uvloop(act)
    assert {name: result.status for name, result in results(settings.postgres_dsn).items()} == {"0": "done"}
    (row,) = outbox(settings.postgres_dsn)
    assert (row.comments, row.failures, row.resends, row.due_in <= 0) == (["1", "2"], 0, -1, True)
    assert execute(settings.postgres_dsn, STARTS) == [(0,)]


@pytest.mark.parametrize("resends", [0, 3])
async def test_comments_beyond_the_time_limit_of_a_group_are_due_at_once(
    settings: Settings, slow: dict[str, float], resends: int
) -> None:
    """Results are stored as they are computed, rows are cut at the time limit, and no text is analysed twice."""
    await take_in_texts(settings, 10)
    execute(settings.postgres_dsn, f"UPDATE analysis_outbox SET resends = {resends}")  # noqa: S608
    slow |= {text_of(number): 1.5 for number in range(10)}
    sizes = []
    while outbox(settings.postgres_dsn):
        await analyse_together(settings)
        sizes.append(len(results(settings.postgres_dsn)))
        assert {row.resends for row in outbox(settings.postgres_dsn)} <= {-1}
        assert {starts for (starts,) in execute(settings.postgres_dsn, STARTS)} <= {0}
        assert await violated_invariants(settings) == []
    # A group has four seconds, which is enough for three comments.
    assert sizes == [3, 6, 9, 10]
    assert {result.status for result in results(settings.postgres_dsn).values()} == {"done"}


async def test_a_text_over_its_time_limit_fails_without_its_neighbours(
    settings: Settings, slow: dict[str, float]
) -> None:
    short = msgspec.structs.replace(settings, processing_timeout=6, max_retries=1)
    await take_in_texts(settings, 15)
    slow[text_of(6)] = 60
    await analyse_together(short)
    by_size = sorted(outbox(settings.postgres_dsn), key=lambda row: row.failures)
    assert [(row.failures, row.comments) for row in by_size] == [(0, ["7", "8", "9"]), (1, ["6"])]


async def test_a_comment_in_two_rows_costs_no_other_its_analysis_when_a_row_is_cut(
    settings: Settings, slow: dict[str, float]
) -> None:
    await take_in_texts(settings, 3)
    await take_in(settings, comment("a", "This one is slow, and comes before the edit"), comment(1, "an edit of it"))
    execute(
        settings.postgres_dsn,
        "UPDATE analysis_outbox SET comment_ids = (SELECT array_agg(id ORDER BY id) FROM "
        "comments WHERE comment_id IN ('a', '0', '1')) WHERE id = (SELECT max(id) FROM analysis_outbox)",
    )
    slow |= {text_of(2): 5, "This one is slow, and comes before the edit": 5}
    while outbox(settings.postgres_dsn):
        await analyse_together(settings)
    assert {name: result.status for name, result in results(settings.postgres_dsn).items()} == dict.fromkeys(
        "a012", "done"
    )


async def test_two_workers_that_cut_the_same_row_lose_no_comment(settings: Settings, slow: dict[str, float]) -> None:
    await take_in_texts(settings, 5)
    slow |= {text_of(number): 1.1 for number in range(5)}
    (row,) = outbox(settings.postgres_dsn)
    async with open_worker(settings) as first, open_worker(settings) as other:
        with holding(settings.postgres_dsn, "SELECT FROM comments WHERE comment_id = '0' FOR UPDATE"):
            tasks = [asyncio.create_task(worker.analyse_batch(row.id, redelivered=False)) for worker in (first, other)]
            await until(lambda: blocked(settings.postgres_dsn) == 2)
        await asyncio.gather(*tasks)
    while outbox(settings.postgres_dsn):
        await analyse_together(settings)
    assert {result.status for result in results(settings.postgres_dsn).values()} == {"done"}
    assert len(results(settings.postgres_dsn)) == 5


@pytest.mark.parametrize("redelivered", [False, True])
async def test_a_worker_gives_up_a_lock_before_its_hard_time_limit(
    make_settings: MakeSettings, redelivered: bool
) -> None:
    """A killed process would count against the comment, which is marked failed after several times."""
    settings = make_settings(COMMENT_PROCESSING_TIMEOUT=15, COMMENT_MAX_RETRIES=1)
    for number in range(3):
        await take_in(settings, comment(number))
    with locked(settings.postgres_dsn, "comment_analyses"):
        async with asyncio.timeout(make_celery(settings).conf.task_time_limit):
            await analyse_together(settings, redelivered=redelivered)
    assert execute(settings.postgres_dsn, "SELECT starts FROM analysis_outbox") == [(0,)] * 3
    await analyse_together(settings, redelivered=redelivered)
    assert {result.status for result in results(settings.postgres_dsn).values()} == {"done"}
