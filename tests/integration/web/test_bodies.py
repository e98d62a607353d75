"""What the bodies of requests may hold of a process: bytes and time, packed or not, and who gives way."""

import asyncio
import gzip
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.conftest import until
from tests.support import http
from tests.support.api import MIB, Api, serving
from tests.support.locks import locked
from tests.support.raw import Raw, post, problem
from tests.support.requests import body, comment

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LARGE: Final = 15 * MIB
ROOM: Final = 32 * MIB
CONTENT: Final = json.dumps(body(comment(1), post_id="p1")).encode()


@pytest.fixture
def api(tmp_path: Path, environment: dict[str, str]) -> Iterator[Api]:
    settings = {"COMMENT_RATE_LIMIT_PER_MINUTE": 0, "COMMENT_MAX_REQUEST_BYTES": 16 * MIB}
    with serving(tmp_path, environment, COMMENT_BODY_BYTES_IN_FLIGHT=ROOM, **settings) as one:
        yield one


def padded(size: int) -> bytes:
    """A request with one comment and so many bytes."""
    return CONTENT + b" " * (size - len(CONTENT))


async def test_forty_large_bodies_that_stall_take_no_more_than_the_room(api: Api) -> None:
    before = api.memory
    stalled = [await Raw.open(api.port) for _ in range(40)]
    sending = [asyncio.create_task(one.send(post(b"[" * LARGE, length=LARGE + 1))) for one in stalled]
    refused = [asyncio.create_task(one.answer()) for one in stalled]
    await until(lambda: sum(one.done() for one in refused) >= 37)
    for status, headers, document in (one.result() for one in refused if one.done()):
        assert (status, problem(document)) == (503, "overloaded")
        assert int(headers["retry-after"]) > 0
    assert api.memory - before < ROOM / MIB + 40
    await until(lambda: 0 < api.told("comment_body_bytes_in_flight") <= ROOM)
    # Small ones have room, and a large one that comes on takes that of one which does not.
    assert (await api.send(post(CONTENT)))[0] == 200
    assert (await until_taken(api, post(padded(LARGE))))[0] == 200
    for one in (*sending, *refused):
        one.cancel()
    for raw in stalled:
        raw.writer.transport.abort()
    await until(lambda: api.told("comment_body_bytes_in_flight") == 0)
    lines = [line for line in api.program.output.splitlines() if '"refused"' in line]
    assert len(lines) < 30
    assert sum(json.loads(line).get("count", 1) for line in lines) >= 37


async def until_taken(api: Api, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Repeats a request as its client does."""
    while (answer := await api.send(request))[0] == 503:  # noqa: ASYNC110 - what a client does
        await asyncio.sleep(float(answer[1]["retry-after"]))
    return answer


async def test_a_body_above_the_room_is_taken_where_it_is_the_only_large_one(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with serving(tmp_path, environment, COMMENT_BODY_BYTES_IN_FLIGHT=MIB) as api:
        assert (await api.send(post(padded(LARGE))))[0] == 200


async def test_what_says_that_it_is_too_large_is_not_waited_for(api: Api) -> None:
    for length in (16 * MIB + 1, 10**12, 2**63, 2**64 - 1):
        status, _, document = await api.send(post(b"[", length=length))
        assert (status, problem(document)) == (413, "too-large")


async def test_what_becomes_too_large_is_refused_where_it_does(api: Api) -> None:
    async with await Raw.open(api.port) as one:
        await one.send(b"POST /comments/process HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        sending = asyncio.create_task(one.send((b"%x\r\n%b\r\n" % (MIB, b" " * MIB)) * 40))
        status, _, document = await one.answer()
        assert (status, problem(document)) == (413, "too-large")
        sending.cancel()


def unsized(data: bytes) -> bytes:
    packer = zstd.ZstdCompressor()
    return packer.compress(data) + packer.flush()


PACKED: Final[dict[str, tuple[str, Callable[[bytes], bytes]]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "in capitals": ("GZIP", gzip.compress),
    "with blanks": (" gzip ", gzip.compress),
    "after identity": ("identity, gzip", gzip.compress),
    "zstd": ("zstd", zstd.compress),
    "two members": ("gzip", lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:])),
    "two frames": ("zstd", lambda data: zstd.compress(data[:50]) + zstd.compress(data[50:])),
    "with a name": ("gzip", lambda data: gzip.compress(data, mtime=0)),
    "an empty member": ("gzip", lambda data: gzip.compress(b"") + gzip.compress(data)),
    "without its size": ("zstd", unsized),
    "identity": ("identity", bytes),
    "nothing": ("", bytes),
}


async def test_packed_bodies_are_taken(api: Api) -> None:
    for kind, (encoding, pack) in PACKED.items():
        for size in (len(CONTENT), 300_000, 3 * MIB):
            status, _, answer = await api.send(post(pack(padded(size)), Content_Encoding=encoding))
            assert status == 200, (kind, answer)
            assert json.loads(answer)["received"] == 1


async def test_other_packings_are_415_and_say_what_is_taken(api: Api) -> None:
    for encoding in ("br", "deflate", "compress", "gzip, gzip", "zstd, gzip", "gzip;q=1", "\xe9", "*"):
        status, headers, document = await api.send(post(CONTENT, Content_Encoding=encoding))
        assert (status, problem(document)) == (415, "unsupported-encoding"), encoding
        assert headers["accept-encoding"] == "gzip, zstd"


NOISE: Final = os.urandom(200_000)
DAMAGED: Final[dict[str, tuple[str, bytes]]] = {
    "plain text": ("gzip", CONTENT),
    "plain text as zstd": ("zstd", CONTENT),
    "nothing": ("gzip", b""),
    "nothing as zstd": ("zstd", b""),
    "cut short": ("gzip", gzip.compress(NOISE)[:-9]),
    "cut short as zstd": ("zstd", zstd.compress(NOISE)[:-9]),
    "cut before its checksum": ("gzip", gzip.compress(CONTENT)[:-4]),
    "another checksum": ("gzip", gzip.compress(CONTENT)[:-8] + bytes(8)),
    "with more behind it": ("gzip", gzip.compress(CONTENT) + b"more"),
    "zlib's own": ("gzip", zlib.compress(CONTENT)),
    "zstd called gzip": ("gzip", zstd.compress(CONTENT)),
    "a window of 1 GiB": ("zstd", zstd.compress(NOISE, options={zstd.CompressionParameter.window_log: 30})),
    "members without end": ("gzip", gzip.compress(b"") * 200_000),
    "frames without end": ("zstd", zstd.compress(b"") * 200_000),
    "skipped frames without end": ("zstd", (b"\x50\x2a\x4d\x18" + bytes(4)) * 500_000),
}


async def test_damaged_packings_are_named_and_hold_up_nobody(api: Api) -> None:
    for kind, (encoding, packed) in DAMAGED.items():
        attacks = [asyncio.create_task(api.send(post(packed, Content_Encoding=encoding))) for _ in range(4)]
        while not all(one.done() for one in attacks):
            async with asyncio.timeout(10):
                assert await api.health() == 200
        for status, _, document in [await one for one in attacks]:
            assert (status, problem(document)) in {(400, "not-json"), (503, "overloaded")}, kind


BOMBS: Final[dict[str, Callable[[int], bytes]]] = {
    "gzip": lambda size: gzip.compress(bytes(size)),
    "zstd": lambda size: zstd.compress(bytes(size)),
    "members": lambda size: gzip.compress(bytes(MIB)) * (size // MIB),
}


async def test_a_bomb_ends_at_the_limit(api: Api) -> None:
    before = api.memory
    for kind, make in BOMBS.items():
        bomb = post(make(512 * MIB), Content_Encoding="zstd" if kind == "zstd" else "gzip")
        for status, _, document in await asyncio.gather(*(api.send(bomb) for _ in range(6))):
            assert (status, problem(document)) in {(413, "too-large"), (503, "overloaded")}, kind
    assert api.memory - before < ROOM / MIB + 60
    assert (await api.send(post(CONTENT)))[0] == 200


async def test_bodies_of_many_bad_comments_hold_up_nobody(api: Api) -> None:
    bad = json.dumps({"post_id": "p1", "comments": [0] * 9_990}).encode()
    attacks = [asyncio.create_task(api.send(post(bad))) for _ in range(6)]
    while not all(one.done() for one in attacks):
        async with asyncio.timeout(5):
            assert await api.health() == 200
    assert {(await one)[0] for one in attacks} == {422}


async def test_bodies_that_take_long_to_look_through_are_no_reason_to_refuse_another_client(api: Api) -> None:
    """Fifty kilobytes, packed, of empty arrays in a member that nobody reads, and a comment that is none."""
    members = "[]," * 5_000_000
    packed = gzip.compress(f'{{"post_id":"p1","x":[{members}1],"comments":[0]}}'.encode())
    attack = post(packed, Content_Encoding="gzip")
    attacks = [asyncio.create_task(api.send(attack)) for _ in range(12)]
    comments = [comment(number) for number in range(200)]
    content = json.dumps(body({}, *comments, post_id="p1")).encode()
    for _ in range(4):
        async with await Raw.open(api.port, "127.0.0.2") as other:
            await other.send(post(content))
            status, _, document = await other.answer()
        assert status == 200, document
        assert json.loads(document)["rejected"][0]["index"] == 0
    answers = [await one for one in attacks]
    assert {status for status, _, _ in answers} <= {413, 503}
    assert "arrays and objects" in max(document.decode() for status, _, document in answers if status == 413)


async def test_a_full_queue_is_known_before_a_body_is_read(tmp_path: Path, environment: dict[str, str]) -> None:
    many = json.dumps(body(*map(comment, range(25)), post_id="p1")).encode()
    with serving(tmp_path, environment, COMMENT_QUEUE_CAPACITY=25) as api:
        with locked(environment["POSTGRES_DSN"]):
            waiting = asyncio.create_task(api.send(post(many)))
            await until(lambda: api.told("comment_processing_queue_length") == 25)
            # Not one byte of its body is sent, nor asked for.
            status, headers, document = await api.send(post(b"", length=1_000, Expect="100-continue"))
            assert (status, problem(document)) == (503, "queue-full")
            assert int(headers["retry-after"]) > 0
        assert (await waiting)[0] == 200


async def test_the_documentation_and_metrics_name_what_is_taken(api: Api) -> None:
    async with http.AsyncClient(base_url=api.url) as client:
        document = (await client.get("/openapi.json")).json()
    assert {"408", "415", "503"} <= set(document["paths"]["/comments/process"]["post"]["responses"])
    assert (await api.send(post(b"[", Content_Encoding="br")))[0] == 415
    assert api.told("comment_processing_errors_total", reason="unsupported-encoding") == 1
