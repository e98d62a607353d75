"""Duplicates: found in the request, in Redis or in PostgreSQL; Redis saves work and decides nothing."""

import asyncio
import math
import random
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest
import redis
import redis.asyncio
from tests.conftest import MakeSettings, execute, metric, open_client, until
from tests.support.database import blocked, holding, names
from tests.support.intake import PATH, in_turn, outcome_counts, process, refused, several
from tests.support.requests import body, comment
from tests.support.triggers import change, refuse

from comment_monitor.core.model import Comment
from comment_monitor.devserver.redis_process import EmbeddedRedis
from comment_monitor.intake.dedup_cache import DedupCache

TIERS: Final = ("request", "cache", "database", "version")


@pytest.fixture
def store(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url) as connection:
        yield connection


def entries(store: "redis.Redis") -> dict[bytes, bytes]:
    """Returns all cache entries."""
    return {key: store.get(key) for key in store.scan_iter()}  # type: ignore[misc]


@contextmanager
def found() -> Iterator[Callable[[], tuple[float, ...]]]:
    """Yields a function that returns the number of duplicates found in the block, by tier."""
    before = [metric("comment_duplicates_detected_total", tier=tier) for tier in TIERS]
    yield lambda: tuple(
        metric("comment_duplicates_detected_total", tier=tier) - old for tier, old in zip(TIERS, before, strict=True)
    )


async def test_a_duplicate_counts_for_the_tier_that_found_it(client: httpx.AsyncClient, store: "redis.Redis") -> None:
    with found() as tiers:
        assert outcome_counts(await process(client, *several(10), *several(4))) == (10, 0, 4, 0)
        assert tiers() == (4, 0, 0, 0)
        assert outcome_counts(await process(client, *several(10), *several(3))) == (0, 0, 13, 0)
        assert tiers() == (7, 10, 0, 0)
        store.flushall()
        assert outcome_counts(await process(client, *several(10), *several(2))) == (0, 0, 12, 0)
        assert tiers() == (9, 10, 10, 0)
        # Duplicates found in PostgreSQL have cache entries now.
        assert outcome_counts(await process(client, *several(10))) == (0, 0, 10, 0)
        assert tiers() == (9, 20, 10, 0)


async def test_hits_and_misses_add_up_to_the_comments_queried(client: httpx.AsyncClient) -> None:
    before = [metric(f"comment_dedup_cache_{kind}_total") for kind in ("hits", "misses")]
    await process(client, *several(10))
    await process(client, *several(7), comment(8, "edited"), *several(5, "new"))
    after = [metric(f"comment_dedup_cache_{kind}_total") for kind in ("hits", "misses")]
    assert [new - old for new, old in zip(after, before, strict=True)] == [7, 10 + 6]


async def test_an_edit_of_a_cached_comment_is_no_duplicate(client: httpx.AsyncClient) -> None:
    for text in ("first", "second", "third", "third "):
        answer = await process(client, comment(1, text))
        assert answer["stored"] + answer["updated"] == 1
        with found() as tiers:
            assert outcome_counts(await process(client, comment(1, text))) == (0, 0, 1, 0)
            assert tiers() == (0, 1, 0, 0)


@pytest.mark.parametrize("seconds", [1800, 7200])
async def test_cache_entries_expire_after_the_configured_time(
    make_settings: MakeSettings, store: "redis.Redis", seconds: int
) -> None:
    async with open_client(make_settings(COMMENT_DEDUP_CACHE_TTL=seconds)) as client:
        await process(client, *several(3))
        assert len(entries(store)) == 3
        for key in entries(store):
            store.expire(key, 600)
        await process(client, comment("c0", "edited"))
    left = sorted(store.ttl(key) for key in entries(store))
    assert left[:2] == pytest.approx([600, 600], abs=120)
    assert left[2] == pytest.approx(seconds, abs=120)


async def test_no_cache_entry_is_stored_before_the_commit(
    client: httpx.AsyncClient, dsn: str, store: "redis.Redis"
) -> None:
    await refuse(dsn, "INSERT", "comments", "pg_advisory_xact_lock(1) IS NULL", at_commit=True)
    with holding(dsn, "SELECT pg_advisory_lock(1)"):
        (sending,) = in_turn(client, several(3))
        await until(lambda: blocked(dsn))
        # The write is complete except for its commit, which waits.
        assert entries(store) == {}
        assert names(dsn) == []
        assert not sending.done()
    assert outcome_counts(await sending) == (3, 0, 0, 0)
    assert len(entries(store)) == 3


@pytest.mark.parametrize("at_commit", [False, True])
async def test_a_rolled_back_write_stores_no_cache_entry(
    client: httpx.AsyncClient, dsn: str, store: "redis.Redis", at_commit: bool
) -> None:
    await refuse(dsn, "INSERT", "comments", at_commit=at_commit)
    refused(await client.post(PATH, json=body(*several(3))), 503, "database-unavailable")
    assert entries(store) == {}
    assert names(dsn) == []


async def test_cache_entries_of_another_database_are_ignored(
    client: httpx.AsyncClient, dsn: str, store: "redis.Redis", make_settings: MakeSettings
) -> None:
    await process(client, *several(5))
    assert len(entries(store)) == 5
    await change(dsn, "TRUNCATE comments CASCADE; UPDATE installation SET cache_namespace = gen_random_uuid()")
    async with open_client(make_settings()) as restored:
        assert outcome_counts(await process(restored, *several(5))) == (5, 0, 0, 0)
    assert len(entries(store)) == 10


async def test_redis_holds_neither_id_nor_text_nor_author(client: httpx.AsyncClient, store: "redis.Redis") -> None:
    await process(client, comment("an-id", "a text", author="an author"), source="a source", post_id="a post")
    ((key, value),) = entries(store).items()
    assert (len(key), len(value)) == (16, 16)
    for word in (b"an-id", b"a text", b"an author", b"a source", b"a post"):
        assert word not in key + value


@pytest.mark.parametrize(
    "garbage",
    [b"", b"x", b"\0" * 4, b"\xff" * 16, b"\0" * 1000, ["a", "list"]],
    ids=["empty", "short", "zeros", "ones", "long", "list"],
)
async def test_garbage_in_redis_is_ignored(
    client: httpx.AsyncClient, store: "redis.Redis", garbage: bytes | list[str]
) -> None:
    await process(client, *several(3))
    for key in entries(store):
        store.delete(key)
        store.rpush(key, *garbage) if isinstance(garbage, list) else store.set(key, garbage)
    assert outcome_counts(await process(client, *several(3))) == (0, 0, 3, 0)
    assert outcome_counts(await process(client, *(comment(f"c{number}", "edited") for number in range(3)))) == (
        0,
        3,
        0,
        0,
    )
    assert outcome_counts(await process(client, *several(2, "new"))) == (2, 0, 0, 0)


# Commands of the test itself and of the periodic probe, which may open its own connection.
OTHER_COMMANDS: Final = {"config", "config|resetstat", "info", "ping", "client", "client|setinfo", "hello", "select"}


@pytest.mark.parametrize("amount", [25, 1000])
async def test_a_write_reads_and_updates_redis_once(
    client: httpx.AsyncClient, store: "redis.Redis", amount: int
) -> None:
    await process(client, comment("first"))
    store.config_resetstat()
    await process(client, *several(amount))
    statistics: dict[str, dict[str, int]] = store.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): command["calls"] for name, command in statistics.items()}
    # The GET and SET of the script cost no round trip.
    inside = {name: calls.pop(name) for name in ("get", "set")}
    assert inside == {"get": amount, "set": amount}
    assert {name: count for name, count in calls.items() if name not in OTHER_COMMANDS} == {
        "mget": 1,
        "evalsha": 1,
    }


REVISIONS: Final = ((0, 1), (1, 2), (9, 10), (12, 13), (31, 32), (91, 97), (127, 128), (255, 256), (65_535, 65_536))


@asynccontextmanager
async def cache_on(url: str) -> AsyncIterator[DedupCache]:
    async with redis.asyncio.Redis.from_url(url) as connection:
        cache = DedupCache(connection, ttl=1800)
        cache.use_namespace(b"namespace", math.inf)
        yield cache


async def assert_later_revision_is_kept(cache: DedupCache) -> None:
    for earlier, later in REVISIONS:
        keys = cache.keys_of(
            [
                Comment(source="s", post_id="p", id=f"{earlier}-{later}", text=str(number), author="a")
                for number in (earlier, later)
            ]
        )
        old, new = (0, earlier), (1, later)
        for update, kept in ((old, old), (new, new), (old, new)):
            await cache.store(keys, [update])
            assert await cache.lookup(keys) == [kept is old, kept is new], (earlier, later)


async def test_a_late_update_does_not_replace_a_later_revision(redis_url: str) -> None:
    async with cache_on(redis_url) as cache:
        await assert_later_revision_is_kept(cache)


@pytest.fixture
def american_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedRedis]:
    """A Redis in the locale en_US, which is common on desktops."""
    made = tmp_path / "en_US.UTF-8"
    if localedef := shutil.which("localedef"):
        subprocess.run([localedef, "-i", "en_US", "-f", "UTF-8", made], check=False)
    if not made.exists():
        pytest.skip("localedef can't make the locale en_US.UTF-8 here")
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    monkeypatch.setenv("LC_ALL", made.name)
    server = EmbeddedRedis(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def test_a_late_update_does_not_replace_a_later_revision_in_any_locale(american_redis: EmbeddedRedis) -> None:
    """Lua compares strings as the server's locale does."""
    async with cache_on(american_redis.url) as cache:
        await assert_later_revision_is_kept(cache)


async def test_edits_by_two_processes_in_turn_are_never_duplicates(make_settings: MakeSettings, dsn: str) -> None:
    async with open_client(make_settings()) as first, open_client(make_settings()) as other:
        for number in range(30):
            client = random.Random(number).choice((first, other))
            assert outcome_counts(await process(client, comment(1, f"text {number}")))[2:] == (0, 0)
    assert execute(dsn, "SELECT text, revision FROM comments") == [("text 29", 30)]


async def test_concurrent_edits_leave_redis_with_the_text_of_the_row(
    make_settings: MakeSettings, dsn: str, store: "redis.Redis"
) -> None:
    async with open_client(make_settings(COMMENT_WRITERS=4)) as first, open_client(make_settings()) as other:
        for round_ in range(10):
            texts = [f"{round_} {number}" for number in range(8)]
            await asyncio.gather(*(process(client, comment(1, text)) for text in texts for client in (first, other)))
            ((text,),) = execute(dsn, "SELECT text FROM comments")
            for client in (first, other):
                assert outcome_counts(await process(client, comment(1, str(text)))) == (0, 0, 1, 0)
            with found() as tiers:
                assert outcome_counts(await process(first, comment(1, f"{text} edited"))) == (0, 1, 0, 0)
                assert outcome_counts(await process(first, comment(1, str(text)))) == (0, 0, 1, 0)
                assert tiers() == (0, 0, 0, 1)
