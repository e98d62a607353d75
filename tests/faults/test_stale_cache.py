"""Outdated cache entries must not pass for the latest text: an edit that counts as a duplicate is lost."""

import math
import signal
from pathlib import Path

import httpx
import pytest
from tests.conftest import execute
from tests.faults.conftest import MakeSystem
from tests.support.requests import comment, parsed
from tests.support.system import System
from tests.support.triggers import replaced_long_ago

from comment_monitor.devserver.redis_process import EmbeddedRedis
from comment_monitor.intake.dedup_cache import DedupCache
from comment_monitor.storage.redis_client import open_redis


async def outcome(system: System, text: str) -> str:
    """Sends comment 1 with this text; returns its outcome."""
    answer = (await system.post(comment(1, text))).json()
    (kind,) = (kind for kind in ("stored", "updated", "duplicates") if answer[kind])
    return kind


def stored_text(system: System) -> str:
    ((text,),) = execute(system.dsn, "SELECT text FROM comments")
    return str(text)


async def test_an_edit_while_redis_hangs_is_no_duplicate_afterwards(
    make_system: MakeSystem, own_redis: EmbeddedRedis
) -> None:
    system = make_system(REDIS_URL=own_redis.url)
    await system.start(system.orchestrator)
    replaced_long_ago(system.dsn)
    assert await outcome(system, "first") == "stored"
    own_redis.child.send_signal(signal.SIGSTOP)
    try:
        assert await outcome(system, "second") == "updated"
    finally:
        own_redis.child.send_signal(signal.SIGCONT)
    await system.until_health("ok", cache="ok")
    assert await outcome(system, "first") == "updated"
    assert stored_text(system) == "first"


async def test_a_kill_between_an_edit_and_its_cache_entry_hides_no_revert(system: System, tmp_path: Path) -> None:
    system.orchestrator.start(("after-commit", "1", "self", str(tmp_path / "killed")))
    await system.until_healthy()
    replaced_long_ago(system.dsn)
    assert await outcome(system, "first") == "stored"
    with pytest.raises(httpx.TransportError):
        await outcome(system, "second")
    assert await system.orchestrator.until_ended() == -signal.SIGKILL
    assert stored_text(system) == "second"
    await system.start(system.orchestrator)
    assert await outcome(system, "second") == "duplicates"
    assert await outcome(system, "first") == "updated"
    assert stored_text(system) == "first"


async def test_cache_entries_stored_in_reverse_keep_the_later_revision(redis_url: str) -> None:
    client = open_redis(redis_url)
    assert client
    async with client:
        cache = DedupCache(client, ttl=3600)
        cache.use_namespace(b"test", math.inf)
        old, new = (parsed(comment(1, text)).comments[0] for text in ("old", "new"))
        keys = cache.keys_of([old, new])
        await cache.store(keys, [(1, 3)])
        await cache.store(keys, [(0, 2)])
        # The entry of a duplicate has no known revision.
        await cache.store(keys, [(0, 0)])
        assert await cache.lookup(keys) == [False, True]
