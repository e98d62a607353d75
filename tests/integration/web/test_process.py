"""`POST /comments/process`: the outcome of each comment, and the contents of every response."""

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final
from unittest.mock import ANY

import httpx
import pytest
from tests.conftest import MakeSettings, execute, open_client, until
from tests.support.database import blocked, holding, names, outbox
from tests.support.intake import PATH, accepted, in_turn, outcome_counts, process, refused, several
from tests.support.requests import body, comment

NOTHING: Final = (0, 0, 0, 0)
ANOTHER_0: Final = (
    "INSERT INTO comments (source, comment_id, post_id, author, text) VALUES ('threads', '0', 'post', 'ana', 'text')"
)


async def send(client: httpx.AsyncClient, document: Any, **headers: str) -> httpx.Response:
    """Sends the document as JSON with escapes: only an escape can represent a lone surrogate."""
    return await client.post(PATH, content=json.dumps(document).encode(), headers=headers)


async def read(client: httpx.AsyncClient, id_: str = "1") -> dict[str, Any]:
    response = await client.get(f"/comments/threads/{id_}")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


async def test_a_response_counts_new_edited_repeated_and_invalid_comments(client: httpx.AsyncClient) -> None:
    assert outcome_counts(await process(client, comment(1), comment(2))) == (2, 0, 0, 0)
    again = [comment(1), comment(2, "edited"), comment(3), comment(3), comment(4, ""), comment(5)]
    answer = await process(client, *again)
    (bad,) = answer.pop("rejected")
    counts = {"received": 6, "stored": 2, "updated": 1, "duplicates": 2, "queued": 3}
    assert answer == {"post_id": "post", **counts}
    assert (bad["index"], bad["id"]) == (4, "4")
    assert "text" in bad["reason"]


KEPT: Final = """
    SELECT comment_id, text, revision, ARRAY(SELECT v.text FROM comment_versions v WHERE v.comment_id = c.id
    ORDER BY v.revision) FROM comments c
"""


@pytest.mark.parametrize("requests", ["one-request", "several-requests"])
async def test_the_texts_of_a_comment_are_applied_in_order(client: httpx.AsyncClient, dsn: str, requests: str) -> None:
    expected = []
    for texts in ("AA", "AAAB", "AB", "ABC", "ABCCD", "ABBC"):
        comments = [comment(texts, text) for text in texts]
        groups = [comments] if requests == "one-request" else [[entry] for entry in comments]
        answers = [outcome_counts(await process(client, *group)) for group in groups]
        former = [old for old, new in pairwise(texts) if old != new]
        assert tuple(map(sum, zip(*answers, strict=True))) == (1, len(former), len(texts) - 1 - len(former), 0)
        assert [row.comments for row in outbox(dsn)].count([texts]) == 1 + len(former)
        expected.append((texts, texts[-1], 1 + len(former), former))
    assert sorted(execute(dsn, KEPT)) == sorted(expected)


async def test_an_edit_changes_only_the_text(client: httpx.AsyncClient) -> None:
    more = {"author": "ben", "parent_id": "0", "metadata": {"a": 1}, "timestamp": "2026-01-31T09:30:00Z"}
    await process(client, comment(1, "first", **more))
    before = await read(client)
    await process(client, comment(1, "second", author="ben"))
    assert await read(client) == {**before, "text": "second", "versions": [ANY]}


async def test_the_last_text_of_a_request_wins_if_its_writes_overlap(client: httpx.AsyncClient, dsn: str) -> None:
    one_write = client.app.state.settings.write_group_size  # type: ignore[attr-defined]
    comments = [comment("0"), comment("x", "first"), *several(one_write), comment("x", "last")]
    with holding(dsn, ANOTHER_0):
        (sending,) = in_turn(client, comments)
        await until(lambda: blocked(dsn))
        # If the second write does not wait for the first, its rows appear soon; if it waits, none appear.
        with suppress(TimeoutError):
            await until(lambda: names(dsn), seconds=2)
    assert outcome_counts(await sending) == (one_write + 2, 1, 0, 0)
    assert (await read(client, "x"))["text"] == "last"


async def test_the_same_id_of_another_source_is_another_comment(client: httpx.AsyncClient, dsn: str) -> None:
    for source in ("threads", "youtube", "threads 2"):
        assert outcome_counts(await process(client, comment(1), source=source)) == (1, 0, 0, 0)
    for source in ("Threads", " THREADS\t", "YouTube "):
        assert outcome_counts(await process(client, comment(1), source=source)) == (0, 0, 1, 0)
    assert outcome_counts(await process(client, comment(1))) == (0, 0, 1, 0)
    assert outcome_counts(await process(client, comment(1, "edited"), source="youtube")) == (0, 1, 0, 0)
    assert execute(dsn, "SELECT source FROM comments WHERE text = 'edited'") == [("youtube",)]


BAD: Final[list[tuple[Any, str | None, str]]] = [
    (comment(""), "", "id"),
    ({"text": "t", "author": "a"}, None, "id"),
    ({"id": 5, "text": "t", "author": "a"}, None, "id"),
    (comment("x" * 201), "x" * 200, "id"),
    (comment("n\0"), "n\ufffd", "NUL"),
    (comment("1", " \n\t\u3000"), "1", "blank"),
    (comment("2", "🙂" * 10_001), "2", "text"),
    (comment("3", "\udc00"), "3", "surrogate"),
    (comment("4", author=7), "4", "author"),
    (comment("5", author="🙂" * 201), "5", "author"),
    (comment("6", timestamp="2026-01-31T09:30:00"), "6", "RFC 3339"),
    (comment("7", parent_id="x" * 201), "7", "200"),
    (comment("8", metadata="text"), "8", "metadata"),
    ("not an object", None, "object"),
]


async def test_each_invalid_comment_is_reported_and_the_rest_is_stored(client: httpx.AsyncClient, dsn: str) -> None:
    mixed = [entry for number, (bad, _, _) in enumerate(BAD) for entry in (comment(f"good{number}"), bad)]
    answer = accepted(await send(client, body(*mixed)))
    assert outcome_counts(answer) == (len(BAD), 0, 0, len(BAD))
    assert [(rejected["index"], rejected["id"]) for rejected in answer["rejected"]] == [
        (2 * number + 1, id_) for number, (_, id_, _) in enumerate(BAD)
    ]
    for rejected, (_, _, word) in zip(answer["rejected"], BAD, strict=True):
        assert word in rejected["reason"]
    assert sorted(names(dsn)) == sorted(f"good{number}" for number in range(len(BAD)))


async def test_a_request_of_only_invalid_comments_is_refused_and_each_is_reported(
    client: httpx.AsyncClient, dsn: str
) -> None:
    document = refused(await send(client, body(*(bad for bad, _, _ in BAD))), 422, "all-rejected")
    assert [(rejected["index"], rejected["id"]) for rejected in document["rejected"]] == [
        (number, id_) for number, (_, id_, _) in enumerate(BAD)
    ]
    assert names(dsn) == []


async def test_a_request_without_comments_is_answered_with_zeros(client: httpx.AsyncClient) -> None:
    answer = await process(client)
    assert (answer["received"], answer["queued"], *outcome_counts(answer)) == (0, 0, *NOTHING)


async def test_invalid_json_gets_400(client: httpx.AsyncClient) -> None:
    for content in (b"", b"{", b"\xff", b'{"post_id":"p","comments":[]', b"NaN", b'{"a":1}x'):
        refused(await client.post(PATH, content=content), 400, "not-json")


ANOTHER_SHAPE: Final[list[Any]] = [
    *([], "text", None, {"comments": [comment(1)]}),
    *({"post_id": "p", **more} for more in ({}, {"comments": {"id": "1"}}, {"comments": None})),
    *({**body(comment(1)), name: bad} for name in ("post_id", "source") for bad in (7, "", "x" * 201, "a\0", "\ud800")),
]


async def test_json_of_another_shape_gets_422(client: httpx.AsyncClient, dsn: str) -> None:
    for document in ANOTHER_SHAPE:
        refused(await send(client, document), 422, "invalid-request")
    assert names(dsn) == []


async def test_a_request_may_have_ten_thousand_comments_and_no_more(client: httpx.AsyncClient) -> None:
    refused(await client.post(PATH, json=body(*several(10_001))), 413, "too-large")
    assert outcome_counts(await process(client, *several(10_000))) == (10_000, 0, 0, 0)


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_a_request_may_have_sixteen_mebibytes_and_no_more(
    client: httpx.AsyncClient, dsn: str, framing: str
) -> None:
    async def answer(size: int) -> httpx.Response:
        content = json.dumps(body(comment(1))).encode().ljust(size)

        async def chunks() -> AsyncIterator[bytes]:
            for at in range(0, size, 1_000_000):
                yield content[at : at + 1_000_000]

        return await client.post(PATH, content=content if framing == "content-length" else chunks())

    refused(await answer(16 * 1024 * 1024 + 1), 413, "too-large")
    assert names(dsn) == []
    assert outcome_counts(accepted(await answer(16 * 1024 * 1024))) == (1, 0, 0, 0)


async def test_only_new_comments_are_refused_while_intake_is_disabled(make_settings: MakeSettings) -> None:
    async with open_client(make_settings()) as client:
        await process(client, comment(1))
    async with open_client(make_settings(COMMENT_MONITORING_ENABLED="false")) as client:
        refused(await client.post(PATH, json=body(comment(2))), 503, "disabled")
        listed = (await client.get("/comments")).json()["items"]
        assert [item["id"] for item in listed] == ["1"]
        for path in ("/comments/threads/1", "/posts", "/posts/threads/post/summary", "/openapi.json", "/docs"):
            assert (await client.get(path)).status_code == 200
        health = await client.get("/health")
        assert (health.status_code, health.json()["checks"]["intake"]) == (200, "off")


async def test_a_valid_request_id_is_kept_and_an_invalid_id_is_replaced(client: httpx.AsyncClient) -> None:
    for given in ("a-sane.ID_1", "x" * 64):
        good = await send(client, body(comment(1)), **{"X-Request-ID": given})
        assert good.headers["X-Request-ID"] == given
        assert refused(await send(client, [], **{"X-Request-ID": given}), 422, "invalid-request")["request_id"] == given
    for given in ("", "two words", "x" * 65, '"quoted"'):
        document = refused(await send(client, [], **{"X-Request-ID": given}), 422, "invalid-request")
        assert document["request_id"] != given


async def test_an_unknown_path_or_method_gets_a_problem_document(client: httpx.AsyncClient) -> None:
    refused(await client.delete(PATH), 405, "method-not-allowed")
    refused(await client.get("/nowhere"), 404, "not-found")
    refused(await client.get("/comments/threads/unknown"), 404, "not-found")


@pytest.mark.parametrize("character", ["x", "é", "🙂"], ids=["ascii", "latin", "emoji"])
async def test_fields_of_the_greatest_length_are_stored(client: httpx.AsyncClient, character: str) -> None:
    name, text = character * 200, character * 10_000
    sent = {"id": name, "text": text, "author": name, "parent_id": name}
    assert outcome_counts(await process(client, sent, post_id=name, source=name)) == (1, 0, 0, 0)
    (found,) = (await client.get("/comments", params={"author": name})).json()["items"]
    assert {key: found[key] for key in sent} == sent
    assert (found["post_id"], found["source"]) == (name, name)


VERBATIM: Final = (
    *("\ufeff", "\ufeffx", " x ", "e\u0301", "é", "\u202etxt", "\ufb01", "a\r\nb\tc\x01\x7f"),
    *("👩🏽\u200d🚀", "\uffff", "\U0010ffff", "\\u0000", "\\ud800"),
)


async def test_a_text_is_kept_character_for_character(client: httpx.AsyncClient) -> None:
    sent = {str(number): text for number, text in enumerate(VERBATIM)}
    assert outcome_counts(await process(client, *(comment(*entry) for entry in sent.items()))) == (len(sent), 0, 0, 0)
    listed = (await client.get("/comments")).json()["items"]
    assert {entry["id"]: entry["text"] for entry in listed} == sent


async def test_texts_that_look_alike_are_different_texts(client: httpx.AsyncClient) -> None:
    for number, text in enumerate(["é", "e\u0301", "É", "é ", "\ufeffé", "ｅ\u0301"]):
        assert outcome_counts(await process(client, comment(1, text))) == (number == 0, number > 0, 0, 0)


MOMENTS: Final = (
    (None, None),
    ("", None),
    (" \t", None),
    ("2026-01-31T09:30:00Z", "2026-01-31T09:30:00Z"),
    ("2026-01-31T09:30:00.123456Z", "2026-01-31T09:30:00.123456Z"),
    ("2026-01-31T01:30:00+05:45", "2026-01-30T19:45:00Z"),
    ("2026-01-31T09:30:00-00:00", "2026-01-31T09:30:00Z"),
    ("2024-02-29T23:59:59-12:00", "2024-03-01T11:59:59Z"),
    ("2026-01-31t09:30:00z", "2026-01-31T09:30:00Z"),
    ("0001-01-01T00:00:00.000001Z", "0001-01-01T00:00:00.000001Z"),
    ("9999-12-31T23:59:59.999998Z", "9999-12-31T23:59:59.999998Z"),
)


async def test_a_timestamp_is_kept_as_its_moment_in_utc(client: httpx.AsyncClient) -> None:
    sent = [comment(number, timestamp=given) for number, (given, _) in enumerate(MOMENTS)]
    assert outcome_counts(await process(client, *sent, comment("absent"))) == (len(sent) + 1, 0, 0, 0)
    for number, (_, kept) in enumerate(MOMENTS):
        assert (await read(client, str(number)))["timestamp"] == kept
    assert (await read(client, "absent"))["timestamp"] is None


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
async def test_the_first_and_last_moments_are_kept_or_rejected_but_never_changed(
    client: httpx.AsyncClient, moment: str
) -> None:
    """PostgreSQL's driver converts them to minus and plus infinity, which cursors and clients do not support."""
    answer = await process(client, comment(1, timestamp=moment), comment(2, timestamp=moment), comment(3))
    assert outcome_counts(answer) in {(3, 0, 0, 0), (1, 0, 0, 2)}
    for number in range(answer["stored"] - 1):
        assert (await read(client, str(number + 1)))["timestamp"] == moment


NO_MOMENTS: Final = (
    *("2026-01-31", "2026-01-31T09:30:00", "2026-02-29T00:00:00Z", "2026-01-31T24:00:00Z", "1769851800", "now"),
    *("0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"),
    # A leap second is a moment that neither Python nor PostgreSQL can store.
    *("2016-12-31T23:59:60Z", 1769851800),
)


async def test_an_invalid_timestamp_is_rejected_and_the_rest_is_stored(client: httpx.AsyncClient) -> None:
    sent = [comment(number, timestamp=given) for number, given in enumerate(NO_MOMENTS)]
    answer = await process(client, *sent, comment("good"))
    assert outcome_counts(answer) == (1, 0, 0, len(sent))
    assert all("timestamp" in rejected["reason"] for rejected in answer["rejected"])


async def test_metadata_and_parent_are_kept_and_may_be_missing(client: httpx.AsyncClient) -> None:
    metadata = {"likes": 3, "deep": [{"é": None, "": "\u2028"}], "n": 1.5}
    await process(client, comment(1, parent_id="0", metadata=metadata), comment(2, parent_id="", metadata=None))
    assert [(await read(client))[name] for name in ("parent_id", "metadata")] == ["0", metadata]
    assert [(await read(client, "2"))[name] for name in ("parent_id", "metadata")] == [None, None]
