"""Limits for a client's connections, so that they do not harm others: heads, waiting time, pipelining and number."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.conftest import until
from tests.support import http
from tests.support.api import Api, serving
from tests.support.raw import HEALTH, Raw, post, problem
from tests.support.requests import body, comment

LIMIT: Final = 20
EXCESS: Final = 64
# Seconds after which a client that sends nothing is disconnected, plus the delay of a busy machine.
DISCONNECTED: Final = 30 + 25


@pytest.fixture
def api(tmp_path: Path, environment: dict[str, str]) -> Iterator[Api]:
    with serving(tmp_path, environment, COMMENT_MAX_CONNECTIONS=LIMIT, COMMENT_RATE_LIMIT_PER_MINUTE=0) as running_api:
        yield running_api


HEADS: Final = {
    "one endless header": (b"GET /health HTTP/1.1\r\nHost: x\r\nX-Big: ", b"a" * 65_536),
    "endless headers": (b"GET /health HTTP/1.1\r\nHost: x\r\n", b"a: b\r\n" * 10_000),
    "an endless path": (b"GET /", b"a" * 65_536),
    "an endless name": (b"GET /health HTTP/1.1\r\nHost: x\r\n", b"a" * 65_536),
    "folded lines": (b"GET /health HTTP/1.1\r\nHost: x\r\nX-Big: a", b"\r\n " + b"a" * 60_000),
    "blanks": (b"GET /health HTTP/1.1\r\nHost: x\r\nX-Big:", b" " * 65_536),
    "cookies": (b"GET /health HTTP/1.1\r\nHost: x\r\n", b"Cookie: " + b"c" * 4_000 + b"\r\n"),
    "a method without an end": (b"", b"G" * 65_536),
}


async def test_an_endless_head_is_refused_and_delays_no_health_probe(api: Api) -> None:
    before = api.memory

    async def attack(begin: bytes, more: bytes) -> tuple[int, bytes]:
        async with await Raw.open(api.port) as raw:
            await raw.send(begin)
            sending = asyncio.create_task(forever(raw, more))
            status, _, document = await raw.answer()
            sending.cancel()
            return status, document

    for kind, (begin, more) in HEADS.items():
        attacks = [asyncio.create_task(attack(begin, more)) for _ in range(4)]
        while not all(task.done() for task in attacks):
            async with asyncio.timeout(10):
                assert await api.health() == 200
        for status, document in [await task for task in attacks]:
            assert status in {400, 431}, kind
            assert problem(document) == "bad-http"
    assert api.memory - before < 30
    assert api.reported("comment_processing_errors_total", reason="bad-http") == 4 * len(HEADS)


async def forever(raw: Raw, data: bytes) -> None:
    while not raw.writer.is_closing():
        await raw.send(data)
        await asyncio.sleep(0.001)


async def test_a_large_head_is_accepted_up_to_the_limit(api: Api) -> None:
    async with http.AsyncClient(base_url=api.url) as client:
        assert (await client.get("/health", headers={"X-Big": "a" * 60_000})).status_code == 200
        assert (await client.get("/health", headers={"X-Big": "a" * 66_000})).status_code == 431
    # The body of the previous request, sent in the same write, does not count.
    large = json.dumps(body(*(comment(number, text="x" * 9_000) for number in range(20)), post_id="p1")).encode()
    async with await Raw.open(api.port) as raw:
        await raw.send(post(large) + HEALTH)
        assert [(await raw.answer())[0] for _ in range(2)] == [200, 200]


async def test_a_client_that_stops_sending_is_disconnected(api: Api) -> None:
    """All kinds at once: each ends after the same half minute."""
    slow = {
        "nothing": b"",
        "half a head": b"GET /health HTTP/1.1\r\nHost:",
        "half a line": b"GE",
        "blank lines": b"\r\n\r\n",
        "half a body": post(b'{"post_id":', length=1_000),
        "no body": post(b"", length=1_000),
        "half a chunk": b"POST /comments/process HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        "the rest of what was refused": post(b"[", length=10**9),
        "a body for what reads none": b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nab",
        "an answer and half a head": HEALTH + b"GET /hea",
    }
    expected = {"half a head": 408, "half a line": 408, "half a body": 408, "no body": 408, "half a chunk": 408,
                "the rest of what was refused": 413, "a body for what reads none": 200,
                "an answer and half a head": 200}  # fmt: skip

    async def wait(kind: str) -> tuple[str, int, bool]:
        async with await Raw.open(api.port) as raw:
            await raw.send(slow[kind])
            status, _, _ = await raw.answer(DISCONNECTED) if kind in expected else (0, {}, b"")
            return kind, status, await raw.ended(DISCONNECTED)

    found = await asyncio.gather(*map(wait, slow))
    assert {kind: status for kind, status, _ in found if kind in expected} == expected
    # Only between two requests may a connection idle for longer: blank lines are not a request.
    assert [kind for kind, _, ended in found if not ended] == []


async def test_a_client_that_reads_no_response_is_disconnected(api: Api) -> None:
    many = [comment(number, text="x" * 9_000) for number in range(400)]
    assert (await api.send(post(json.dumps(body(*many, post_id="p1")).encode())))[0] == 200
    async with await Raw.open(api.port) as raw:
        raw.pause()
        for _ in range(90):
            await raw.send(b"GET /comments?limit=400 HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: api.connections == 1)
        await until(lambda: api.connections == 0, seconds=DISCONNECTED + 30)


async def test_pipelined_requests_are_answered_and_a_flood_of_them_is_bounded(api: Api) -> None:
    async with await Raw.open(api.port) as raw:
        await raw.send(HEALTH * 50)
        assert [(await raw.answer())[0] for _ in range(50)] == [200] * 50
    before = api.memory
    async with await Raw.open(api.port) as raw:
        for _ in range(200):
            await raw.send(HEALTH * 2_000)
        assert await raw.ended()
    assert await api.health() == 200
    assert api.memory - before < 60


async def test_a_malformed_chunk_gets_400(api: Api) -> None:
    begin = b"POST /comments/process HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
    for rest in (
        b"chunked\r\n\r\nzz\r\n",
        b"chunked\r\n\r\n2\r\n[]?\r\n",
        b"chunked\r\n\r\n-1\r\n",
    ):
        async with await Raw.open(api.port) as raw:
            await raw.send(begin + rest)
            status, _, document = await raw.answer()
            assert (status, problem(document)) == (400, "bad-http"), rest
            assert await raw.ended()
    assert api.reported("comment_body_bytes_in_flight") == 0


async def test_invalid_heads_are_refused(api: Api) -> None:
    for head, expected in (
        (b"GET /health HTTP/1.1\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nhost: x\r\n", 400),
        (b"GET /health HTTP/1.0\r\nHost: x\r\nHost: y\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n", 501),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n", 501),
        ("GET /comments?author=José HTTP/1.1\r\nHost: x\r\n".encode(), 400),
        (b"GET /health HTTP/1.1\r\nHost:\r\n", 200),
        (b"GET /health HTTP/1.0\r\n", 200),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n", 200),
    ):
        async with await Raw.open(api.port) as raw:
            await raw.send(head + b"\r\n" + (b"0\r\n\r\n" if b"hunked" in head else b""))
            status, _, document = await raw.answer()
        assert status == expected, head
        assert expected == 200 or problem(document) == "bad-http"
        assert ("percent-encoded" in document.decode()) == ("José".encode() in head)


async def test_garbage_after_a_request_does_not_affect_its_response(api: Api) -> None:
    content = json.dumps(body(comment(1), post_id="p1")).encode()
    async with await Raw.open(api.port) as raw:
        await raw.send(post(content) + b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        status, headers, answer = await raw.answer()
        assert (status, json.loads(answer)["stored"]) == (200, 1)
        assert headers["connection"] == "close"
        assert await raw.ended()


async def test_a_flood_of_non_http_data_is_logged_once_a_second(api: Api) -> None:
    upgrade = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    for _ in range(50):
        status, _, document = await api.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert (status, problem(document)) == (400, "bad-http")
        # WebSocket is not supported, and a server may ignore the upgrade.
        assert (await api.send(upgrade))[0] == 200
    lines = api.program.output.splitlines()
    assert api.reported("comment_processing_errors_total", reason="bad-http") == 50
    await until(lambda: sum(int(str(entry.get("count", 1))) for entry in api.lines(problem="bad-http")) == 50)
    assert len(lines) < 30


async def test_endless_trailers_and_chunk_extensions_are_refused(api: Api) -> None:
    begin = b"POST /comments/process HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    before = api.memory
    for more in (b"0\r\nX: ", b"1;ext="):
        async with await Raw.open(api.port) as raw:
            await raw.send(begin + more)
            sending = asyncio.create_task(forever(raw, b"a" * 65_536))
            async with asyncio.timeout(10):
                assert await api.health() == 200
            assert await raw.ended()
            sending.cancel()
    assert api.memory - before < 30


async def test_many_short_headers_are_refused(api: Api) -> None:
    status, _, document = await api.send(b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 1_000 + b"\r\n")
    assert (status, problem(document)) == (431, "bad-http")
    fair = b"".join(b"x-%d: b\r\n" % number for number in range(150))
    assert (await api.send(b"GET /health HTTP/1.1\r\nHost: x\r\n" + fair + b"\r\n"))[0] == 200


async def test_an_upgrade_to_http_2_is_answered_in_http_1(api: Api) -> None:
    """As Java's client and `curl --http2` request it: with the body at once or later, and another request after it."""
    content = json.dumps(body(comment(1), post_id="p1")).encode()
    upgrade_request = post(
        content, Connection="Upgrade, HTTP2-Settings", Upgrade="h2c", HTTP2_Settings="AAMAAABkAAQBAAAA"
    )
    head = upgrade_request.removesuffix(content)
    for parts in ((head + content,), (head, content), (head + content[:9], content[9:] + HEALTH)):
        async with await Raw.open(api.port) as raw:
            for part in parts:
                await raw.send(part)
                await asyncio.sleep(0.2)
            status, _, answer = await raw.answer()
            assert (status, json.loads(answer)["received"]) == (200, 1)
            if parts[-1].endswith(HEALTH):
                assert (await raw.answer())[0] == 200
    assert (await api.send(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"))[0] == 400


async def test_a_half_closed_connection_gets_its_responses(api: Api) -> None:
    content = json.dumps(body(comment(1), post_id="p1")).encode()
    for request, count in ((post(content), 1), (b"GET /posts HTTP/1.0\r\n\r\n", 1), (HEALTH * 3, 3)):
        async with await Raw.open(api.port) as raw:
            await raw.send(request)
            raw.writer.write_eof()
            assert [(await raw.answer())[0] for _ in range(count)] == [200] * count
            assert await raw.ended()


async def test_requests_before_a_refused_request_are_answered(api: Api) -> None:
    content = json.dumps(body(comment(1), post_id="p1")).encode()
    for more in (b"GET http://x HTTP/1.1\r\n\r\n", b"CONNECT a:80 HTTP/1.1\r\n\r\n", b"garbage\r\n\r\n"):
        async with await Raw.open(api.port) as raw:
            await raw.send(post(content) + more)
            assert (await raw.answer())[0] == 200, more
            assert await raw.ended()
    async with await Raw.open(api.port) as raw:
        await raw.send(HEALTH * 150)
        assert [(await raw.answer())[0] for _ in range(100)] == [200] * 100
        assert await raw.ended()


async def test_a_slow_reader_gets_its_response_and_blocks_no_other_client(api: Api) -> None:
    """Reading takes longer than any timeout but never pauses; also if the connection closes after the response."""
    many = [comment(number, text="x" * 9_000) for number in range(450)]
    assert (await api.send(post(json.dumps(body(*many, post_id="p1")).encode())))[0] == 200
    page = "GET /comments?limit=450 HTTP/1.1\r\nHost: x\r\nConnection: {}\r\n\r\n"

    async def read_slowly(connection: str) -> int:
        async with await Raw.open(api.port) as raw:
            await raw.send(page.format(connection).encode())
            taken = 0
            while taken < 4_000_000 and (piece := await raw.reader.read(65_536)):
                taken += len(piece)
                await asyncio.sleep(0.1)
            return taken

    slow = [asyncio.create_task(read_slowly(connection)) for connection in ("close", "keep-alive")]
    await until(lambda: api.connections >= 2)
    assert await api.health() == 200
    assert all(taken >= 4_000_000 for taken in await asyncio.gather(*slow))


async def test_a_client_refused_in_a_flood_is_served_after_the_flood(api: Api) -> None:
    stuck = [await Raw.open(api.port) for _ in range(LIMIT)]
    for raw in stuck:
        await raw.send(b"GET /he")
    await until(lambda: api.connections == LIMIT)
    async with await Raw.open(api.port) as late:
        await late.send(b"GET /comments HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await late.answer())[0] == 503
        for raw in stuck:
            raw.writer.transport.abort()
        await until(lambda: api.connections <= 1)
        await late.send(b"GET /comments HTTP/1.1\r\nHost: x\r\n\r\n")
        # The connection may be closed after its 503, but it is not refused forever.
        assert (await late.answer())[0] != 503


async def test_lost_connections_leak_no_memory(api: Api) -> None:
    content = json.dumps(body(comment(1), post_id="p1")).encode()

    async def lose(count: int) -> float:
        for _ in range(count):
            several = [await Raw.open(api.port) for _ in range(15)]
            for raw in several:
                await raw.send(HEALTH + post(content + b" " * 200_000))
            for raw in several:
                raw.writer.transport.abort()
            await until(lambda: api.connections == 0)
        return api.memory

    first = await lose(20)
    assert await lose(20) - first < 30
    assert "Exception in ASGI" not in api.program.output


async def test_endless_trailers_after_a_whole_body_are_refused(api: Api) -> None:
    content = json.dumps(body(comment(1), post_id="p1")).encode()
    head = b"POST /comments/process HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with await Raw.open(api.port) as raw:
        await raw.send(head + b"%x\r\n%b\r\n0\r\n" % (len(content), content))
        sending = asyncio.create_task(forever(raw, b"X-Trailer: " + b"t" * 1_000 + b"\r\n"))
        assert await raw.ended()
        sending.cancel()


async def test_tiny_chunks_are_refused_and_small_chunks_are_accepted(api: Api) -> None:
    """Each chunk is a callback: megabytes of tiny chunks would occupy the event loop."""
    head = b"POST /comments/process HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    content = json.dumps(body(*(comment(number) for number in range(900)), post_id="p1")).encode()
    for size, expected in ((1, 400), (40, 200)):
        parts = [content[at : at + size] for at in range(0, len(content), size)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        status, _, document = await api.send(head + chunks + b"0\r\n\r\n")
        assert status == expected, document
    # A short body may have chunks of any size.
    short = json.dumps(body(comment("short"), post_id="p1")).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in short)
    assert (await api.send(head + chunks + b"0\r\n\r\n"))[0] == 200


async def test_health_probes_are_answered_beyond_the_limit_of_connections(api: Api) -> None:
    content = json.dumps(body(comment(1), post_id="p1")).encode()
    stuck = [await Raw.open(api.port) for _ in range(LIMIT)]
    for raw in stuck:
        await raw.send(post(b"{", length=100))
    await until(lambda: api.connections == LIMIT)
    for _ in range(3):
        assert await api.health() == 200
        async with await Raw.open(api.port) as raw:
            await raw.send(post(content))
            status, headers, document = await raw.answer()
            assert (status, problem(document)) == (503, "overloaded")
            assert int(headers["retry-after"]) > 0
    more = [await Raw.open(api.port) for _ in range(EXCESS * 2)]
    await until(lambda: api.connections <= LIMIT + EXCESS + 1)
    assert await api.health() == 200
    assert api.reported("comment_processing_errors_total", reason="overloaded") >= 3
    assert 1 <= len(api.lines(problem="too-many-connections")) <= 5
    for raw in (*stuck, *more):
        raw.writer.transport.abort()
    await until(lambda: api.connections == 0)
    async with await Raw.open(api.port) as raw:
        await raw.send(post(content))
        assert (await raw.answer())[0] == 200


async def test_idle_connections_are_closed_for_new_clients(api: Api) -> None:
    idle = [await Raw.open(api.port) for _ in range(LIMIT)]
    for raw in idle:
        await raw.send(HEALTH)
        assert (await raw.answer())[0] == 200
    content = json.dumps(body(comment(1), post_id="p1")).encode()
    async with await Raw.open(api.port) as raw:
        await raw.send(post(content))
        assert (await raw.answer())[0] == 200
        # The connection that was idle longest.
        assert await idle[0].ended()
        await idle[1].send(HEALTH)
        assert (await idle[1].answer())[0] == 200
    for raw in idle:
        raw.writer.transport.abort()
