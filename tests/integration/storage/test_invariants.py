"""The invariant checks find each violation, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
from tests.conftest import MakeSettings, execute, until
from tests.support.database import (
    analyse_all,
    blocked,
    holding_text,
    names,
    opened,
    outbox,
    take_in,
    violated_invariants,
)
from tests.support.requests import comment

from comment_monitor.analysis.batch_processor import open_worker
from comment_monitor.core.config import Settings
from comment_monitor.storage import invariants
from comment_monitor.storage.invariants import INVARIANTS, InvariantResult, check
from comment_monitor.storage.postgres import Database, Query

# For each invariant: a statement that violates it, for an edited and analysed comment, and the start of its example.
VIOLATIONS: dict[str, tuple[str, str]] = {
    "identity": (
        """
        ALTER TABLE comments DROP CONSTRAINT comments_identity;
        INSERT INTO comments (source, comment_id, post_id, author, text) VALUES ('threads', 'edited', '', '', '');
        INSERT INTO analysis_outbox (comment_ids, due_at) SELECT array_agg(id), now() FROM comments
        """,
        "threads edited",
    ),
    "analysed": ("DELETE FROM comment_analyses WHERE comment_id = 1", "1"),
    "versions": ("DELETE FROM comment_versions", "1"),
    "results": ("UPDATE comment_analyses SET revision = 3 WHERE comment_id = 1", "1"),
    "outbox_age": (
        "INSERT INTO analysis_outbox (comment_ids, due_at, created_at) VALUES ('{1}', now(), now() - interval '301 s')",
        "1 since ",
    ),
}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(COMMENT_BATCH_SIZE=5)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """A database with two analysed comments, the first of which was edited."""
    await take_in(settings, comment("edited"), comment("other"))
    await take_in(settings, comment("edited", "another text"))
    await analyse_all(settings)
    execute(settings.postgres_dsn, "ALTER TABLE analysis_outbox ALTER id RESTART")
    assert names(settings.postgres_dsn) == ["edited", "other"]
    async with opened(settings) as pool:
        yield pool


async def violated(database: Database) -> dict[str, InvariantResult]:
    async with database.connection() as conn:
        return {result.name: result for result in await check(conn, oldest=300) if result.violations}


def test_every_invariant_has_a_case() -> None:
    assert {invariant.query.name.removeprefix("check_") for invariant in INVARIANTS} == set(VIOLATIONS)


async def test_an_intact_database_violates_no_invariant(database: Database) -> None:
    assert await violated(database) == {}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_is_found_by_name_with_an_example(settings: Settings, database: Database, name: str) -> None:
    how, example = VIOLATIONS[name]
    execute(settings.postgres_dsn, how)
    found = await violated(database)
    # With the result of a text that never existed, the latest text has no result.
    assert set(found) == ({"results", "analysed"} if name == "results" else {name})
    assert found[name].violations == 1
    (shown,) = found[name].examples
    assert shown.startswith(example)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_slices_check_every_comment_exactly_once(settings: Settings, database: Database, size: int) -> None:
    await take_in(settings, *map(comment, range(20)))
    await analyse_all(settings)
    dsn = settings.postgres_dsn
    # Ids have gaps, from removed comments and from repeats.
    execute(dsn, "DELETE FROM comments WHERE comment_id IN ('other', '3', '4', '5', '19')")
    ((least, most),) = execute(dsn, "SELECT min(id), max(id) FROM comments")
    values = f"({least}, 7, ''), ({most}, 1, '')"
    execute(dsn, f"INSERT INTO comment_versions (comment_id, revision, text) VALUES {values}")  # noqa: S608
    execute(dsn, f"DELETE FROM comment_analyses WHERE comment_id IN ({least}, {most})")  # noqa: S608
    async with database.connection() as conn:
        found = {result.name: result.violations for result in await check(conn, oldest=300, slice_size=size)}
    assert found == {"identity": 0, "analysed": 2, "versions": 2, "results": 0, "outbox_age": 0}


async def test_rows_of_the_same_identity_are_found_in_different_slices(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slices compare rows, as they must after a failure of the unique index."""
    await take_in(settings, *map(comment, range(5)))
    execute(settings.postgres_dsn, VIOLATIONS["identity"][0])
    monkeypatch.setattr(invariants, "FIND_IDENTITY_INDEX", Query("check_identity_index", "SELECT true"))
    async with database.connection() as conn:
        found = {result.name: result for result in await check(conn, oldest=300, slice_size=2)}
    assert (found["identity"].violations, found["identity"].examples) == (1, ["threads edited"])


async def test_a_check_ends_although_comments_keep_arriving(settings: Settings, database: Database) -> None:
    """During each slice, a comment with a higher id arrives."""
    pauses: list[float] = []
    async with database.connection() as conn:
        checking = asyncio.create_task(check(conn, oldest=300, slice_size=1, pause=0.5))
        while not checking.done():
            await take_in(settings, comment(f"new {len(pauses)}"))
            pauses.append(0.5)
            assert len(pauses) < 1000
        assert {result.violations for result in await checking} == {0}


async def test_a_result_of_an_older_text_violates_the_invariant(settings: Settings, database: Database) -> None:
    execute(settings.postgres_dsn, "UPDATE comment_analyses SET revision = 1")
    assert await violated_invariants(settings) == ["analysed"]


async def test_a_surplus_version_violates_the_invariant(settings: Settings, database: Database) -> None:
    execute(settings.postgres_dsn, "INSERT INTO comment_versions (comment_id, revision, text) VALUES (2, 1, '')")
    assert await violated_invariants(settings) == ["versions"]


async def test_all_violations_are_counted_and_the_first_are_shown(settings: Settings, database: Database) -> None:
    await take_in(settings, *map(comment, range(20)))
    execute(settings.postgres_dsn, "DELETE FROM analysis_outbox")
    found = (await violated(database))["analysed"]
    first = execute(settings.postgres_dsn, "SELECT id::text FROM comments c WHERE id > 2 ORDER BY c.id LIMIT 5")
    assert (found.violations, found.examples) == (20, [id_ for (id_,) in first])


async def test_a_pending_analysis_violates_no_invariant_until_its_time_limit(
    settings: Settings, database: Database
) -> None:
    await take_in(settings, comment("waits"))
    assert await violated_invariants(settings) == []
    execute(settings.postgres_dsn, "UPDATE analysis_outbox SET created_at = now() - interval '290 s'")
    assert await violated_invariants(settings) == []
    assert await violated_invariants(settings, oldest=280) == ["outbox_age"]


async def test_an_edit_during_the_analysis_violates_no_invariant(settings: Settings, database: Database) -> None:
    text = "one text which is long enough"
    await take_in(settings, comment("edited", text))
    with holding_text(settings.postgres_dsn, text):
        task = asyncio.create_task(analyse_all(settings))
        await until(lambda: blocked(settings.postgres_dsn))
        await take_in(settings, comment("edited", "and edited meanwhile"))
        assert await violated_invariants(settings) == []
    await task
    assert await violated_invariants(settings) == []


async def test_concurrent_traffic_violates_no_invariant(settings: Settings, database: Database) -> None:
    stop = asyncio.Event()
    rounds = {"writer": 0, "worker": 0}

    async def write(name: str) -> None:
        for number in count():
            if stop.is_set():
                return
            await take_in(settings, *(comment(f"{name}{index}", f"text {number}") for index in range(7)))
            rounds["writer"] += 1

    async def analyse() -> None:
        async with open_worker(settings) as worker:
            while not stop.is_set():
                await asyncio.sleep(0)
                for row in outbox(settings.postgres_dsn):
                    await worker.analyse_batch(row.id, redelivered=False)
                    rounds["worker"] += 1

    tasks = [asyncio.create_task(work) for work in (write("a"), write("b"), analyse(), analyse())]
    try:
        while min(rounds.values()) < 30:
            assert not any(task.done() for task in tasks)
            assert await violated_invariants(settings) == []
    finally:
        stop.set()
        await asyncio.gather(*tasks)
    assert await violated_invariants(settings) == []
