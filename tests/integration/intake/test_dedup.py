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
from tests.support.intake import PATH, fates, in_turn, process, refused, several
from tests.support.requests import body, comment
from tests.support.triggers import change, refuse

from comment_monitor.core.model import Comment
from comment_monitor.devserver.redis_process import EmbeddedRedis
from comment_monitor.intake.dedup_cache import DedupCache

TIERS: Final = ("request", "cache", "database", "version")


@pytest.fixture
def store(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url) as one:
        yield one


def entries(store: "redis.Redis") -> dict[bytes, bytes]:
    """What Redis remembers."""
    return {key: store.get(key) for key in store.scan_iter()}  # type: ignore[misc]


@contextmanager
def found() -> Iterator[Callable[[], tuple[float, ...]]]:
    """How many duplicates were found so far in the block, by tier."""
    before = [metric("comment_duplicates_detected_total", tier=tier) for tier in TIERS]
    yield lambda: tuple(
        metric("comment_duplicates_detected_total", tier=tier) - old for tier, old in zip(TIERS, before, strict=True)
    )


async def test_a_duplicate_counts_for_the_tier_that_found_it(client: httpx.AsyncClient, store: "redis.Redis") -> None:
    with found() as tiers:
        assert fates(await process(client, *several(10), *several(4))) == (10, 0, 4, 0)
        assert tiers() == (4, 0, 0, 0)
        assert fates(await process(client, *several(10), *several(3))) == (0, 0, 13, 0)
        assert tiers() == (7, 10, 0, 0)
        store.flushall()
        assert fates(await process(client, *several(10), *several(2))) == (0, 0, 12, 0)
        assert tiers() == (9, 10, 10, 0)
        # What PostgreSQL knew is remembered now as well.
        assert fates(await process(client, *several(10))) == (0, 0, 10, 0)
        assert tiers() == (9, 20, 10, 0)


async def test_hits_and_misses_add_up_to_what_was_asked(client: httpx.AsyncClient) -> None:
    before = [metric(f"comment_dedup_cache_{kind}_total") for kind in ("hits", "misses")]
    await process(client, *several(10))
    await process(client, *several(7), comment(8, "edited"), *several(5, "new"))
    after = [metric(f"comment_dedup_cache_{kind}_total") for kind in ("hits", "misses")]
    assert [new - old for new, old in zip(after, before, strict=True)] == [7, 10 + 6]


async def test_an_edit_is_no_duplicate_though_its_comment_is_remembered(client: httpx.AsyncClient) -> None:
    for text in ("first", "second", "third", "third "):
        answer = await process(client, comment(1, text))
        assert answer["stored"] + answer["updated"] == 1
        with found() as tiers:
            assert fates(await process(client, comment(1, text))) == (0, 0, 1, 0)
            assert tiers() == (0, 1, 0, 0)


@pytest.mark.parametrize("seconds", [1800, 7200])
async def test_redis_remembers_for_the_time_that_is_set(
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


async def test_nothing_is_remembered_before_the_commit(
    client: httpx.AsyncClient, dsn: str, store: "redis.Redis"
) -> None:
    await refuse(dsn, "INSERT", "comments", "pg_advisory_xact_lock(1) IS NULL", at_commit=True)
    with holding(dsn, "SELECT pg_advisory_lock(1)"):
        (sending,) = in_turn(client, several(3))
        await until(lambda: blocked(dsn))
        # The write is done but for its commit, which waits.
        assert entries(store) == {}
        assert names(dsn) == []
        assert not sending.done()
    assert fates(await sending) == (3, 0, 0, 0)
    assert len(entries(store)) == 3


@pytest.mark.parametrize("at_commit", [False, True])
async def test_what_was_rolled_back_is_not_remembered(
    client: httpx.AsyncClient, dsn: str, store: "redis.Redis", at_commit: bool
) -> None:
    await refuse(dsn, "INSERT", "comments", at_commit=at_commit)
    refused(await client.post(PATH, json=body(*several(3))), 503, "database-unavailable")
    assert entries(store) == {}
    assert names(dsn) == []


async def test_what_another_database_stored_is_not_believed(
    client: httpx.AsyncClient, dsn: str, store: "redis.Redis", make_settings: MakeSettings
) -> None:
    await process(client, *several(5))
    assert len(entries(store)) == 5
    await change(dsn, "TRUNCATE comments CASCADE; UPDATE installation SET cache_namespace = gen_random_uuid()")
    async with open_client(make_settings()) as restored:
        assert fates(await process(restored, *several(5))) == (5, 0, 0, 0)
    assert len(entries(store)) == 10


async def test_neither_id_nor_text_nor_author_is_in_redis(client: httpx.AsyncClient, store: "redis.Redis") -> None:
    await process(client, comment("an-id", "a text", author="an author"), source="a source", post_id="a post")
    ((key, value),) = entries(store).items()
    assert (len(key), len(value)) == (16, 16)
    for word in (b"an-id", b"a text", b"an author", b"a source", b"a post"):
        assert word not in key + value


@pytest.mark.parametrize("garbage", [b"", b"x", b"\0" * 4, b"\xff" * 16, b"\0" * 1000, ["a", "list"]])
async def test_garbage_in_redis_is_not_believed(
    client: httpx.AsyncClient, store: "redis.Redis", garbage: bytes | list[str]
) -> None:
    await process(client, *several(3))
    for key in entries(store):
        store.delete(key)
        store.rpush(key, *garbage) if isinstance(garbage, list) else store.set(key, garbage)
    assert fates(await process(client, *several(3))) == (0, 0, 3, 0)
    assert fates(await process(client, *(comment(f"c{number}", "edited") for number in range(3)))) == (0, 3, 0, 0)
    assert fates(await process(client, *several(2, "new"))) == (2, 0, 0, 0)


# The test's own, and those of the clock that looks for Redis, which may need a connection of its own.
NOT_OF_A_WRITE: Final = {"config", "config|resetstat", "info", "ping", "client", "client|setinfo", "hello", "select"}


@pytest.mark.parametrize("amount", [25, 1000])
async def test_a_write_asks_redis_once_and_tells_it_once(
    client: httpx.AsyncClient, store: "redis.Redis", amount: int
) -> None:
    await process(client, comment("first"))
    store.config_resetstat()
    await process(client, *several(amount))
    statistics: dict[str, dict[str, int]] = store.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): one["calls"] for name, one in statistics.items()}
    # The script's own GET and SET cost no round trip.
    inside = {name: calls.pop(name) for name in ("get", "set")}
    assert inside == {"get": amount, "set": amount}
    assert {name: count for name, count in calls.items() if name not in NOT_OF_A_WRITE} == {
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


async def the_later_revision_stands(cache: DedupCache) -> None:
    for earlier, later in REVISIONS:
        keys = cache.keys_of(
            [
                Comment(source="s", post_id="p", id=f"{earlier}-{later}", text=str(number), author="a")
                for number in (earlier, later)
            ]
        )
        old, new = (0, earlier), (1, later)
        for told, stands in ((old, old), (new, new), (old, new)):
            await cache.store(keys, [told])
            assert await cache.lookup(keys) == [stands is old, stands is new], (earlier, later)


async def test_an_answer_that_comes_late_does_not_make_an_old_text_the_latest(redis_url: str) -> None:
    async with cache_on(redis_url) as cache:
        await the_later_revision_stands(cache)


@pytest.fixture
def american_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedRedis]:
    """A Redis in the locale of many a desktop."""
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


async def test_nor_where_redis_sorts_by_the_rules_of_a_language(american_redis: EmbeddedRedis) -> None:
    """Lua compares strings as the server's locale does."""
    async with cache_on(american_redis.url) as cache:
        await the_later_revision_stands(cache)


async def test_two_processes_that_edit_one_comment_by_turns_never_take_an_edit_for_a_duplicate(
    make_settings: MakeSettings, dsn: str
) -> None:
    async with open_client(make_settings()) as one, open_client(make_settings()) as other:
        for number in range(30):
            client = random.Random(number).choice((one, other))
            assert fates(await process(client, comment(1, f"text {number}")))[2:] == (0, 0)
    assert execute(dsn, "SELECT text, revision FROM comments") == [("text 29", 30)]


async def test_concurrent_edits_leave_redis_with_the_text_that_the_row_has(
    make_settings: MakeSettings, dsn: str, store: "redis.Redis"
) -> None:
    async with open_client(make_settings(COMMENT_WRITERS=4)) as one, open_client(make_settings()) as other:
        for round_ in range(10):
            texts = [f"{round_} {number}" for number in range(8)]
            await asyncio.gather(*(process(client, comment(1, text)) for text in texts for client in (one, other)))
            ((text,),) = execute(dsn, "SELECT text FROM comments")
            for client in (one, other):
                assert fates(await process(client, comment(1, str(text)))) == (0, 0, 1, 0)
            with found() as tiers:
                assert fates(await process(one, comment(1, f"{text} edited"))) == (0, 1, 0, 0)
                assert fates(await process(one, comment(1, str(text)))) == (0, 0, 1, 0)
                assert tiers() == (0, 0, 0, 1)
