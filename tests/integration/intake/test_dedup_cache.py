"""The cache of stored comments, directly on a Redis."""

import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from tests.conftest import metric, until
from tests.support.rabbitmq import free_port

from comment_monitor.core.model import Comment
from comment_monitor.devserver.redis_process import EmbeddedRedis
from comment_monitor.intake.dedup_cache import DedupCache, Known, digest
from comment_monitor.storage.redis_client import open_redis

TTL = 300
PREFIX = b"prefix-1"
FOREVER = float("inf")
FIRST = {"source": "threads", "post_id": "p", "id": "1", "text": "hello", "author": "ana"}
OTHERS: tuple[dict[str, Any], ...] = (
    {"post_id": "q"}, {"text": "hallo"}, {"author": "ben"}, {"author": None}, {"author_id": "7"}, {"author_id": "8"},
    {"url": "https://example.org/1"}, {"likes": 0}, {"likes": 1}, {"edited_at": datetime(2026, 1, 1, tzinfo=UTC)},
    # The same letters, distributed otherwise.
    {"author": "anah", "text": "ello"}, {"author": "", "text": "anahello"}, {"url": "1"},
)  # fmt: skip


def made(**changes: Any) -> Comment:
    return Comment(**{**FIRST, **changes})


@pytest.fixture
def store(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as connection:
        yield connection


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator[DedupCache]:
    """A cache with a known prefix, on an empty Redis."""
    # The default timeout of half a second would make Redis seem unavailable on a busy machine.
    one = DedupCache(open_redis(f"{redis_url}&socket_timeout=30&socket_connect_timeout=30"), ttl=TTL)
    one.use_namespace(PREFIX, FOREVER)
    yield one
    await one.close()


@pytest.fixture
async def unreachable() -> AsyncIterator[DedupCache]:
    """A cache whose Redis does not exist."""
    one = DedupCache(open_redis(f"redis://127.0.0.1:{free_port()}"), ttl=TTL)
    one.use_namespace(PREFIX, FOREVER)
    yield one
    await one.close()


async def remember(cache: DedupCache, *comments: Comment, revision: int = 1) -> None:
    await cache.store(cache.keys_of(comments), [(index, revision) for index in range(len(comments))])


async def known(cache: DedupCache, *comments: Comment) -> list[bool]:
    return await cache.lookup(cache.keys_of(comments))


async def test_only_stored_comments_are_found_and_each_is_counted(cache: DedupCache) -> None:
    await remember(cache, made(), made(id="3"))
    hits, misses = metric("comment_dedup_cache_hits_total"), metric("comment_dedup_cache_misses_total")
    assert await known(cache, made(), made(id="2"), made(id="3"), made(id="4"), made(id="5")) == [
        True, False, True, False, False,
    ]  # fmt: skip
    assert metric("comment_dedup_cache_hits_total") - hits == 2
    assert metric("comment_dedup_cache_misses_total") - misses == 3


async def test_only_the_named_comments_of_a_write_are_stored(cache: DedupCache) -> None:
    comments = made(), made(id="2"), made(id="3")
    await cache.store(cache.keys_of(comments), [(2, 1), (0, 1)])
    assert await known(cache, *comments) == [True, False, True]


@pytest.mark.parametrize("changes", OTHERS, ids=range(len(OTHERS)))
async def test_a_comment_that_differs_in_one_field_is_not_found(cache: DedupCache, changes: dict[str, Any]) -> None:
    await remember(cache, made())
    assert await known(cache, made(**changes)) == [False]


def test_different_contents_have_different_digests_of_twelve_bytes() -> None:
    digests = {digest(made(**changes)) for changes in ({}, *OTHERS)}
    assert len(digests) == len(OTHERS) + 1
    assert {len(one) for one in digests} == {12}
    assert digest(made(parent_id="7", metadata="{}", removed=True, timestamp=datetime.now(UTC))) == digest(made())


@pytest.mark.parametrize("changes", [{"source": "other"}, {"id": "2"}, {"source": "threads1", "id": ""}], ids=str)
async def test_another_identity_is_not_found(cache: DedupCache, changes: dict[str, Any]) -> None:
    await remember(cache, made())
    assert await known(cache, made(**changes)) == [False]


async def test_an_entry_of_another_prefix_is_not_found(cache: DedupCache) -> None:
    await remember(cache, made())
    cache.use_namespace(b"prefix-2", FOREVER)
    assert await known(cache, made()) == [False]
    cache.use_namespace(PREFIX, FOREVER)
    assert await known(cache, made()) == [True]


async def test_entries_are_small_hashed_and_expire(cache: DedupCache, store: redis.Redis) -> None:
    await remember(cache, made(), revision=3)
    (key,) = store.scan_iter()
    assert len(key) == 16
    assert store.get(key) == (3).to_bytes(4, "big") + digest(made())
    assert 0 < TTL - store.ttl(key) + 1 < 60


async def test_an_earlier_prefix_is_ignored(cache: DedupCache) -> None:
    now = time.monotonic()
    cache = DedupCache(cache._client, ttl=TTL)  # type: ignore[arg-type]
    cache.use_namespace(PREFIX, now + 60)
    await remember(cache, made())
    cache.use_namespace(b"older", now + 59)
    assert await known(cache, made()) == [True]
    cache.use_namespace(b"of-the-same-time", now + 60)
    assert await known(cache, made()) == [False]
    cache.use_namespace(None, now + 61)
    assert not cache.usable


async def test_without_a_valid_prefix_nothing_is_looked_up_or_stored(cache: DedupCache, store: redis.Redis) -> None:
    await remember(cache, made())
    fresh = DedupCache(cache._client, ttl=TTL)  # type: ignore[arg-type]
    assert not fresh.usable
    for prefix, ends in ((PREFIX, time.monotonic() - 0.001), (None, FOREVER)):
        fresh.use_namespace(prefix, ends)
        assert not fresh.usable
        keys = fresh.keys_of([made(), made(id="2")])
        assert tuple(keys) == (2, [], [])
        assert await fresh.lookup(keys) == [False, False]
        await fresh.store(keys, [(0, 1)])
    assert store.dbsize() == 1


async def test_a_prefix_that_expires_after_the_keys_were_made_finds_nothing(cache: DedupCache) -> None:
    await remember(cache, made())
    fresh = DedupCache(cache._client, ttl=TTL)  # type: ignore[arg-type]
    fresh.use_namespace(PREFIX, time.monotonic() + 0.05)
    keys = fresh.keys_of([made()])
    assert keys.amount == 1
    await until(lambda: not fresh.usable)
    assert await fresh.lookup(keys) == [False]


async def test_an_invalidated_entry_matches_no_comment_until_a_later_revision(
    cache: DedupCache, store: redis.Redis
) -> None:
    await remember(cache, made())
    assert await cache.invalidate([Known(made(text="new"), 2)], [PREFIX])
    assert await known(cache, made(), made(text="new")) == [False, False]
    (value,) = (store.get(key) for key in store.scan_iter())
    assert value == (2).to_bytes(4, "big")
    await remember(cache, made(), revision=1)
    assert await known(cache, made()) == [False]
    await remember(cache, made(text="new"), revision=2)
    assert await known(cache, made(), made(text="new")) == [False, True]


async def test_an_entry_is_invalidated_under_every_prefix(cache: DedupCache) -> None:
    comments = made(), made(id="2")
    for prefix in (b"prefix-2", PREFIX):
        cache.use_namespace(prefix, FOREVER)
        await remember(cache, *comments)
    assert await cache.invalidate([Known(comments[0], 2), Known(comments[1], 5)], [PREFIX, b"prefix-2"])
    for prefix in (PREFIX, b"prefix-2"):
        cache.use_namespace(prefix, FOREVER)
        assert await known(cache, *comments) == [False, False]
        await remember(cache, *comments, revision=2)
        assert await known(cache, *comments) == [True, False]


async def test_an_entry_is_stored_after_redis_lost_its_scripts(cache: DedupCache, store: redis.Redis) -> None:
    store.script_flush()
    await remember(cache, made())
    assert await known(cache, made()) == [True]


async def test_without_redis_nothing_is_found_and_the_state_is_off() -> None:
    cache = DedupCache(None, ttl=TTL)
    cache.use_namespace(PREFIX, FOREVER)
    assert (cache.state, cache.reachable, cache.usable) == ("off", False, False)
    await cache.probe()
    assert await known(cache, made()) == [False]
    assert not await cache.invalidate([Known(made(), 2)], [PREFIX])
    assert await cache.invalidate([], [PREFIX])
    await cache.close()


async def test_the_state_follows_redis(cache: DedupCache) -> None:
    assert (cache.state, cache.reachable) == ("away", True)
    await cache.probe()
    assert cache.state == "ok"


async def test_a_lookup_and_a_store_also_show_that_redis_works(cache: DedupCache) -> None:
    await known(cache, made())
    assert cache.state == "ok"
    other = DedupCache(cache._client, ttl=TTL)  # type: ignore[arg-type]
    other.use_namespace(PREFIX, FOREVER)
    await remember(other, made())
    assert other.state == "ok"


@pytest.mark.parametrize("call", ["probe", "lookup", "store", "invalidate"])
async def test_an_unavailable_redis_costs_one_attempt_and_is_counted(unreachable: DedupCache, call: str) -> None:
    errors = metric("comment_processing_errors_total", reason="cache")
    keys = unreachable.keys_of([made(), made(id="2")])
    for _ in range(2):
        if call == "probe":
            await unreachable.probe()
        elif call == "lookup":
            assert await unreachable.lookup(keys) == [False, False]
        elif call == "store":
            await unreachable.store(keys, [(0, 1)])
        else:
            assert not await unreachable.invalidate([Known(made(), 2)], [PREFIX])
        assert (unreachable.state, unreachable.reachable, unreachable.usable) == ("away", False, False)
    assert metric("comment_processing_errors_total", reason="cache") - errors == 1
    assert tuple(unreachable.keys_of([made()])) == (1, [], [])


async def test_redis_is_used_again_once_it_is_back(tmp_path: Path) -> None:
    own_redis = EmbeddedRedis(tmp_path)
    own_redis.start()
    cache = DedupCache(open_redis(own_redis.url), ttl=TTL)
    cache.use_namespace(PREFIX, FOREVER)
    await remember(cache, made())
    own_redis.stop()
    assert await known(cache, made()) == [False]
    assert cache.state == "away"
    own_redis.start()

    async def works() -> bool:
        await remember(cache, made())
        return await known(cache, made()) == [True]

    await until(works)
    assert cache.state == "ok"
    await cache.close()
    own_redis.stop()


async def test_closing_closes_the_connections(redis_url: str, store: redis.Redis) -> None:
    client = redis.asyncio.Redis.from_url(redis_url, client_name="closing")
    cache = DedupCache(client, ttl=TTL)
    await cache.probe()

    def names() -> list[str]:
        return [one["name"] for one in store.client_list()]

    assert "closing" in names()
    await cache.close()
    await until(lambda: "closing" not in names())
