"""Limits for reads: their waiting time and their number, and searches that delay no lookup of a comment."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import httpx
import pytest
from tests.conftest import MakeSettings, execute, open_client, until
from tests.support.api import serving
from tests.support.intake import lifecycle, process, refused
from tests.support.raw import Raw, problem
from tests.support.requests import comment

from comment_monitor.core import errors
from comment_monitor.web import reads
from comment_monitor.web.clients import client_of
from comment_monitor.web.reads import Kind, Reads

CONNECTIONS: Final = 4
COMMENT_PATH: Final = "/comments/threads/1"
# Two URLs of the same comment.
LOOKUPS: Final = (COMMENT_PATH, "/comments?source=threads&id=1")
LISTS: Final = ("/comments", "/comments?post_id=p1&limit=5", "/comments?source=threads", "/posts/threads/p1/summary",
                "/posts/summary?source=threads&post_id=p1")  # fmt: skip
SEARCHES: Final = (
    *("/comments?q=x", "/comments?post_id=p1&q=x", "/comments?author=ana", "/comments?label=link", "/posts"),
    *("/comments?language=en", "/comments?sentiment=neutral", "/comments?parent_id=1"),
)


async def hold(client: httpx.AsyncClient, stack: AsyncExitStack, kind: Kind, amount: int) -> None:
    """Starts reads of other clients; each keeps its turn and a connection until `stack` closes."""
    for number in range(amount):
        await stack.enter_async_context(lifecycle(client).reads.turn(f"192.0.2.{number}", kind))
        await stack.enter_async_context(lifecycle(client).runtime.reading.connection())


async def test_searches_delay_neither_lists_nor_lookups(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "PATIENCE", 0.3)
    async with open_client(make_settings()) as client, AsyncExitStack() as stack:
        await process(client, comment(1), post_id="p1")
        await hold(client, stack, Kind.SEARCH, CONNECTIONS // 2)
        for path in SEARCHES:
            refused(await client.get(path), 503, "reads-busy")
        for path in (*LISTS, *LOOKUPS):
            assert (await client.get(path)).status_code == 200, path
        await hold(client, stack, Kind.LIST, CONNECTIONS // 2 - 1)
        for path in (*SEARCHES, *LISTS):
            refused(await client.get(path), 503, "reads-busy")
        for path in LOOKUPS:
            assert (await client.get(path)).status_code == 200, path
        await hold(client, stack, Kind.LOOKUP, 1)
        for path in LOOKUPS:
            refused(await client.get(path), 503, "reads-busy")
        assert (await client.get("/health")).status_code == 200
        await stack.aclose()
        for path in (*SEARCHES, *LISTS, *LOOKUPS):
            assert (await client.get(path)).status_code == 200, path


async def test_a_client_takes_no_more_than_its_share(make_settings: MakeSettings) -> None:
    settings = make_settings(COMMENT_READS_PER_CLIENT=8)
    async with open_client(settings) as client, AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(lifecycle(client).reads.turn(client_of("127.0.0.1", [], ()), Kind.SEARCH))
        document = refused(await client.get("/comments?q=x"), 429, "too-many-reads")
        assert "2 searches" in document["detail"]
        waiting = [asyncio.create_task(client.get("/comments")) for _ in range(6)]
        assert {(await task).status_code for task in waiting} == {200}
        # Another client is not limited by these reads.
        async with lifecycle(client).reads.turn("192.0.2.1", Kind.LIST):
            pass


async def test_a_cancelled_read_frees_its_turn() -> None:
    all_reads = Reads(CONNECTIONS, 8)
    several = [asyncio.create_task(take(all_reads, "a")) for _ in range(8)]
    await until(lambda: all_reads.under_way == 8)
    with pytest.raises(errors.TooManyReads, match="8 reads"):
        await take(all_reads, "a")
    for task in several:
        task.cancel()
    await asyncio.gather(*several, return_exceptions=True)
    assert all_reads.under_way == 0
    async with all_reads.turn("a", Kind.LOOKUP):
        pass


async def take(all_reads: Reads, client: str) -> None:
    async with all_reads.turn(client, Kind.LOOKUP):
        await asyncio.Event().wait()


async def test_a_read_is_refused_at_once_if_the_queue_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "WAITING", 3)
    all_reads = Reads(2, 0)
    several = [asyncio.create_task(take(all_reads, str(number))) for number in range(6)]
    await until(lambda: all_reads.under_way == 6)
    with pytest.raises(errors.ReadsBusy):
        await take(all_reads, "one more")
    for task in several:
        task.cancel()
    await asyncio.gather(*several, return_exceptions=True)


# Texts that are small when stored and slow to search: some seconds for all of them.
HEAVY: Final = """
    INSERT INTO comments (source, comment_id, post_id, author, text, created_at)
    SELECT 'threads', n, 'p1', 'ana', repeat('aB', 4900) || n, now() FROM generate_series(1, 40000) AS n
"""
ABSENT: Final = b"GET /comments?q=absent HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_four_slow_searches_delay_no_lookup_and_end_at_the_timeout(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    execute(environment["POSTGRES_DSN"], HEAVY)
    with serving(tmp_path, environment, COMMENT_READ_TIMEOUT=1) as api:
        searches = [asyncio.create_task(api.send(ABSENT)) for _ in range(4)]
        lookups = 0
        while not any(task.done() for task in searches):
            status, _, _ = await api.send(f"GET {COMMENT_PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert status == 200
            lookups += 1
        assert lookups >= 3
        for status, headers, document in [await task for task in searches]:
            assert (status, problem(document)) == (503, "query-too-slow")
            assert b"Narrow it" in document
            assert int(headers["retry-after"]) > 0


async def test_the_memory_of_unread_responses_is_bounded(tmp_path: Path, environment: dict[str, str]) -> None:
    execute(environment["POSTGRES_DSN"], HEAVY.replace("40000", "500"))
    with serving(tmp_path, environment, COMMENT_READS_PER_CLIENT=0) as api:
        before = api.memory
        page = b"GET /comments?limit=500 HTTP/1.1\r\nHost: x\r\n\r\n"
        async with AsyncExitStack() as stack:
            for _ in range(60):
                raw = await stack.enter_async_context(await Raw.open(api.port))
                # The socket buffers are small compared to a page of about 5 MB.
                raw.pause()
                await raw.send(page)
            await until(lambda: api.connections < 40, seconds=120)
            assert await api.health() == 200
            assert api.memory - before < 64 + 60
        status, _, answer = await api.send(page)
        assert (status, len(answer) > 4_000_000) == (200, True)
