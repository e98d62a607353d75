"""A comment and its place in the analysis queue are committed together or not at all."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import httpx
import pytest
import redis
from tests.conftest import MakeSettings, execute, kept_open, metric
from tests.support.database import analyse_all, broken_promises, names, outbox
from tests.support.intake import PATH, fates, in_turn, process, queued, refused, several
from tests.support.locks import locked
from tests.support.requests import body, comment
from tests.support.triggers import DATA_EXCEPTION, allow, change, refuse


@pytest.fixture
async def one_writer(make_settings: MakeSettings) -> AsyncIterator[httpx.AsyncClient]:
    """An application whose requests share a write as soon as one is under way."""
    async with kept_open(make_settings(COMMENT_WRITERS=1)) as one:
        yield one


def nothing_is_left(dsn: str, redis_url: str) -> bool:
    with redis.Redis.from_url(redis_url) as store:
        return names(dsn) == [] and outbox(dsn) == [] and store.dbsize() == 0


FAULTS: Final[dict[str, tuple[str, str, bool]]] = {
    "the comments can't be written": ("comments", "true", False),
    "the queue can't be written": ("analysis_outbox", "true", False),
    "the last row of the queue can't be written": ("analysis_outbox", "nextval('tries') = 3", False),
    "the commit fails": ("comments", "true", True),
    "the commit fails for the queue": ("analysis_outbox", "true", True),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_nothing_stays_of_a_write_that_failed_and_its_repeat_stores_all(
    client: httpx.AsyncClient, dsn: str, redis_url: str, fault: str
) -> None:
    table, condition, at_commit = FAULTS[fault]
    await refuse(dsn, "INSERT", table, condition, at_commit=at_commit)
    document = refused(await client.post(PATH, json=body(*several(25))), 503, "database-unavailable")
    assert "repeat" in document["detail"]
    assert "refused by the test" not in str(document)
    assert nothing_is_left(dsn, redis_url)

    await allow(dsn)
    assert fates(await process(client, *several(25))) == (25, 0, 0, 0)
    assert sorted(id_ for row in outbox(dsn) for id_ in row.comments) == sorted(names(dsn))


async def test_a_constraint_that_fails_is_answered_and_rolled_back_as_well(
    client: httpx.AsyncClient, dsn: str, redis_url: str
) -> None:
    await change(dsn, "ALTER TABLE analysis_outbox ADD CONSTRAINT none CHECK (cardinality(comment_ids) > 1000)")
    refused(await client.post(PATH, json=body(*several(3))), 503, "database-unavailable")
    assert nothing_is_left(dsn, redis_url)


async def test_a_request_with_an_edit_of_its_own_comment_is_stored_whole_or_not_at_all(
    client: httpx.AsyncClient, dsn: str, redis_url: str
) -> None:
    await refuse(dsn, "UPDATE", "comments")
    first_and_edit = [*several(5), comment("c0", "edited")]
    refused(await client.post(PATH, json=body(*first_and_edit)), 503, "database-unavailable")
    assert nothing_is_left(dsn, redis_url)
    await allow(dsn)
    assert fates(await process(client, *first_and_edit)) == (5, 1, 0, 0)


async def test_a_failed_edit_leaves_text_version_and_queue_as_they_were(client: httpx.AsyncClient, dsn: str) -> None:
    await process(client, comment(1, "first"))
    await refuse(dsn, "INSERT", "analysis_outbox")
    refused(await client.post(PATH, json=body(comment(1, "second"))), 503, "database-unavailable")
    assert execute(dsn, "SELECT text, revision, updated_at FROM comments") == [("first", 1, None)]
    assert execute(dsn, "SELECT count(*) FROM comment_versions") == [(0,)]
    assert len(outbox(dsn)) == 1
    await allow(dsn)
    # Redis was not told of it either.
    assert fates(await process(client, comment(1, "first"))) == (0, 0, 1, 0)
    assert fates(await process(client, comment(1, "second"))) == (0, 1, 0, 0)


async def test_a_failed_write_is_counted_and_does_not_end_the_writer(one_writer: httpx.AsyncClient, dsn: str) -> None:
    await refuse(dsn, "INSERT", "comments")
    before = metric("comment_processing_errors_total", reason="internal")
    success = metric("comment_processing_success_total")
    for _ in range(2):
        refused(await one_writer.post(PATH, json=body(*several(25))), 503, "database-unavailable")
    assert metric("comment_processing_errors_total", reason="internal") - before == 6
    assert metric("comment_processing_success_total") == success
    await queued(one_writer, 0)
    await allow(dsn)
    assert fates(await process(one_writer, *several(25))) == (25, 0, 0, 0)


async def poisoned(dsn: str) -> None:
    """PostgreSQL takes no text that holds the word."""
    await refuse(dsn, "INSERT OR UPDATE", "comments", "NEW.text LIKE '%POISON%'", DATA_EXCEPTION)


@pytest.mark.parametrize("position", [0, 12, 24])
async def test_a_comment_that_postgresql_refuses_is_rejected_by_name_and_the_rest_is_stored(
    client: httpx.AsyncClient, dsn: str, position: int
) -> None:
    await poisoned(dsn)
    comments = several(25)
    comments[position]["text"] = "some POISON"
    before = metric("comment_processing_errors_total", reason="not-storable")
    answer = await process(client, *comments)
    assert fates(answer) == (24, 0, 0, 1)
    (bad,) = answer["rejected"]
    assert (bad["index"], bad["id"]) == (position, f"c{position}")
    assert "PostgreSQL" in bad["reason"]
    assert "POISON" not in bad["reason"]
    assert sorted(names(dsn)) == sorted(f"c{number}" for number in range(25) if number != position)
    assert metric("comment_processing_errors_total", reason="not-storable") - before == 1


async def test_refused_by_postgresql_and_bad_from_the_start_are_named_in_one_list(
    client: httpx.AsyncClient, dsn: str
) -> None:
    await poisoned(dsn)
    mixed = [comment(0), comment(1, ""), comment(2, "POISON"), comment(3), comment(""), comment(5, "POISON")]
    answer = await process(client, *mixed)
    assert [(one["index"], one["id"]) for one in answer["rejected"]] == [(1, "1"), (2, "2"), (4, ""), (5, "5")]
    assert names(dsn) == ["0", "3"]


async def test_only_refused_comments_are_answered_422_with_each_named(client: httpx.AsyncClient, dsn: str) -> None:
    await poisoned(dsn)
    comments = [comment(number, "POISON") for number in range(12)]
    document = refused(await client.post(PATH, json=body(*comments)), 422, "all-rejected")
    assert [(one["index"], one["id"]) for one in document["rejected"]] == [(n, str(n)) for n in range(12)]
    assert names(dsn) == []


async def test_a_refused_edit_leaves_the_old_text_and_its_neighbours_edits_are_taken(
    client: httpx.AsyncClient, dsn: str
) -> None:
    await poisoned(dsn)
    await process(client, comment(1), comment(2))
    answer = await process(client, comment(1, "POISON"), comment(2, "edited"), comment(1, "edited"), comment(3))
    assert fates(answer) == (1, 2, 0, 1)
    assert answer["rejected"][0]["index"] == 0
    assert execute(dsn, "SELECT comment_id, text, revision FROM comments ORDER BY comment_id") == [
        ("1", "edited", 2),
        ("2", "edited", 2),
        ("3", "text of 3", 1),
    ]


async def test_a_refused_comment_costs_other_requests_of_its_write_nothing(
    one_writer: httpx.AsyncClient, dsn: str, make_settings: MakeSettings
) -> None:
    await poisoned(dsn)
    with locked(dsn):
        first = in_turn(one_writer, several(1, "first"))
        await queued(one_writer, 1)
        others = in_turn(
            one_writer,
            several(15, "a"),
            [*several(3, "b"), comment("bad", "POISON"), *several(15, "bb")],
            several(15, "c"),
        )
        await queued(one_writer, 50)
    answers = await asyncio.gather(*first, *others)
    assert [fates(one) for one in answers] == [(1, 0, 0, 0), (15, 0, 0, 0), (18, 0, 0, 1), (15, 0, 0, 0)]
    assert len(names(dsn)) == 49
    assert await broken_promises(make_settings()) == []


async def test_a_result_and_the_end_of_its_outbox_row_are_committed_together(
    client: httpx.AsyncClient, dsn: str, make_settings: MakeSettings
) -> None:
    await process(client, *several(5))
    for event, table in (("INSERT", "comment_analyses"), ("DELETE", "analysis_outbox")):
        await refuse(dsn, event, table, at_commit=True)
        await analyse_all(make_settings())
        assert execute(dsn, "SELECT count(*) FROM comment_analyses") == [(0,)]
        assert [len(row.comments) for row in outbox(dsn)] == [5]
        await allow(dsn)
    await analyse_all(make_settings())
    assert execute(dsn, "SELECT count(*) FROM comment_analyses") == [(5,)]
    assert outbox(dsn) == []
