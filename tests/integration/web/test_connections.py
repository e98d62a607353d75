"""What one client's connections may cost the others: heads, waits, pipelines and numbers are bounded."""

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
# Seconds after which a client that keeps us waiting is let go, with a busy machine's delay.
LET_GO: Final = 30 + 25


@pytest.fixture
def api(tmp_path: Path, environment: dict[str, str]) -> Iterator[Api]:
    with serving(tmp_path, environment, COMMENT_MAX_CONNECTIONS=LIMIT, COMMENT_RATE_LIMIT_PER_MINUTE=0) as one:
        yield one


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


async def test_an_endless_head_is_refused_and_holds_up_nobody(api: Api) -> None:
    before = api.memory

    async def attack(begin: bytes, more: bytes) -> tuple[int, bytes]:
        async with await Raw.open(api.port) as one:
            await one.send(begin)
            sending = asyncio.create_task(forever(one, more))
            status, _, document = await one.answer()
            sending.cancel()
            return status, document

    for kind, (begin, more) in HEADS.items():
        attacks = [asyncio.create_task(attack(begin, more)) for _ in range(4)]
        while not all(one.done() for one in attacks):
            async with asyncio.timeout(10):
                assert await api.health() == 200
        for status, document in [await one for one in attacks]:
            assert status in {400, 431}, kind
            assert problem(document) == "bad-http"
    assert api.memory - before < 30
    assert api.told("comment_processing_errors_total", reason="bad-http") == 4 * len(HEADS)


async def forever(one: Raw, data: bytes) -> None:
    while not one.writer.is_closing():
        await one.send(data)
        await asyncio.sleep(0.001)


async def test_a_large_head_passes_up_to_the_limit(api: Api) -> None:
    async with http.AsyncClient(base_url=api.url) as client:
        assert (await client.get("/health", headers={"X-Big": "a" * 60_000})).status_code == 200
        assert (await client.get("/health", headers={"X-Big": "a" * 66_000})).status_code == 431
    # In one piece with the body of the request before it, none of which counts.
    large = json.dumps(body(*(comment(number, text="x" * 9_000) for number in range(20)), post_id="p1")).encode()
    async with await Raw.open(api.port) as one:
        await one.send(post(large) + HEALTH)
        assert [(await one.answer())[0] for _ in range(2)] == [200, 200]


async def test_whoever_keeps_the_server_waiting_is_let_go(api: Api) -> None:
    """Of each kind one, all at once: they are all over after the same half minute."""
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
        async with await Raw.open(api.port) as one:
            await one.send(slow[kind])
            status, _, _ = await one.answer(LET_GO) if kind in expected else (0, {}, b"")
            return kind, status, await one.ended(LET_GO)

    found = await asyncio.gather(*map(wait, slow))
    assert {kind: status for kind, status, _ in found if kind in expected} == expected
    # Between two requests a connection may rest for longer; the one with blank lines asked for nothing yet.
    assert [kind for kind, _, ended in found if not ended] == []


async def test_who_takes_no_answer_is_let_go(api: Api) -> None:
    many = [comment(number, text="x" * 9_000) for number in range(400)]
    assert (await api.send(post(json.dumps(body(*many, post_id="p1")).encode())))[0] == 200
    async with await Raw.open(api.port) as one:
        one.pause()
        for _ in range(90):
            await one.send(b"GET /comments?limit=400 HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: api.connections == 1)
        await until(lambda: api.connections == 0, seconds=LET_GO + 30)


async def test_a_flood_of_pipelined_requests_is_bounded_and_orderly_ones_are_answered(api: Api) -> None:
    async with await Raw.open(api.port) as one:
        await one.send(HEALTH * 50)
        assert [(await one.answer())[0] for _ in range(50)] == [200] * 50
    before = api.memory
    async with await Raw.open(api.port) as one:
        for _ in range(200):
            await one.send(HEALTH * 2_000)
        assert await one.ended()
    assert await api.health() == 200
    assert api.memory - before < 60


async def test_a_body_that_can_not_be_read_on_is_answered(api: Api) -> None:
    begin = b"POST /comments/process HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
    for rest in (
        b"chunked\r\n\r\nzz\r\n",
        b"chunked\r\n\r\n2\r\n[]?\r\n",
        b"chunked\r\n\r\n-1\r\n",
    ):
        async with await Raw.open(api.port) as one:
            await one.send(begin + rest)
            status, _, document = await one.answer()
            assert (status, problem(document)) == (400, "bad-http"), rest
            assert await one.ended()
    assert api.told("comment_body_bytes_in_flight") == 0


async def test_heads_that_http_does_not_allow_are_refused(api: Api) -> None:
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
        async with await Raw.open(api.port) as one:
            await one.send(head + b"\r\n" + (b"0\r\n\r\n" if b"hunked" in head else b""))
            status, _, document = await one.answer()
        assert status == expected, head
        assert expected == 200 or problem(document) == "bad-http"
        assert ("percent-encoded" in document.decode()) == ("José".encode() in head)


async def test_what_follows_a_request_spoils_no_answer(api: Api) -> None:
    content = json.dumps(body(comment(1), post_id="p1")).encode()
    async with await Raw.open(api.port) as one:
        await one.send(post(content) + b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        status, headers, answer = await one.answer()
        assert (status, json.loads(answer)["stored"]) == (200, 1)
        assert headers["connection"] == "close"
        assert await one.ended()


async def test_a_flood_of_what_is_no_http_is_one_line_a_second(api: Api) -> None:
    upgrade = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    for _ in range(50):
        status, _, document = await api.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert (status, problem(document)) == (400, "bad-http")
        # Nobody here speaks WebSocket, which a server may pass over.
        assert (await api.send(upgrade))[0] == 200
    lines = api.program.output.splitlines()
    assert api.told("comment_processing_errors_total", reason="bad-http") == 50
    await until(lambda: sum(int(str(one.get("count", 1))) for one in api.lines(problem="bad-http")) == 50)
    assert len(lines) < 30


async def test_what_has_no_end_within_a_body_is_refused_too(api: Api) -> None:
    begin = b"POST /comments/process HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    before = api.memory
    for more in (b"0\r\nX: ", b"1;ext="):
        async with await Raw.open(api.port) as one:
            await one.send(begin + more)
            sending = asyncio.create_task(forever(one, b"a" * 65_536))
            async with asyncio.timeout(10):
                assert await api.health() == 200
            assert await one.ended()
            sending.cancel()
    assert api.memory - before < 30


async def test_many_short_headers_are_refused(api: Api) -> None:
    status, _, document = await api.send(b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 1_000 + b"\r\n")
    assert (status, problem(document)) == (431, "bad-http")
    fair = b"".join(b"x-%d: b\r\n" % number for number in range(150))
    assert (await api.send(b"GET /health HTTP/1.1\r\nHost: x\r\n" + fair + b"\r\n"))[0] == 200


async def test_who_would_like_http_2_is_answered_in_http_1(api: Api) -> None:
    """As Java's client and `curl --http2` ask, with the body at once or later, and another request behind it."""
    content = json.dumps(body(comment(1), post_id="p1")).encode()
    asked = post(content, Connection="Upgrade, HTTP2-Settings", Upgrade="h2c", HTTP2_Settings="AAMAAABkAAQBAAAA")
    head = asked.removesuffix(content)
    for parts in ((head + content,), (head, content), (head + content[:9], content[9:] + HEALTH)):
        async with await Raw.open(api.port) as one:
            for part in parts:
                await one.send(part)
                await asyncio.sleep(0.2)
            status, _, answer = await one.answer()
            assert (status, json.loads(answer)["received"]) == (200, 1)
            if parts[-1].endswith(HEALTH):
                assert (await one.answer())[0] == 200
    assert (await api.send(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"))[0] == 400


async def test_a_client_that_sends_no_more_gets_its_answers(api: Api) -> None:
    content = json.dumps(body(comment(1), post_id="p1")).encode()
    for request, count in ((post(content), 1), (b"GET /posts HTTP/1.0\r\n\r\n", 1), (HEALTH * 3, 3)):
        async with await Raw.open(api.port) as one:
            await one.send(request)
            one.writer.write_eof()
            assert [(await one.answer())[0] for _ in range(count)] == [200] * count
            assert await one.ended()


async def test_what_was_asked_before_what_is_refused_is_answered(api: Api) -> None:
    content = json.dumps(body(comment(1), post_id="p1")).encode()
    for more in (b"GET http://x HTTP/1.1\r\n\r\n", b"CONNECT a:80 HTTP/1.1\r\n\r\n", b"garbage\r\n\r\n"):
        async with await Raw.open(api.port) as one:
            await one.send(post(content) + more)
            assert (await one.answer())[0] == 200, more
            assert await one.ended()
    async with await Raw.open(api.port) as one:
        await one.send(HEALTH * 150)
        assert [(await one.answer())[0] for _ in range(100)] == [200] * 100
        assert await one.ended()


async def test_a_slow_reader_gets_its_answer_and_holds_no_place_of_others(api: Api) -> None:
    """Longer than any one patience, but never without taking something; also where it is the connection's last."""
    many = [comment(number, text="x" * 9_000) for number in range(450)]
    assert (await api.send(post(json.dumps(body(*many, post_id="p1")).encode())))[0] == 200
    page = "GET /comments?limit=450 HTTP/1.1\r\nHost: x\r\nConnection: {}\r\n\r\n"

    async def read_slowly(connection: str) -> int:
        async with await Raw.open(api.port) as one:
            await one.send(page.format(connection).encode())
            taken = 0
            while taken < 4_000_000 and (piece := await one.reader.read(65_536)):
                taken += len(piece)
                await asyncio.sleep(0.1)
            return taken

    slow = [asyncio.create_task(read_slowly(one)) for one in ("close", "keep-alive")]
    await until(lambda: api.connections >= 2)
    assert await api.health() == 200
    assert all(taken >= 4_000_000 for taken in await asyncio.gather(*slow))


async def test_who_came_in_a_flood_is_served_after_it(api: Api) -> None:
    stuck = [await Raw.open(api.port) for _ in range(LIMIT)]
    for one in stuck:
        await one.send(b"GET /he")
    await until(lambda: api.connections == LIMIT)
    async with await Raw.open(api.port) as late:
        await late.send(b"GET /comments HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await late.answer())[0] == 503
        for one in stuck:
            one.writer.transport.abort()
        await until(lambda: api.connections <= 1)
        await late.send(b"GET /comments HTTP/1.1\r\nHost: x\r\n\r\n")
        # It may have been closed after its 503; it is not refused for ever.
        assert (await late.answer())[0] != 503


async def test_lost_connections_leave_nothing(api: Api) -> None:
    content = json.dumps(body(comment(1), post_id="p1")).encode()

    async def lose(count: int) -> float:
        for _ in range(count):
            several = [await Raw.open(api.port) for _ in range(15)]
            for one in several:
                await one.send(HEALTH + post(content + b" " * 200_000))
            for one in several:
                one.writer.transport.abort()
            await until(lambda: api.connections == 0)
        return api.memory

    first = await lose(20)
    assert await lose(20) - first < 30
    assert "Exception in ASGI" not in api.program.output


async def test_trailers_without_end_are_refused(api: Api) -> None:
    content = json.dumps(body(comment(1), post_id="p1")).encode()
    head = b"POST /comments/process HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with await Raw.open(api.port) as one:
        await one.send(head + b"%x\r\n%b\r\n0\r\n" % (len(content), content))
        sending = asyncio.create_task(forever(one, b"X-Trailer: " + b"t" * 1_000 + b"\r\n"))
        assert await one.ended()
        sending.cancel()


async def test_a_body_of_tiny_chunks_is_refused_and_one_of_small_ones_is_taken(api: Api) -> None:
    """Each chunk is a call: a client that sends megabytes of them would have the event loop to itself."""
    head = b"POST /comments/process HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    content = json.dumps(body(*(comment(number) for number in range(900)), post_id="p1")).encode()
    for size, expected in ((1, 400), (40, 200)):
        parts = [content[at : at + size] for at in range(0, len(content), size)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        status, _, document = await api.send(head + chunks + b"0\r\n\r\n")
        assert status == expected, document
    # A short body may come as it likes.
    short = json.dumps(body(comment("short"), post_id="p1")).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in short)
    assert (await api.send(head + chunks + b"0\r\n\r\n"))[0] == 200


async def test_beyond_the_limit_probes_are_answered_and_the_rest_comes_back(api: Api) -> None:
    content = json.dumps(body(comment(1), post_id="p1")).encode()
    stuck = [await Raw.open(api.port) for _ in range(LIMIT)]
    for one in stuck:
        await one.send(post(b"{", length=100))
    await until(lambda: api.connections == LIMIT)
    for _ in range(3):
        assert await api.health() == 200
        async with await Raw.open(api.port) as one:
            await one.send(post(content))
            status, headers, document = await one.answer()
            assert (status, problem(document)) == (503, "overloaded")
            assert int(headers["retry-after"]) > 0
    more = [await Raw.open(api.port) for _ in range(EXCESS * 2)]
    await until(lambda: api.connections <= LIMIT + EXCESS + 1)
    assert await api.health() == 200
    assert api.told("comment_processing_errors_total", reason="overloaded") >= 3
    assert 1 <= len(api.lines(problem="too-many-connections")) <= 5
    for one in (*stuck, *more):
        one.writer.transport.abort()
    await until(lambda: api.connections == 0)
    async with await Raw.open(api.port) as one:
        await one.send(post(content))
        assert (await one.answer())[0] == 200


async def test_idle_connections_make_room(api: Api) -> None:
    idle = [await Raw.open(api.port) for _ in range(LIMIT)]
    for one in idle:
        await one.send(HEALTH)
        assert (await one.answer())[0] == 200
    content = json.dumps(body(comment(1), post_id="p1")).encode()
    async with await Raw.open(api.port) as one:
        await one.send(post(content))
        assert (await one.answer())[0] == 200
        # The one that had been idle longest.
        assert await idle[0].ended()
        await idle[1].send(HEALTH)
        assert (await idle[1].answer())[0] == 200
    for one in idle:
        one.writer.transport.abort()
