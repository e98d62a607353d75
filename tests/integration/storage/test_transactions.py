"""A comment and its outbox row are committed in the same transaction or not at all."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import httpx
import pytest
import redis
from tests.conftest import MakeSettings, execute, kept_open, metric
from tests.support.database import analyse_all, names, outbox, violated_invariants
from tests.support.intake import PATH, in_turn, outcome_counts, process, queued, refused, several
from tests.support.locks import locked
from tests.support.requests import body, comment
from tests.support.triggers import DATA_EXCEPTION, allow, change, refuse


@pytest.fixture
async def one_writer(make_settings: MakeSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application whose requests share the next write while a write runs."""
    async with kept_open(make_settings(COMMENT_WRITERS=1)) as client:
        yield client


def nothing_is_left(dsn: str, redis_url: str) -> bool:
    with redis.Redis.from_url(redis_url) as store:
        return names(dsn) == [] and outbox(dsn) == [] and store.dbsize() == 0


FAULTS: Final[dict[str, tuple[str, str, bool]]] = {
    "comments": ("comments", "true", False),
    "outbox": ("analysis_outbox", "true", False),
    "last-outbox-row": ("analysis_outbox", "nextval('tries') = 3", False),
    "commit": ("comments", "true", True),
    "outbox-commit": ("analysis_outbox", "true", True),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_failed_write_leaves_nothing_and_its_repeat_stores_all(
    client: httpx.AsyncClient, dsn: str, redis_url: str, fault: str
) -> None:
    table, condition, at_commit = FAULTS[fault]
    await refuse(dsn, "INSERT", table, condition, at_commit=at_commit)
    document = refused(await client.post(PATH, json=body(*several(25))), 503, "database-unavailable")
    assert "repeat" in document["detail"]
    assert "refused by the test" not in str(document)
    assert nothing_is_left(dsn, redis_url)

    await allow(dsn)
    assert outcome_counts(await process(client, *several(25))) == (25, 0, 0, 0)
    assert sorted(id_ for row in outbox(dsn) for id_ in row.comments) == sorted(names(dsn))


async def test_a_violated_constraint_is_answered_503_and_rolled_back(
    client: httpx.AsyncClient, dsn: str, redis_url: str
) -> None:
    await change(dsn, "ALTER TABLE analysis_outbox ADD CONSTRAINT none CHECK (cardinality(comment_ids) > 1000)")
    refused(await client.post(PATH, json=body(*several(3))), 503, "database-unavailable")
    assert nothing_is_left(dsn, redis_url)


async def test_a_request_that_edits_its_own_comment_is_stored_entirely_or_not_at_all(
    client: httpx.AsyncClient, dsn: str, redis_url: str
) -> None:
    await refuse(dsn, "UPDATE", "comments")
    first_and_edit = [*several(5), comment("c0", "edited")]
    refused(await client.post(PATH, json=body(*first_and_edit)), 503, "database-unavailable")
    assert nothing_is_left(dsn, redis_url)
    await allow(dsn)
    assert outcome_counts(await process(client, *first_and_edit)) == (5, 1, 0, 0)


async def test_a_failed_edit_changes_neither_text_nor_versions_nor_queue(client: httpx.AsyncClient, dsn: str) -> None:
    await process(client, comment(1, "first"))
    await refuse(dsn, "INSERT", "analysis_outbox")
    refused(await client.post(PATH, json=body(comment(1, "second"))), 503, "database-unavailable")
    assert execute(dsn, "SELECT text, revision, updated_at FROM comments") == [("first", 1, None)]
    assert execute(dsn, "SELECT count(*) FROM comment_versions") == [(0,)]
    assert len(outbox(dsn)) == 1
    await allow(dsn)
    # Redis has no entry of the failed edit.
    assert outcome_counts(await process(client, comment(1, "first"))) == (0, 0, 1, 0)
    assert outcome_counts(await process(client, comment(1, "second"))) == (0, 1, 0, 0)


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
    assert outcome_counts(await process(one_writer, *several(25))) == (25, 0, 0, 0)


async def refuse_poison(dsn: str) -> None:
    """Makes PostgreSQL refuse every text that contains POISON."""
    await refuse(dsn, "INSERT OR UPDATE", "comments", "NEW.text LIKE '%POISON%'", DATA_EXCEPTION)


@pytest.mark.parametrize("position", [0, 12, 24])
async def test_a_comment_refused_by_postgresql_is_rejected_and_the_rest_is_stored(
    client: httpx.AsyncClient, dsn: str, position: int
) -> None:
    await refuse_poison(dsn)
    comments = several(25)
    comments[position]["text"] = "some POISON"
    before = metric("comment_processing_errors_total", reason="not-storable")
    answer = await process(client, *comments)
    assert outcome_counts(answer) == (24, 0, 0, 1)
    (bad,) = answer["rejected"]
    assert (bad["index"], bad["id"]) == (position, f"c{position}")
    assert "PostgreSQL" in bad["reason"]
    assert "POISON" not in bad["reason"]
    assert sorted(names(dsn)) == sorted(f"c{number}" for number in range(25) if number != position)
    assert metric("comment_processing_errors_total", reason="not-storable") - before == 1


async def test_comments_refused_by_postgresql_and_by_validation_share_a_list(
    client: httpx.AsyncClient, dsn: str
) -> None:
    await refuse_poison(dsn)
    mixed = [comment(0), comment(1, ""), comment(2, "POISON"), comment(3), comment(""), comment(5, "POISON")]
    answer = await process(client, *mixed)
    assert [(rejected["index"], rejected["id"]) for rejected in answer["rejected"]] == [
        (1, "1"),
        (2, "2"),
        (4, ""),
        (5, "5"),
    ]
    assert names(dsn) == ["0", "3"]


async def test_a_request_of_only_refused_comments_is_answered_422(client: httpx.AsyncClient, dsn: str) -> None:
    await refuse_poison(dsn)
    comments = [comment(number, "POISON") for number in range(12)]
    document = refused(await client.post(PATH, json=body(*comments)), 422, "all-rejected")
    assert [(rejected["index"], rejected["id"]) for rejected in document["rejected"]] == [
        (n, str(n)) for n in range(12)
    ]
    assert names(dsn) == []


async def test_a_refused_edit_keeps_the_old_text_and_other_edits_are_stored(
    client: httpx.AsyncClient, dsn: str
) -> None:
    await refuse_poison(dsn)
    await process(client, comment(1), comment(2))
    answer = await process(client, comment(1, "POISON"), comment(2, "edited"), comment(1, "edited"), comment(3))
    assert outcome_counts(answer) == (1, 2, 0, 1)
    assert answer["rejected"][0]["index"] == 0
    assert execute(dsn, "SELECT comment_id, text, revision FROM comments ORDER BY comment_id") == [
        ("1", "edited", 2),
        ("2", "edited", 2),
        ("3", "text of 3", 1),
    ]


async def test_a_refused_comment_does_not_affect_other_requests_of_its_write(
    one_writer: httpx.AsyncClient, dsn: str, make_settings: MakeSettings
) -> None:
    await refuse_poison(dsn)
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
    assert [outcome_counts(answer) for answer in answers] == [(1, 0, 0, 0), (15, 0, 0, 0), (18, 0, 0, 1), (15, 0, 0, 0)]
    assert len(names(dsn)) == 49
    assert await violated_invariants(make_settings()) == []


async def test_results_and_the_removal_of_their_outbox_row_share_a_commit(
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
