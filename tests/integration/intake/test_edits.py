"""Which text of a comment is the latest: late repeats, times of edits, removal notices."""

import random
from typing import Any, Final

import httpx
import pytest
from tests.conftest import MakeSettings, execute, metric, open_client
from tests.support.database import analyse_all, names, violated_invariants
from tests.support.intake import outcome_counts, process
from tests.support.requests import comment

STORED: Final = (1, 0, 0, 0)
UPDATED: Final = (0, 1, 0, 0)
DUPLICATE: Final = (0, 0, 1, 0)


def at(second: int) -> str:
    return f"2026-01-31T09:30:{second:02}Z"


async def read(client: httpx.AsyncClient, id_: object = 1) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/comments/threads/{id_}")).json()
    return found


async def texts(client: httpx.AsyncClient) -> list[str]:
    """Returns the versions of comment 1, the oldest first, and its text."""
    found = await read(client)
    assert [version["revision"] for version in found["versions"]] == [*range(len(found["versions"]), 0, -1)]
    return [*(version["text"] for version in reversed(found["versions"])), found["text"]]


async def outcomes(client: httpx.AsyncClient, *sent: tuple[str, str | None]) -> list[tuple[int, int, int, int]]:
    """Sends texts with their `edited_at`, each in its own request; returns the counts of each response."""
    return [outcome_counts(await process(client, comment(1, text, edited_at=edited_at))) for text, edited_at in sent]


@pytest.mark.parametrize("redis", ["with-redis", "without-redis"])
async def test_a_repeated_earlier_version_changes_nothing(make_settings: MakeSettings, redis: str) -> None:
    async with open_client(make_settings(**({} if redis == "with-redis" else {"REDIS_URL": ""}))) as client:
        before = metric("comment_duplicates_detected_total", tier="version")
        found = await outcomes(client, *((text, None) for text in ("v1", "v2", "v1", "v1", "v2", "v3", "v2", "v1")))
        assert found == [STORED, UPDATED, DUPLICATE, DUPLICATE, DUPLICATE, UPDATED, DUPLICATE, DUPLICATE]
        assert await texts(client) == ["v1", "v2", "v3"]
        assert metric("comment_duplicates_detected_total", tier="version") - before == 4


async def test_alternating_texts_make_a_single_version(client: httpx.AsyncClient, make_settings: MakeSettings) -> None:
    sent = [("Tom & Jerry" if number % 2 else "Tom &amp; Jerry", None) for number in range(20)]
    assert await outcomes(client, *sent) == [STORED, UPDATED, *[DUPLICATE] * 18]
    assert await texts(client) == ["Tom &amp; Jerry", "Tom & Jerry"]
    assert await violated_invariants(make_settings()) == []


async def test_alternating_texts_in_a_request_count_like_those_over_several(client: httpx.AsyncClient) -> None:
    answer = await process(client, *(comment(1, text) for text in ("x", "y", "x", "y", "x")))
    assert outcome_counts(answer) == (1, 1, 3, 0)
    assert await texts(client) == ["x", "y"]


async def test_an_earlier_text_after_a_day_is_an_edit(client: httpx.AsyncClient, dsn: str) -> None:
    await outcomes(client, ("v1", None), ("v2", None))
    execute(dsn, "UPDATE comment_versions SET replaced_at = now() - interval '23 h 59 min'")
    assert await outcomes(client, ("v1", None)) == [DUPLICATE]
    execute(dsn, "UPDATE comment_versions SET replaced_at = now() - interval '24 h 1 min'")
    assert await outcomes(client, ("v1", None), ("v2", None)) == [UPDATED, DUPLICATE]
    assert await texts(client) == ["v1", "v2", "v1"]


async def test_a_text_is_compared_with_the_last_hundred_versions(client: httpx.AsyncClient) -> None:
    """The comparison is bounded, so that an edit costs the same for any number of versions."""
    await process(client, *(comment(1, f"v{number}") for number in range(102)))
    assert await outcomes(client, ("v1", None), ("v0", None)) == [DUPLICATE, UPDATED]
    assert len((await read(client))["versions"]) == 100


ORDERS: Final = {
    "in-order": ("abc", "abc"),
    "backwards": ("cba", "c"),
    "middle-last": ("acb", "ac"),
    "first-again": ("abca", "abc"),
    "middle-again": ("abcb", "abc"),
}


@pytest.mark.parametrize("name", ORDERS)
async def test_the_text_with_the_latest_edited_at_is_kept(client: httpx.AsyncClient, name: str) -> None:
    order, kept = ORDERS[name]
    await outcomes(client, *((text, at("abc".index(text))) for text in order))
    assert await texts(client) == [*kept]
    assert (await read(client))["edited_at"] == at(2)


async def test_timed_edits_in_any_order_end_with_the_latest(client: httpx.AsyncClient) -> None:
    choice = random.Random(1)
    for id_ in range(20):
        edits = [comment(id_, f"text {number}", edited_at=at(number)) for number in range(6)]
        choice.shuffle(edits)
        for number in range(0, 6, 2):
            await process(client, *edits[number : number + 2])
        assert (await read(client, id_))["text"] == "text 5"


async def test_an_earlier_text_with_a_later_edited_at_is_an_edit(client: httpx.AsyncClient) -> None:
    found = await outcomes(client, ("v1", at(1)), ("v2", at(2)), ("v1", at(3)), ("v2", at(2)), ("v1", at(3)))
    assert found == [STORED, UPDATED, UPDATED, DUPLICATE, DUPLICATE]
    assert await texts(client) == ["v1", "v2", "v1"]


async def test_the_original_without_edited_at_never_replaces_a_timed_edit(client: httpx.AsyncClient, dsn: str) -> None:
    """Platforms send a time only for edited comments; an older file holds the originals."""
    await outcomes(client, ("v1", None), ("v2", at(2)))
    execute(dsn, "UPDATE comment_versions SET replaced_at = now() - interval '30 d'")
    assert await outcomes(client, ("v1", None)) == [DUPLICATE]
    assert await texts(client) == ["v1", "v2"]
    # A new text is an edit, with or without a time.
    assert await outcomes(client, ("v3", None)) == [UPDATED]
    assert (await read(client))["edited_at"] == at(2)


async def test_a_later_edited_at_of_the_same_text_is_stored_without_a_version(client: httpx.AsyncClient) -> None:
    assert await outcomes(client, ("v1", at(1)), ("v1", at(5)), ("v2", at(3))) == [STORED, DUPLICATE, DUPLICATE]
    assert await texts(client) == ["v1"]
    assert (await read(client))["edited_at"] == at(5)


async def test_an_edited_at_in_the_future_does_not_win(client: httpx.AsyncClient) -> None:
    """Otherwise a single text of the year 9999 could never be edited."""
    far = "9999-01-01T00:00:00Z"
    assert await outcomes(client, ("v1", far)) == [STORED]
    assert (await read(client))["edited_at"] == far
    assert await outcomes(client, ("v2", at(1)), ("v1", far), ("v3", at(2))) == [UPDATED, DUPLICATE, UPDATED]
    assert await texts(client) == ["v1", "v2", "v3"]


async def test_edits_of_the_same_second_apply_in_order_of_arrival(client: httpx.AsyncClient) -> None:
    assert await outcomes(client, ("v1", at(1)), ("v2", at(1)), ("v1", at(1))) == [STORED, UPDATED, DUPLICATE]


FUTURE: Final = "9999-12-31T23:59:59Z"


async def test_a_comment_with_a_future_timestamp_sorts_by_its_arrival(client: httpx.AsyncClient) -> None:
    await process(client, comment("ahead", timestamp=FUTURE), comment("old", timestamp=at(1)), post_id="p")
    await process(client, comment("new"), post_id="q")
    items = (await client.get("/comments")).json()["items"]
    assert [(item["id"], item["timestamp"]) for item in items] == [("new", None), ("ahead", FUTURE), ("old", at(1))]
    posts = (await client.get("/posts")).json()["items"]
    assert [post["post_id"] for post in posts] == ["q", "p"]
    assert posts[1]["last_comment_at"] == items[1]["created_at"]
    assert (await client.get("/comments", params={"since": "2500-01-01"})).json()["items"] == []
    assert (await read(client, "ahead"))["timestamp"] == FUTURE
    assert outcome_counts(await process(client, comment("ahead", timestamp=FUTURE), post_id="p")) == DUPLICATE


async def test_a_timestamp_some_hours_ahead_is_accepted(client: httpx.AsyncClient, dsn: str) -> None:
    ((soon,),) = execute(dsn, "SELECT to_char(now() AT TIME ZONE 'UTC' + '23 h', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")
    await process(client, comment("soon", timestamp=soon))
    await process(client, comment("now"))
    assert [item["id"] for item in (await client.get("/comments")).json()["items"]] == ["soon", "now"]


NOTICES: Final = ("[removed]", "[deleted]", "[ Removed by Reddit ]", "[deleted by user]")


@pytest.mark.parametrize("notice", NOTICES, ids=["removed", "deleted", "by-reddit", "by-user"])
@pytest.mark.parametrize(
    "author", ["ana", "[deleted]", None, "somebody else"], ids=["same", "deleted", "unknown", "other"]
)
async def test_a_removed_comment_keeps_its_author_and_its_last_text(
    client: httpx.AsyncClient, make_settings: MakeSettings, notice: str, author: str | None
) -> None:
    await process(client, comment(1, "Where can I buy this?"))
    assert (await read(client))["removed_at"] is None
    assert outcome_counts(await process(client, comment(1, notice, author=author))) == UPDATED
    await analyse_all(make_settings())
    found = await read(client)
    assert (found["author"], found["text"], found["removed_at"] is None) == ("ana", notice, False)
    assert [version["text"] for version in found["versions"]] == ["Where can I buy this?"]
    assert (found["analysis"]["labels"], found["analysis"]["sentiment"]) == ([], None)
    assert await violated_invariants(make_settings()) == []


async def test_a_removed_comment_stays_removed_for_every_notice(client: httpx.AsyncClient) -> None:
    for text, expected in (("words", STORED), ("[removed]", UPDATED), ("[deleted]", DUPLICATE), ("words", DUPLICATE)):
        assert outcome_counts(await process(client, comment(1, text))) == expected
    since = (await read(client))["removed_at"]
    assert outcome_counts(await process(client, comment(1, "[removed]", author="[deleted]"))) == DUPLICATE
    assert (await read(client))["removed_at"] == since
    assert await texts(client) == ["words", "[removed]"]


async def test_a_restored_comment_has_its_text_again(client: httpx.AsyncClient, dsn: str) -> None:
    await outcomes(client, ("words", None), ("[removed]", None))
    execute(dsn, "UPDATE comment_versions SET replaced_at = now() - interval '2 d'")
    assert await outcomes(client, ("words", None), ("[removed]", None)) == [UPDATED, UPDATED]
    execute(dsn, "UPDATE comment_versions SET replaced_at = now() - interval '2 d'")
    assert await outcomes(client, ("other words", None)) == [UPDATED]
    assert (await read(client))["removed_at"] is None
    assert await texts(client) == ["words", "[removed]", "words", "[removed]", "other words"]


async def test_removal_notices_are_never_labelled_repeated(
    client: httpx.AsyncClient, make_settings: MakeSettings
) -> None:
    notice = "[ Removed by the moderators ]"
    await process(client, *(comment(number, f"a text of its own, number {number}") for number in range(5)))
    await process(client, *(comment(number, notice) for number in range(5)), comment("new", notice, author="[deleted]"))
    await analyse_all(make_settings())
    for item in (await client.get("/comments")).json()["items"]:
        assert (item["analysis"]["labels"], item["analysis"]["status"]) == ([], "done")
        assert item["removed_at"] is not None
    assert (await read(client, "new"))["author"] is None


async def test_a_removal_notice_of_another_platform_is_an_ordinary_text(client: httpx.AsyncClient) -> None:
    await process(client, comment(1, "[flagged]"), source="threads")
    await process(client, comment(1, "[flagged]"), source="HackerNews")
    removed = {item["source"]: item["removed_at"] for item in (await client.get("/comments")).json()["items"]}
    assert removed["threads"] is None
    assert removed["hackernews"] is not None


async def test_another_author_cannot_restore_a_removed_comment(client: httpx.AsyncClient, dsn: str) -> None:
    await process(client, comment(1, "words"), comment(2))
    await process(client, comment(1, "[removed]", author="[deleted]"))
    answer = await process(client, comment(1, "other words", author="ben"), comment(2))
    assert outcome_counts(answer) == (0, 0, 1, 1)
    assert (await read(client))["text"] == "[removed]"
    assert names(dsn) == ["1", "2"]
