"""This release on the previous schema, the previous release on this schema, and the migrated data."""

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError
from tests.conftest import MakeSettings, execute, open_client, until
from tests.support.database import analyse_all, holding, opened, violated_invariants
from tests.support.intake import PATH, lifecycle, outcome_counts, process, refused
from tests.support.requests import body, comment, parsed

from comment_monitor.storage import comments as stored
from comment_monitor.storage import migrations


async def read(client: httpx.AsyncClient, id_: object) -> dict[str, Any]:
    response = await client.get(f"/comments/threads/{id_}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_the_previous_schema_supports_all_but_the_new_fields(empty_dsn: str, make_settings: MakeSettings) -> None:
    migrations.upgrade(empty_dsn, "008")
    settings = make_settings(POSTGRES_DSN=empty_dsn)
    async with open_client(settings) as client:
        assert (await client.get("/health")).status_code == 200
        assert outcome_counts(await process(client, comment(1), comment(2), comment(3))) == (3, 0, 0, 0)
        assert outcome_counts(await process(client, comment(1), comment(2, "edited"), comment(4))) == (1, 1, 1, 0)
        await analyse_all(settings)
        found = await read(client, 2)
        assert (found["text"], found["author_id"], found["removed_at"]) == ("edited", None, None)
        assert [version["text"] for version in found["versions"]] == ["text of 2"]
        assert (await client.get("/comments", params={"source": "threads", "id": "1"})).json()["items"]
        for path in ("/comments", "/posts", "/posts/threads/post/summary"):
            assert (await client.get(path)).status_code == 200
        for more in ({"author": None}, {"author_id": "7"}, {"edited_at": "2026-01-31T09:30:00Z"}, {"likes": 0}):
            document = refused(await client.post(PATH, json=body(comment(9, **more))), 503, "schema-behind")
            assert "migrate" in document["detail"]


async def test_an_upgrade_under_traffic_fails_no_request(empty_dsn: str, make_settings: MakeSettings) -> None:
    """New pods start on the old schema, and the migration runs while they work."""
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
        assert outcome_counts(await process(client, comment("later", author=None, likes=1))) == (1, 0, 0, 0)
        assert (await read(client, "later"))["likes"] == 1
    assert await violated_invariants(settings) == []


async def test_the_previous_release_works_on_this_schema(make_settings: MakeSettings, dsn: str) -> None:
    """Pods of the previous release still run while the first new pods do."""
    settings = make_settings()
    async with opened(settings) as database, open_client(settings) as client:

        async def write_as_before(*comments: dict[str, Any]) -> stored.Written:
            taken = sorted(parsed(*comments).comments, key=lambda item: item.key)
            async with database.transaction() as conn:
                return await stored.write(conn, taken, batch_size=10, resend_after=None, before_009=True)

        assert (await write_as_before(comment(1, "v1"), comment(2, "v1"))).all_new
        await process(client, comment(1, "v2"), comment(2, "[removed]"), {"id": "3", "text": "nobody's"})
        written = await write_as_before(comment(1, "v1"), comment(2, "v3"), comment(3, "nobody's"))
        assert [outcome.status for outcome, _ in written.outcomes.values()] == ["updated"]
        assert (await read(client, 1))["text"] == "v2"
        assert (await read(client, 2))["text"] == "v3"
        # The previous release does not know removals; the next delivery corrects the row.
        assert outcome_counts(await process(client, comment(2, "v3"))) == (0, 0, 1, 0)
        assert (await read(client, 2))["removed_at"] is None
    assert await violated_invariants(settings) == []


INSERT = "INSERT INTO comments (source, comment_id, post_id, author, text, posted_at) VALUES "


def on_008(dsn: str, *rows: tuple[str, str, str, str, str]) -> None:
    """Creates a database of the previous release with comments: source, id, post, author, text."""
    migrations.upgrade(dsn, "008")
    values = ", ".join("(" + ", ".join(f"'{value}'" for value in row) + ", NULL)" for row in rows)
    execute(dsn, INSERT + values)


def test_timestamps_in_the_future_no_longer_sort_first(empty_dsn: str) -> None:
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


def test_the_upgrade_invalidates_cache_entries_of_the_old_format(empty_dsn: str) -> None:
    migrations.upgrade(empty_dsn, "008")
    ((old,),) = execute(empty_dsn, "SELECT cache_namespace FROM installation")
    migrations.upgrade(empty_dsn)
    ((new, previous),) = execute(empty_dsn, "SELECT cache_namespace, previous_namespace FROM installation")
    assert old != new
    assert old == previous


def test_sources_get_a_single_spelling_and_no_comment_is_lost(empty_dsn: str) -> None:
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


async def test_a_comment_with_an_old_source_spelling_is_found_under_that_spelling(
    empty_dsn: str, make_settings: MakeSettings
) -> None:
    on_008(empty_dsn, ("threads", "1", "p", "ana", "one"), ("Threads", "1", "p", "ana", "another"))
    migrations.upgrade(empty_dsn)
    async with open_client(make_settings(POSTGRES_DSN=empty_dsn)) as client:
        for source, text in (("threads", "one"), ("Threads", "another"), ("THREADS", "one")):
            assert (await client.get(f"/comments/{source}/1")).json()["text"] == text
        listed = (await client.get("/comments", params={"source": "Threads"})).json()["items"]
        assert {item["text"] for item in listed} == {"one", "another"}


def test_sources_of_many_comments_are_renamed_in_small_transactions(empty_dsn: str) -> None:
    migrations.upgrade(empty_dsn, "008")
    execute(
        empty_dsn,
        "INSERT INTO comments (source, comment_id, post_id, author, text)"
        " SELECT CASE WHEN n % 2 = 0 THEN 'Threads' ELSE 'threads' END, n::text, 'p', 'a', 't'"
        " FROM generate_series(1, 9000) AS n",
    )
    migrations.upgrade(empty_dsn)
    assert execute(empty_dsn, "SELECT source, count(*) FROM comments GROUP BY 1") == [("threads", 9000)]
    # 4,500 comments had the right spelling; a single transaction inserted them.
    sizes = execute(empty_dsn, "SELECT count(*) FROM comments GROUP BY xmin::text ORDER BY 1")
    assert sizes == [(500,), (2000,), (2000,), (4500,)]


def test_an_interrupted_renaming_continues_at_the_next_start(empty_dsn: str) -> None:
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
