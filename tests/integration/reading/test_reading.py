"""The reading API over HTTP: each response is compared with one computed from the sent comments."""

import itertools
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio
from tests.conftest import TEMPLATE, MakeSettings, execute, kept_open, with_database
from tests.support.requests import body, comment
from tests.unit.case_ids import case_id

from comment_monitor.analysis.batch_processor import open_worker
from comment_monitor.core import config
from comment_monitor.core.config import Settings
from comment_monitor.devserver.postgres_process import EmbeddedPostgres

# One event loop for the module: its tests share an application.
pytestmark = pytest.mark.asyncio(loop_scope="module")

START: Final = datetime(2026, 1, 30, 22, tzinfo=UTC)
FIELDS: Final = ("post_id", "author", "source", "parent_id", "language", "sentiment")


# Texts with their expected findings: language, sentiment, labels.
KINDS: Final[tuple[tuple[str, str, str | None, tuple[str, ...]], ...]] = (
    ("I really love this wonderful phone, thank you so much number {}", "en", "positive", ()),
    ("This is a terrible and awful product and I hate it number {}", "en", "negative", ()),
    ("WHERE CAN WE BUY THIS WONDERFUL PHONE {}?", "en", "positive", ("question", "shouting")),
    ("Überall ist es schön, aber zu Hause ist es am schönsten {}%", "de", None, ()),
    ("Où est-ce que je peux acheter ce téléphone_{}, s'il vous plaît?", "fr", None, ("question",)),
    ("@ben you can find it on https://example.com/{}", "en", "neutral", ("link", "mention")),
    ("{} + 1", "und", None, ()),
    ("The same terrible words occur here more than once", "en", "negative", ("repeated",)),
)
LOVE, HATE = KINDS[0][0], KINDS[1][0]


class Known(NamedTuple):
    """A sent comment with its expected findings."""

    source: str
    post_id: str
    id: str
    author: str
    parent_id: str | None
    timestamp: datetime | None
    order: int
    text: str
    language: str
    sentiment: str | None
    labels: tuple[str, ...]

    @property
    def position(self) -> tuple[datetime, int]:
        """The sort key; a comment without a timestamp is newer than all timestamps of this test."""
        return self.timestamp or datetime.max.replace(tzinfo=UTC), self.order

    def sent(self) -> dict[str, Any]:
        stamp = self.timestamp.isoformat() if self.timestamp else None
        return comment(self.id, self.text, author=self.author, parent_id=self.parent_id, timestamp=stamp)


def _generated() -> list[Known]:
    """Returns 200 comments with distinct timestamps; the last five have none."""
    rng = random.Random(5)
    seconds = rng.sample(range(4 * 3600), 195)
    result = []
    for number in range(200):
        kind = KINDS[number % len(KINDS)]
        parent = f"c{rng.randrange(20)}" if rng.random() < 0.4 else None
        source, post, author = rng.choice(("threads", "youtube")), f"p{rng.randrange(5)}", f"author {rng.randrange(8)}"
        when = START + timedelta(seconds=seconds[number]) if number < 195 else None
        text = kind[0].format(number)
        result.append(Known(source, post, f"c{number}", author, parent, when, number, text, *kind[1:]))
    # The first comment is exactly at midnight: a range includes its start and excludes its end.
    return [result[0]._replace(timestamp=START + timedelta(hours=2)), *result[1:]]


KNOWN: Final = _generated()


def expected(wanted: dict[str, str]) -> list[Known]:
    """Returns the comments that match the filters, newest first."""
    conditions: dict[str, Callable[[Known, str], bool]] = {
        **{name: lambda known, value, name=name: getattr(known, name) == value for name in FIELDS},  # type: ignore[misc]
        "label": lambda known, value: value in known.labels,
        "q": lambda known, value: value.lower() in known.text.lower(),
        "since": lambda known, value: known.position[0] >= datetime.fromisoformat(value),
        "until": lambda known, value: known.position[0] < datetime.fromisoformat(value),
    }
    found = [known for known in KNOWN if all(conditions[name](known, value) for name, value in wanted.items())]
    return sorted(found, key=lambda known: known.position, reverse=True)


async def send(client: httpx.AsyncClient, *comments: dict[str, Any], **more: Any) -> None:
    response = await client.post("/comments/process", json=body(*comments, **more))
    assert response.status_code == 200
    assert response.json()["rejected"] == []


async def analyse(settings: Settings) -> None:
    """Analyses all outbox rows, as a worker would."""
    async with open_worker(settings) as worker:
        for (outbox_id,) in execute(settings.postgres_dsn, "SELECT id FROM analysis_outbox ORDER BY id"):
            await worker.analyse_batch(outbox_id, redelivered=False)
    assert execute(settings.postgres_dsn, "SELECT count(*) FROM analysis_outbox") == [(0,)]


@pytest_asyncio.fixture(loop_scope="module")
async def client(make_settings: MakeSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with its own empty database."""
    async with kept_open(make_settings()) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader(postgres: EmbeddedPostgres) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a database with the analysed comments of KNOWN; tests only read from it."""
    name = f"reading_{os.getpid()}"
    execute(postgres.dsn, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    try:
        settings = config.load({"POSTGRES_DSN": with_database(postgres.dsn, name)})
        async with kept_open(settings) as opened:
            for post, source in {(known.post_id, known.source) for known in KNOWN}:
                timed = [known.sent() for known in KNOWN[:195] if (known.post_id, known.source) == (post, source)]
                await send(opened, *timed, post_id=post, source=source)
            for known in KNOWN[195:]:
                await send(opened, known.sent(), post_id=known.post_id, source=known.source)
            await analyse(settings)
            yield opened
    finally:
        execute(postgres.dsn, f"DROP DATABASE {name} WITH (FORCE)")


async def get(client: httpx.AsyncClient, path: str, **params: Any) -> dict[str, Any]:
    response = await client.get(path, params=params)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def pages(client: httpx.AsyncClient, path: str, **params: Any) -> AsyncIterator[list[dict[str, Any]]]:
    """Yields every page, up to the page without a next cursor."""
    cursor: dict[str, str] = {}
    while True:
        page = await get(client, path, **params, **cursor)
        yield page["items"]
        if page["next_cursor"] is None:
            return
        cursor = {"cursor": page["next_cursor"]}


def ids(items: Sequence[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in items]


def address(kind: str, source: str, id_: str, tail: str = "") -> str:
    return f"/{kind}/{quote(source, safe='')}/{quote(id_, safe='')}{tail}"


SINGLE_FILTERS: Final = [
    *({name: value} for name in FIELDS for value in sorted({getattr(known, name) for known in KNOWN} - {None})),
    *({"label": label} for label in ("question", "shouting", "link", "mention", "repeated")),
    *({"q": words} for words in ("wonderful PHONE", "ÜBERALL", "7%", "_4", "s'il", "+ 1", "é")),
    *({"since": f"2026-01-31T00:00:00{fraction}Z"} for fraction in ("", ".000001")),
    {"until": "2026-01-31T00:00:00Z"},
    {"since": "2026-01-31T01:30:00+02:00", "until": "2026-01-31T00:00:00.000001Z"},
]


def filters_id(filters: dict[str, str]) -> str:
    return ",".join(str(case_id(f"{name}={value}")) for name, value in filters.items()) or "all"


@pytest.mark.parametrize("filters", [{}, *SINGLE_FILTERS], ids=filters_id)
async def test_each_filter_returns_the_matching_comments_newest_first(
    reader: httpx.AsyncClient, filters: dict[str, str]
) -> None:
    page = await get(reader, "/comments", limit=500, **filters)
    wanted = expected(filters)
    assert wanted
    assert ids(page["items"]) == [known.id for known in wanted]
    assert page["next_cursor"] is None


async def test_several_filters_return_the_comments_that_match_all(reader: httpx.AsyncClient) -> None:
    rng = random.Random(8)
    found = 0
    for _ in range(80):
        filters: dict[str, str] = {}
        for chosen in rng.sample(SINGLE_FILTERS, rng.randint(2, 4)):
            filters |= chosen
        page = await get(reader, "/comments", limit=500, **filters)
        assert ids(page["items"]) == [known.id for known in expected(filters)], filters
        found += bool(page["items"])
    assert 20 < found < 80


async def test_a_filter_without_matches_returns_an_empty_last_page(reader: httpx.AsyncClient) -> None:
    for filters in (
        {"post_id": "p"},
        {"q": "p%w"},
        {"q": "p_o"},
        {"author": "AUTHOR 1"},
    ):
        assert await get(reader, "/comments", **filters) == {"items": [], "next_cursor": None}


async def test_every_field_equals_the_sent_comment_and_its_findings(reader: httpx.AsyncClient) -> None:
    items = (await get(reader, "/comments", limit=500))["items"]
    for item, wanted in zip(items, expected({}), strict=True):
        for field in ("source", "post_id", "id", "author", "parent_id", "text"):
            assert item[field] == getattr(wanted, field)
        assert (datetime.fromisoformat(item["timestamp"]) if item["timestamp"] else None) == wanted.timestamp
        assert item["analysis"]["status"] == "done"
        assert item["analysis"]["error"] is None
        assert tuple(item["analysis"]["labels"]) == wanted.labels
        assert (item["analysis"]["language"], item["analysis"]["sentiment"]) == (wanted.language, wanted.sentiment)
        assert {**item, "versions": []} == await get(reader, address("comments", wanted.source, wanted.id))


async def test_a_date_means_midnight_utc_and_a_plus_needs_no_escape(reader: httpx.AsyncClient) -> None:
    for query, meaning in (("2026-01-31", "2026-01-31T00:00:00Z"), ("2026-01-31T02:00:00+02:00",) * 2):
        response = await reader.get(f"/comments?limit=500&since={query}")
        wanted = expected({"since": meaning})
        assert 0 < len(wanted) < 200
        assert ids(response.json()["items"]) == [known.id for known in wanted]


@pytest.mark.parametrize(
    "filters", [{}, {"label": "question"}, {"post_id": "p1", "source": "youtube"}], ids=["all", "label", "post"]
)
async def test_pages_hold_each_comment_exactly_once_in_order(
    reader: httpx.AsyncClient, filters: dict[str, str]
) -> None:
    wanted = [known.id for known in expected(filters)]
    for limit in (7, len(wanted)):
        found = [page async for page in pages(reader, "/comments", limit=limit, **filters)]
        assert [id_ for page in found for id_ in ids(page)] == wanted
        assert [len(page) for page in found] == [min(limit, len(wanted) - at) for at in range(0, len(wanted), limit)]


async def test_comments_with_equal_times_are_each_on_exactly_one_page(client: httpx.AsyncClient) -> None:
    stamp = "2026-01-31T09:30:00Z"
    await send(client, *(comment(number, timestamp=stamp) for number in range(50)))
    found = [id_ async for page in pages(client, "/comments", limit=7) for id_ in ids(page)]
    assert sorted(found, key=int) == list(map(str, range(50)))
    assert found == ids((await get(client, "/comments"))["items"])


async def test_comments_stored_between_pages_neither_hide_nor_repeat_older_comments(client: httpx.AsyncClient) -> None:
    def stamp(minute: float) -> str:
        return (START + timedelta(minutes=minute)).isoformat()

    await send(client, *(comment(f"old{number}", timestamp=stamp(number // 3)) for number in range(60)))
    found: list[str] = []
    async for page in pages(client, "/comments", limit=7):
        found += ids(page)
        new = [comment(f"new{len(found)}-{minute}", timestamp=stamp(minute)) for minute in (-1, 0, 5, 10, 10.5, 30)]
        await send(client, *new, comment(f"new{len(found)}"))
    assert len(found) == len(set(found))
    old = [id_ for id_ in found if id_.startswith("old")]
    assert sorted(old) == sorted(f"old{number}" for number in range(60))
    assert [int(id_[3:]) // 3 for id_ in old] == sorted((number // 3 for number in range(60)), reverse=True)
    assert len(found) > 60


NAMES: Final = [
    *("at://did:plc:x/app.bsky.feed.post/3k", "/a", "a/", "a//b", "a b", " a ", "100%", "%2F", "%252f/", "a+b&c=d?e#f"),
    *("żółć/🙂", "e\u0301", "\ufeff", "..a/..", "a\\b", 'a"b', "a;b,c", "summary", "a\nb", "x" * 200, "é" * 200),
    *("\ue02f", "a\ue02f/b", "\ufffd"),
]


async def test_an_id_of_any_characters_is_found_by_its_path(client: httpx.AsyncClient) -> None:
    for name in NAMES:
        await send(client, comment(name), post_id=name, source=name)
    for name in NAMES:
        source = name.strip().lower()
        found = await get(client, address("comments", name, name))
        assert (found["source"], found["id"], found["post_id"]) == (source, name, name)
        assert (await get(client, "/comments", source=name, id=name))["items"] == [found]
        summary = await get(client, address("posts", name, name, "/summary"))
        assert (summary["source"], summary["post_id"], summary["comments"]) == (source, name, 1)
        assert await get(client, "/posts/summary", source=name, post_id=name) == summary


async def test_posts_are_sorted_by_newest_comment_and_counted_for_each_source(reader: httpx.AsyncClient) -> None:
    everything = (await get(reader, "/posts"))["items"]
    newest = {
        post: max(known.position for known in KNOWN if known.post_id == post) for post in {k.post_id for k in KNOWN}
    }
    order = sorted(newest, key=newest.__getitem__, reverse=True)
    assert [(item["post_id"], item["source"]) for item in everything] == [
        *itertools.product(order, ("threads", "youtube"))
    ]
    for item in everything:
        mine = [known for known in KNOWN if (known.post_id, known.source) == (item["post_id"], item["source"])]
        times = [known.timestamp for known in mine if known.timestamp]
        last = datetime.fromisoformat(item["last_comment_at"])
        assert item["comments"] == len(mine)
        assert datetime.fromisoformat(item["first_comment_at"]) == min(times)
        assert last == max(times) if len(times) == len(mine) else last > START + timedelta(days=1)
    for limit in (1, 2, 3, 5):
        found = [page async for page in pages(reader, "/posts", limit=limit)]
        assert [item for page in found for item in page] == everything
        assert {len({item["post_id"] for item in page}) for page in found[:-1]} <= {limit}


@pytest.mark.parametrize(("source", "post"), [*itertools.product(("threads", "youtube"), ("p0", "p1", "p4"))])
async def test_a_summary_counts_the_comments_of_its_post(reader: httpx.AsyncClient, source: str, post: str) -> None:
    found = await get(reader, address("posts", source, post, "/summary"))
    mine = [known for known in KNOWN if (known.source, known.post_id) == (source, post)]
    rows = (await get(reader, "/posts"))["items"]
    (row,) = [item for item in rows if (item["source"], item["post_id"]) == (source, post)]
    assert found == {
        **row,
        "comments": len(mine),
        "authors": len({known.author for known in mine}),
        "replies": sum(known.parent_id is not None for known in mine),
        **dict.fromkeys(("edited", "pending", "failed"), 0),
        "sentiment": Counter(known.sentiment for known in mine if known.sentiment),
        "language": Counter(known.language for known in mine),
        "labels": Counter(label for known in mine for label in known.labels),
    }


async def test_a_summary_counts_edits_and_failed_analyses(
    client: httpx.AsyncClient, make_settings: MakeSettings
) -> None:
    settings = make_settings(COMMENT_MAX_RETRIES=0)
    await send(client, comment(1, LOVE), comment(2, HATE), comment(3, KINDS[3][0]))
    await analyse(settings)
    await send(client, comment(4, LOVE))
    # A batch that ended its workers this often is given up, and its comment is marked failed.
    ((row,),) = execute(settings.postgres_dsn, "UPDATE analysis_outbox SET starts = 2 RETURNING id")
    async with open_worker(settings) as worker:
        await worker.analyse_batch(row, redelivered=True)
    await send(client, comment(2, LOVE), comment(5))
    found = await get(client, "/posts/threads/post/summary")
    assert [found[name] for name in ("comments", "edited", "pending", "failed")] == [5, 1, 2, 1]
    assert (found["sentiment"], found["language"]) == ({"positive": 1}, {"en": 1, "de": 1})
    failed = (await get(client, "/comments/threads/4"))["analysis"]
    assert (failed["status"], failed["language"], failed["labels"]) == ("failed", None, [])
    assert failed["error"]


async def test_an_edited_text_has_no_analysis_until_its_own_is_done(
    client: httpx.AsyncClient, make_settings: MakeSettings
) -> None:
    async def seen(**filters: str) -> list[str | None]:
        items = (await get(client, "/comments", **filters))["items"]
        return [item["analysis"] and item["analysis"]["sentiment"] for item in items]

    await send(client, comment(1, LOVE))
    assert await seen() == [None]
    await analyse(make_settings())
    assert await seen() == await seen(sentiment="positive") == ["positive"]
    await send(client, comment(1, HATE))
    item = await get(client, "/comments/threads/1")
    assert [version["text"] for version in item.pop("versions")] == [LOVE]
    assert item == (await get(client, "/comments"))["items"][0]
    assert await seen() == [None]
    assert await seen(sentiment="positive") == await seen(language="en") == []
    await analyse(make_settings())
    assert await seen() == await seen(sentiment="negative") == ["negative"]


VERBATIM: Final = "\ufeff e\u0301 é 🙂\u200d👩🏽\u2028\u2029 \"'\\ \t\r\n\u007f\u0085 \U0010ffff \ufffe <b>&amp; "
METADATA: Final = (
    '{"n": 12345678901234567890123, "f":1.10, "e": 1E+400,  "t": "\\u00e9\\ud83d\\ude42 é \\u2028 \\" \\/ \\\\u0000", '
    '"n": [1, -0.0, null, {"": {}}], "\\u0061":"\u2028\ufeff"}'
)


async def test_text_author_and_ids_are_returned_character_for_character(client: httpx.AsyncClient) -> None:
    await send(client, {"id": "1", "text": VERBATIM, "author": VERBATIM, "parent_id": VERBATIM}, source=VERBATIM)
    (listed,) = (await get(client, "/comments", author=VERBATIM, parent_id=VERBATIM, source=VERBATIM))["items"]
    found = await get(client, address("comments", VERBATIM, "1"))
    assert found == {**listed, "versions": []}
    assert [found[name] for name in ("text", "author", "parent_id")] == [VERBATIM] * 3
    assert found["source"] == VERBATIM.strip().lower()


async def test_metadata_is_returned_character_for_character(client: httpx.AsyncClient) -> None:
    sent = json.dumps(body(comment(1, metadata="HERE"))).replace('"HERE"', METADATA)
    assert (await client.post("/comments/process", content=sent.encode())).json()["stored"] == 1
    for path in ("/comments", "/comments/threads/1"):
        assert METADATA in (await client.get(path)).text
