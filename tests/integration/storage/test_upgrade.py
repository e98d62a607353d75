"""This release on the schema of the one before, that one on this schema, and what the migrations make of the data."""

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError
from tests.conftest import MakeSettings, execute, open_client, until
from tests.support.database import analyse_all, broken_promises, holding, opened
from tests.support.intake import PATH, fates, lifecycle, process, refused
from tests.support.requests import body, comment, parsed

from comment_monitor.storage import comments as stored
from comment_monitor.storage import migrations


async def read(client: httpx.AsyncClient, id_: object) -> dict[str, Any]:
    response = await client.get(f"/comments/threads/{id_}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_on_the_schema_before_all_goes_on_but_what_the_migration_brings(
    empty_dsn: str, make_settings: MakeSettings
) -> None:
    migrations.upgrade(empty_dsn, "008")
    settings = make_settings(POSTGRES_DSN=empty_dsn)
    async with open_client(settings) as client:
        assert (await client.get("/health")).status_code == 200
        assert fates(await process(client, comment(1), comment(2), comment(3))) == (3, 0, 0, 0)
        assert fates(await process(client, comment(1), comment(2, "edited"), comment(4))) == (1, 1, 1, 0)
        await analyse_all(settings)
        found = await read(client, 2)
        assert (found["text"], found["author_id"], found["removed_at"]) == ("edited", None, None)
        assert [one["text"] for one in found["versions"]] == ["text of 2"]
        assert (await client.get("/comments", params={"source": "threads", "id": "1"})).json()["items"]
        for path in ("/comments", "/posts", "/posts/threads/post/summary"):
            assert (await client.get(path)).status_code == 200
        for more in ({"author": None}, {"author_id": "7"}, {"edited_at": "2026-01-31T09:30:00Z"}, {"likes": 0}):
            document = refused(await client.post(PATH, json=body(comment(9, **more))), 503, "schema-behind")
            assert "migrate" in document["detail"]


async def test_an_upgrade_under_traffic_fails_no_request(empty_dsn: str, make_settings: MakeSettings) -> None:
    """New pods begin on the old schema; the migration comes while they work."""
    migrations.upgrade(empty_dsn, "008")
    settings = make_settings(POSTGRES_DSN=empty_dsn)
    answers: list[int] = []
    async with open_client(settings) as client:

        async def send() -> None:
            number = 0
            while not done.is_set():
                response = await client.post(PATH, json=body(comment(number), comment(number // 2, f"edit {number}")))
                answers.append(response.status_code)
                number += 1
                await asyncio.sleep(0)

        done = asyncio.Event()
        sending = [asyncio.create_task(send()) for _ in range(3)]
        await until(lambda: len(answers) > 50)
        await asyncio.to_thread(migrations.upgrade, empty_dsn)
        await until(lambda: not lifecycle(client).runtime.schema.before_009)
        before = len(answers)
        await until(lambda: len(answers) > before + 50)
        done.set()
        await asyncio.gather(*sending)
        assert set(answers) == {200}
        assert fates(await process(client, comment("later", author=None, likes=1))) == (1, 0, 0, 0)
        assert (await read(client, "later"))["likes"] == 1
    assert await broken_promises(settings) == []


async def test_the_release_before_works_on_this_schema(make_settings: MakeSettings, dsn: str) -> None:
    """Its pods still run while the first new ones do."""
    settings = make_settings()
    async with opened(settings) as database, open_client(settings) as client:

        async def write_as_before(*comments: dict[str, Any]) -> stored.Written:
            taken = sorted(parsed(*comments).comments, key=lambda one: one.key)
            async with database.transaction() as conn:
                return await stored.write(conn, taken, batch_size=10, resend_after=None, before_009=True)

        assert (await write_as_before(comment(1, "v1"), comment(2, "v1"))).all_new
        await process(client, comment(1, "v2"), comment(2, "[removed]"), {"id": "3", "text": "nobody's"})
        written = await write_as_before(comment(1, "v1"), comment(2, "v3"), comment(3, "nobody's"))
        assert [fate.status for fate, _ in written.outcomes.values()] == ["updated"]
        assert (await read(client, 1))["text"] == "v2"
        assert (await read(client, 2))["text"] == "v3"
        # The release before does not know of removals; the next delivery sets it right.
        assert fates(await process(client, comment(2, "v3"))) == (0, 0, 1, 0)
        assert (await read(client, 2))["removed_at"] is None
    assert await broken_promises(settings) == []


INSERT = "INSERT INTO comments (source, comment_id, post_id, author, text, posted_at) VALUES "


def on_008(dsn: str, *rows: tuple[str, str, str, str, str]) -> None:
    """A database of the release before with comments: source, id, post, author, text."""
    migrations.upgrade(dsn, "008")
    values = ", ".join("(" + ", ".join(f"'{value}'" for value in row) + ", NULL)" for row in rows)
    execute(dsn, INSERT + values)


def test_times_that_lie_ahead_no_longer_lead(empty_dsn: str) -> None:
    migrations.upgrade(empty_dsn, "008")
    times = {"ahead": "'9999-12-31Z'", "old": "'2001-01-01Z'", "soon": "now() + interval '20 h'", "none": "NULL"}
    execute(empty_dsn, INSERT + ", ".join(f"('threads', '{name}', 'p', 'a', 't', {at})" for name, at in times.items()))
    before = execute(empty_dsn, "SELECT comment_id, posted_at FROM comments ORDER BY id")
    migrations.upgrade(empty_dsn)
    newest_first = "SELECT comment_id FROM comments ORDER BY occurred_at DESC, id DESC"
    assert [name for (name,) in execute(empty_dsn, newest_first)] == ["soon", "none", "ahead", "old"]
    kept = "SELECT comment_id, coalesce(posted_ahead, posted_at) FROM comments ORDER BY id"
    assert execute(empty_dsn, kept) == before
    migrations.downgrade(empty_dsn, "008")
    assert execute(empty_dsn, "SELECT comment_id, posted_at FROM comments ORDER BY id") == before


def test_redis_forgets_what_was_noted_by_the_text_alone(empty_dsn: str) -> None:
    migrations.upgrade(empty_dsn, "008")
    ((old,),) = execute(empty_dsn, "SELECT cache_namespace FROM installation")
    migrations.upgrade(empty_dsn)
    ((new, previous),) = execute(empty_dsn, "SELECT cache_namespace, previous_namespace FROM installation")
    assert old != new
    assert old == previous


def test_sources_get_one_spelling_and_no_comment_is_lost(empty_dsn: str) -> None:
    on_008(
        empty_dsn,
        ("threads", "1", "p", "ana", "the same"),
        ("Threads", "1", "p", "ana", "the same"),
        ("threads", "2", "p", "ana", "one"),
        ("Threads", "2", "p", "ana", "another"),
        (" THREADS ", "3", "p", "ana", "alone"),
        ("YouTube", "1", "p", "ana", "alone"),
        ("  ", "1", "p", "ana", "blank"),
    )
    migrations.upgrade(empty_dsn)
    rows = execute(empty_dsn, "SELECT source, comment_id, text FROM comments ORDER BY 1, 2, 3")
    assert rows == [
        ("  ", "1", "blank"),
        ("Threads", "2", "another"),
        ("threads", "1", "the same"),
        ("threads", "2", "one"),
        ("threads", "3", "alone"),
        ("youtube", "1", "alone"),
    ]


async def test_a_comment_under_its_old_spelling_is_found_as_it_is_named(
    empty_dsn: str, make_settings: MakeSettings
) -> None:
    on_008(empty_dsn, ("threads", "1", "p", "ana", "one"), ("Threads", "1", "p", "ana", "another"))
    migrations.upgrade(empty_dsn)
    async with open_client(make_settings(POSTGRES_DSN=empty_dsn)) as client:
        for source, text in (("threads", "one"), ("Threads", "another"), ("THREADS", "one")):
            assert (await client.get(f"/comments/{source}/1")).json()["text"] == text
        listed = (await client.get("/comments", params={"source": "Threads"})).json()["items"]
        assert {one["text"] for one in listed} == {"one", "another"}


def test_many_comments_are_renamed_in_small_transactions(empty_dsn: str) -> None:
    migrations.upgrade(empty_dsn, "008")
    execute(
        empty_dsn,
        "INSERT INTO comments (source, comment_id, post_id, author, text)"
        " SELECT CASE WHEN n % 2 = 0 THEN 'Threads' ELSE 'threads' END, n::text, 'p', 'a', 't'"
        " FROM generate_series(1, 9000) AS n",
    )
    migrations.upgrade(empty_dsn)
    assert execute(empty_dsn, "SELECT source, count(*) FROM comments GROUP BY 1") == [("threads", 9000)]
    # 4,500 were of the right spelling, in the one transaction that made them all.
    sizes = execute(empty_dsn, "SELECT count(*) FROM comments GROUP BY xmin::text ORDER BY 1")
    assert sizes == [(500,), (2000,), (2000,), (4500,)]


def test_a_renaming_that_is_cut_short_goes_on_at_the_next_start(empty_dsn: str) -> None:
    on_008(empty_dsn, *(("Threads", str(number), "p", "ana", "t") for number in range(5000)))
    migrations.upgrade(empty_dsn, "009")
    with (
        holding(empty_dsn, "SELECT FROM comments WHERE comment_id = '4999' FOR UPDATE"),
        pytest.raises(OperationalError, match="lock timeout"),
    ):
        migrations.upgrade(empty_dsn)
    assert migrations.current(empty_dsn) == "009"
    assert {source for (source,) in execute(empty_dsn, "SELECT DISTINCT source FROM comments")} >= {"threads"}
    migrations.upgrade(empty_dsn)
    assert execute(empty_dsn, "SELECT source, count(*) FROM comments GROUP BY 1") == [("threads", 5000)]
    assert migrations.current(empty_dsn) == migrations.head()
