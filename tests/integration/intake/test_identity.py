"""The identity of a comment: edits, renames and repeats are distinguished from another comment of the same id."""

import asyncio
import copy
import itertools
import random
from typing import Any, Final

import httpx
import pytest
import redis
from tests.conftest import MakeSettings, execute, metric, open_client, until
from tests.support.database import analyse_all, blocked, holding, violated_invariants
from tests.support.identity import Table
from tests.support.intake import PATH, accepted, outcome_counts, process
from tests.support.requests import adds_up, body, comment

CONFLICT: Final = (0, 0, 0, 1)
DUPLICATE: Final = (0, 0, 1, 0)
EDIT: Final = (0, 1, 0, 0)


async def post(client: httpx.AsyncClient, *comments: dict[str, Any], post_id: str = "post") -> dict[str, Any]:
    """Sends comments; returns the response, also if every comment is rejected."""
    response = await client.post(PATH, json=body(*comments, post_id=post_id))
    document: dict[str, Any] = response.json()
    if response.status_code == 422:
        return {"stored": 0, "updated": 0, "duplicates": 0, **document}
    assert response.status_code == 200, response.text
    assert adds_up(document)
    return document


async def read(client: httpx.AsyncClient, id_: object = 1) -> dict[str, Any]:
    response = await client.get("/comments", params={"source": "threads", "id": str(id_)})
    (found,) = response.json()["items"]
    return dict(found)


async def outcome(client: httpx.AsyncClient, sent: dict[str, Any], post_id: str = "post") -> tuple[int, int, int, int]:
    return outcome_counts(await post(client, sent, post_id=post_id))


# The first comment, the second comment of the same id with its post, and the outcome.
ANA: Final = {"author": "ana"}
BEN: Final = {"author": "ben"}
OUTCOMES: Final[dict[str, tuple[dict[str, Any], dict[str, Any], str, tuple[int, int, int, int]]]] = {
    "repeat": (ANA, {"text": "nice", **ANA}, "post", DUPLICATE),
    "text": (ANA, {"text": "awful", **ANA}, "post", EDIT),
    "post-and-text": (ANA, {"text": "awful", **ANA}, "other", CONFLICT),
    "post": (ANA, {"text": "nice", **ANA}, "other", CONFLICT),
    "post-in-other-case": (ANA, {"text": "nice", **ANA}, "Post", CONFLICT),
    "post-and-unknown-author": (ANA, {"text": "nice", "author": None}, "other", CONFLICT),
    "author-and-text": (ANA, {"text": "awful", **BEN}, "post", CONFLICT),
    "author": (ANA, {"text": "nice", **BEN}, "post", DUPLICATE),
    "unknown-author-and-text": (ANA, {"text": "awful", "author": None}, "post", EDIT),
    "author-becomes-known": ({"author": None}, {"text": "awful", **BEN}, "post", EDIT),
    "author-of-same-author-id": (
        {"author_id": "7", **ANA},
        {"text": "awful", "author_id": "7", **BEN},
        "post",
        EDIT,
    ),
    "author-id-and-text": (
        {"author_id": "7", **ANA},
        {"text": "awful", "author_id": "8", **ANA},
        "post",
        CONFLICT,
    ),
    "author-id": (
        {"author_id": "7", **ANA},
        {"text": "nice", "author_id": "8", **BEN},
        "post",
        CONFLICT,
    ),
    "first-author-id": (ANA, {"text": "awful", "author_id": "7", **ANA}, "post", EDIT),
    "first-author-id-and-author": (
        ANA,
        {"text": "awful", "author_id": "7", **BEN},
        "post",
        CONFLICT,
    ),
    "missing-author-id": ({"author_id": "7", **ANA}, {"text": "awful", **BEN}, "post", CONFLICT),
}


@pytest.mark.parametrize("way", ["two-requests", "without-redis", "same-request"])
@pytest.mark.parametrize("name", OUTCOMES)
async def test_post_author_and_text_decide_the_outcome_of_a_known_id(
    make_settings: MakeSettings, name: str, way: str
) -> None:
    first, then, post_id, expected = OUTCOMES[name]
    stored, sent = comment(1, "nice", **{"author": None, **first}), comment(1, **{"author": None, **then})
    async with open_client(make_settings(**({"REDIS_URL": ""} if way == "without-redis" else {}))) as client:
        if way == "same-request" and post_id == "post":
            answer = outcome_counts(await process(client, stored, sent))
            assert answer == (1, *expected[1:])
        else:
            await process(client, stored)
            assert await outcome(client, sent, post_id) == expected
        found = await read(client)
    assert found["post_id"] == "post"
    assert found["text"] == (sent["text"] if expected == EDIT else "nice")
    taken = stored if expected == CONFLICT or sent["author"] is None else sent
    assert found["author"] == taken["author"]


async def test_a_conflict_is_rejected_and_the_rest_is_stored(client: httpx.AsyncClient) -> None:
    await process(client, comment(1, "nice"), post_id="A")
    conflicts = metric("comment_processing_errors_total", reason="conflict")
    answer = await process(client, comment(0), comment(1, "awful", author="ben"), comment(2), post_id="B")
    assert outcome_counts(answer) == (2, 0, 0, 1)
    assert answer["rejected"] == [{"index": 1, "id": "1", "reason": "id 1 belongs to another comment (post A)"}]
    assert metric("comment_processing_errors_total", reason="conflict") - conflicts == 1
    answer = await post(client, comment(1, "awful", author="ben"), post_id="A")
    assert answer["rejected"][0]["reason"] == "id 1 belongs to another comment (post A), by another author"
    found = await read(client)
    assert (found["author"], found["post_id"], found["text"], found["versions"]) == ("ana", "A", "nice", [])


async def test_a_repeated_conflict_is_rejected_every_time(client: httpx.AsyncClient, dsn: str) -> None:
    """Redis has an entry of the stored comment, never of the rejected comment."""
    await process(client, comment(1, "nice"), post_id="A")
    before = execute(dsn, "SELECT xmin::text, ctid::text FROM comments")
    for _ in range(3):
        assert await outcome(client, comment(1, "nice"), "B") == CONFLICT
        assert await outcome(client, comment(1, "awful", author="ben"), "A") == CONFLICT
        assert await outcome(client, comment(1, "nice"), "A") == DUPLICATE
    # Nothing was written.
    assert execute(dsn, "SELECT xmin::text, ctid::text FROM comments") == before


async def test_ids_rounded_by_a_spreadsheet_do_not_mix_comments(client: httpx.AsyncClient) -> None:
    answer = await process(
        client,
        comment("1.79414E+17", "first", author="ana"),
        comment("1.79414E+17", "second", author="ben"),
        comment("1.79414E+17", "third", author="eva"),
    )
    assert outcome_counts(answer) == (1, 0, 0, 2)
    assert [rejected["index"] for rejected in answer["rejected"]] == [1, 2]
    found = await read(client, "1.79414E+17")
    assert (found["author"], found["text"]) == ("ana", "first")


async def test_a_rename_changes_only_the_name(client: httpx.AsyncClient, make_settings: MakeSettings, dsn: str) -> None:
    await process(client, comment(1, "I love it so much"))
    await analyse_all(make_settings())
    before = await read(client)
    answer = await process(client, comment(1, "I love it so much", author="anna"))
    assert (outcome_counts(answer), answer["queued"]) == (DUPLICATE, 0)
    assert await read(client) == {**before, "author": "anna"}
    assert execute(dsn, "SELECT revision, updated_at FROM comments") == [(1, None)]
    assert execute(dsn, "SELECT count(*) FROM analysis_outbox") == [(0,)]
    assert await violated_invariants(make_settings()) == []


async def test_a_rename_is_stored_in_the_cache(client: httpx.AsyncClient) -> None:
    await process(client, comment(1))
    await process(client, comment(1, author="anna"))
    cached = metric("comment_duplicates_detected_total", tier="cache")
    assert await outcome(client, comment(1, author="anna")) == DUPLICATE
    assert metric("comment_duplicates_detected_total", tier="cache") - cached == 1


async def test_optional_fields_are_stored_and_updated(client: httpx.AsyncClient) -> None:
    details: dict[str, Any] = {"author_id": "7", "url": "https://example.com/1", "likes": 3}
    await process(client, comment(1, **details, edited_at="2026-01-31T10:30:00+01:00"), comment(2))
    found = await read(client)
    assert {name: found[name] for name in details} == details
    assert found["edited_at"] == "2026-01-31T09:30:00Z"
    assert [(await read(client, 2))[name] for name in (*details, "edited_at")] == [None] * 4
    assert await outcome(client, comment(1, likes=0)) == DUPLICATE
    assert await outcome(client, comment(1, url="https://example.com/2")) == DUPLICATE
    again = await read(client)
    assert again == {**found, "likes": 0, "url": "https://example.com/2"}
    (listed,) = (await client.get("/comments", params={"author": "ana", "limit": 1})).json()["items"][:1]
    assert "versions" not in listed


@pytest.mark.parametrize(
    "withheld", [{"author": None}, {"author": ""}, {"author": " "}, {}], ids=["null", "empty", "blank", "absent"]
)
async def test_a_withheld_author_is_returned_as_null(client: httpx.AsyncClient, withheld: dict[str, Any]) -> None:
    sent = {"id": "1", "text": "text", **withheld}
    assert outcome_counts(await process(client, sent)) == (1, 0, 0, 0)
    assert outcome_counts(await process(client, sent, {"id": "1", "text": "text", "author": None})) == (0, 0, 2, 0)
    assert (await read(client))["author"] is None
    summary = (await client.get("/posts/threads/post/summary")).json()
    assert (summary["comments"], summary["authors"]) == (1, 0)


async def test_two_concurrent_comments_of_the_same_id_never_mix(make_settings: MakeSettings, dsn: str) -> None:
    """Each row holds one comment entirely, and the other is rejected, over several processes and writers."""
    async with (
        open_client(make_settings(COMMENT_WRITERS=4)) as first,
        open_client(make_settings(REDIS_URL="")) as other,
    ):
        for round_ in range(40):
            a = comment(round_, "ana's words", author="ana")
            b = comment(round_, "ben's words", author="ben")
            answers = await asyncio.gather(
                post(first, a, post_id="A"),
                post(other, b, post_id=random.Random(round_).choice(("A", "B"))),
                post(first, a, post_id="A"),
                post(other, a, post_id="A"),
            )
            counts = [outcome_counts(answer) for answer in answers]
            assert sum(stored for stored, *_ in counts) == 1, counts
            assert sum(updated for _, updated, *_ in counts) == 0, counts
            assert sum(rejected for *_, rejected in counts) in {1, 3}, counts
            for answer in answers:
                for rejected in answer.get("rejected", []):
                    assert f"id {round_} belongs to another comment (post " in rejected["reason"]
    rows = set(execute(dsn, "SELECT author, text FROM comments"))
    assert rows <= {("ana", "ana's words"), ("ben", "ben's words")}


async def test_a_comment_whose_id_is_committed_concurrently_is_rejected(make_settings: MakeSettings, dsn: str) -> None:
    """The other comment was not committed when the write began, so the snapshot of the write does not include it."""
    other = "INSERT INTO comments (source, comment_id, post_id, author, text) VALUES ('threads', '1', 'A', 'ana', 'a')"
    async with open_client(make_settings()) as client:
        with holding(dsn, other) as connection:
            sending = asyncio.create_task(process(client, comment(1, "b", author="ben"), comment(2), post_id="B"))
            await until(lambda: blocked(dsn))
            connection.commit()
            answer = await sending
    assert outcome_counts(answer) == (1, 0, 0, 1)
    assert answer["rejected"][0]["reason"] == "id 1 belongs to another comment (post A)"


NAMES: Final = (None, None, "ana", "ana", "ben", "[deleted]")
TEXTS: Final = ("a", "b", "b &", "b &amp;", "[removed]", "[deleted]")
TIMES: Final = (None, None, None, "2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z", "2026-01-01T00:00:03Z")


def _generated(choice: random.Random) -> tuple[str, dict[str, Any]]:
    sent = {
        "id": choice.choice("12"),
        "text": choice.choice(TEXTS),
        "author": choice.choice(NAMES),
        "author_id": choice.choice((None, None, "7", "7", "8")),
        "edited_at": choice.choice(TIMES),
        "likes": choice.choice((None, None, 1, 2)),
        "url": choice.choice((None, None, "u")),
    }
    return choice.choice(("A", "A", "A", "B")), {name: value for name, value in sent.items() if value is not None}


@pytest.mark.parametrize("seed", range(60))
async def test_any_sequence_ends_as_in_the_reference_model(
    client: httpx.AsyncClient, make_settings: MakeSettings, dsn: str, redis_url: str, seed: int
) -> None:
    """Any comments, in one request or several, with or without cache entries: the rules of the model, one by one."""
    choice = random.Random(seed)
    table = Table()
    for _ in range(12):
        post_id = choice.choice(("A", "A", "B"))
        sent = [_generated(choice)[1] for _ in range(choice.randrange(1, 5))]
        expected = [table.take(post_id, item) for item in sent]
        answer = await post(client, *sent, post_id=post_id)
        kinds = ("stored", "updated", "duplicate", "rejected")
        assert outcome_counts(answer) == tuple(map(expected.count, kinds)), (sent, expected)
        assert [rejected["index"] for rejected in answer.get("rejected", [])] == [
            at for at, kind in enumerate(expected) if kind == "rejected"
        ]
        if choice.random() < 0.2:
            with redis.Redis.from_url(redis_url) as connection:
                connection.flushall()
    for id_, row in table.rows.items():
        found = await read(client, id_)
        for name in ("post_id", "author", "author_id", "text", "edited_at", "url", "likes"):
            assert found[name] == getattr(row, name), (id_, name)
        assert (found["removed_at"] is not None) == row.removed
        assert [version["text"] for version in reversed(found["versions"])] == row.versions
    assert await violated_invariants(make_settings()) == []


async def test_counts_add_up_for_a_request_of_all_outcomes(client: httpx.AsyncClient) -> None:
    await process(client, *(comment(number, "first", author="ana") for number in range(30)))
    sent = [
        *(comment(number, "first", author="ana") for number in range(10)),
        *(comment(number, "second", author="ana") for number in range(10, 20)),
        *(comment(number, "third", author="ben") for number in range(20, 25)),
        *(comment(number, "first", author="anna") for number in range(25, 30)),
        *(comment(number, "first", author="ana") for number in range(30, 37)),
    ]
    random.Random(3).shuffle(sent)
    response = await client.post(PATH, json=body(*sent))
    assert outcome_counts(accepted(response)) == (7, 10, 15, 5)
    for rejected in response.json()["rejected"]:
        assert sent[rejected["index"]]["id"] == rejected["id"]
        assert sent[rejected["index"]]["text"] == "third"


def _as_kept(table: Table) -> dict[str, tuple[object, ...]]:
    return {
        id_: (row.post_id, row.author, row.author_id, row.text, row.likes, row.url, row.removed, tuple(row.versions))
        for id_, row in table.rows.items()
    }


def _as_stored(dsn: str) -> dict[str, tuple[object, ...]]:
    rows = execute(
        dsn,
        "SELECT comment_id, post_id, author, author_id, text, likes, url, removed_at IS NOT NULL,"
        " ARRAY(SELECT v.text FROM comment_versions v WHERE v.comment_id = c.id ORDER BY revision) FROM comments c",
    )
    return {id_: (*more, tuple(versions)) for id_, *more, versions in rows}


KINDS: Final = ("stored", "updated", "duplicate", "rejected")


@pytest.mark.parametrize("seed", range(12))
async def test_concurrent_requests_end_like_a_sequence_of_them(
    make_settings: MakeSettings, dsn: str, seed: int
) -> None:
    """Over two processes, one without Redis: outcomes, rows and versions equal those of some sequence."""
    choice = random.Random(seed)
    table = Table()
    async with (
        open_client(make_settings(COMMENT_WRITERS=3)) as first,
        open_client(make_settings(COMMENT_WRITERS=3, REDIS_URL="")) as other,
    ):
        for _ in range(25):
            sent = [_generated(choice) for _ in range(3)]
            clients = [choice.choice((first, other)) for _ in sent]
            answers = await asyncio.gather(
                *(
                    post(client, comment_, post_id=post_)
                    for client, (post_, comment_) in zip(clients, sent, strict=True)
                )
            )
            found = [KINDS[outcome_counts(answer).index(1)] for answer in answers]
            stored = _as_stored(dsn)
            for order in itertools.permutations(range(len(sent))):
                tried = copy.deepcopy(table)
                outcomes = {at: tried.take(*sent[at]) for at in order}
                if [outcomes[at] for at in range(len(sent))] == found and _as_kept(tried) == stored:
                    table = tried
                    break
            else:
                pytest.fail(f"no order of {sent} on {_as_kept(table)} gives {found} and {stored}")
