"""Limits for request bodies, compressed or not: the bytes and the time of a process, and which body is dropped."""

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
CAPACITY: Final = 32 * MIB
CONTENT: Final = json.dumps(body(comment(1), post_id="p1")).encode()


@pytest.fixture
def api(tmp_path: Path, environment: dict[str, str]) -> Iterator[Api]:
    settings = {"COMMENT_RATE_LIMIT_PER_MINUTE": 0, "COMMENT_MAX_REQUEST_BYTES": 16 * MIB}
    with serving(tmp_path, environment, COMMENT_BODY_BYTES_IN_FLIGHT=CAPACITY, **settings) as running_api:
        yield running_api


def padded(size: int) -> bytes:
    """Returns a request with one comment, padded to `size` bytes."""
    return CONTENT + b" " * (size - len(CONTENT))


async def test_forty_stalled_large_bodies_take_no_more_than_the_capacity(api: Api) -> None:
    before = api.memory
    stalled = [await Raw.open(api.port) for _ in range(40)]
    sending = [asyncio.create_task(raw.send(post(b"[" * LARGE, length=LARGE + 1))) for raw in stalled]
    refused = [asyncio.create_task(raw.answer()) for raw in stalled]
    await until(lambda: sum(task.done() for task in refused) >= 37)
    for status, headers, document in (task.result() for task in refused if task.done()):
        assert (status, problem(document)) == (503, "overloaded")
        assert int(headers["retry-after"]) > 0
    assert api.memory - before < CAPACITY / MIB + 40
    await until(lambda: 0 < api.reported("comment_body_bytes_in_flight") <= CAPACITY)
    # Small bodies still have capacity, and a large body that makes progress replaces a stalled one.
    assert (await api.send(post(CONTENT)))[0] == 200
    assert (await until_accepted(api, post(padded(LARGE))))[0] == 200
    for task in (*sending, *refused):
        task.cancel()
    for raw in stalled:
        raw.writer.transport.abort()
    await until(lambda: api.reported("comment_body_bytes_in_flight") == 0)
    lines = [line for line in api.program.output.splitlines() if '"refused"' in line]
    assert len(lines) < 30
    assert sum(json.loads(line).get("count", 1) for line in lines) >= 37


async def until_accepted(api: Api, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Repeats a request after each 503, as a client does."""
    while (answer := await api.send(request))[0] == 503:  # noqa: ASYNC110 - what a client does
        await asyncio.sleep(float(answer[1]["retry-after"]))
    return answer


async def test_a_body_above_the_capacity_is_accepted_if_no_other_body_is_large(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with serving(tmp_path, environment, COMMENT_BODY_BYTES_IN_FLIGHT=MIB) as api:
        assert (await api.send(post(padded(LARGE))))[0] == 200


async def test_a_too_large_content_length_is_refused_before_the_body(api: Api) -> None:
    for length in (16 * MIB + 1, 10**12, 2**63, 2**64 - 1):
        status, _, document = await api.send(post(b"[", length=length))
        assert (status, problem(document)) == (413, "too-large")


async def test_a_chunked_body_is_refused_once_it_exceeds_the_limit(api: Api) -> None:
    async with await Raw.open(api.port) as raw:
        await raw.send(b"POST /comments/process HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        sending = asyncio.create_task(raw.send((b"%x\r\n%b\r\n" % (MIB, b" " * MIB)) * 40))
        status, _, document = await raw.answer()
        assert (status, problem(document)) == (413, "too-large")
        sending.cancel()


def unsized(data: bytes) -> bytes:
    packer = zstd.ZstdCompressor()
    return packer.compress(data) + packer.flush()


COMPRESSED: Final[dict[str, tuple[str, Callable[[bytes], bytes]]]] = {
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


async def test_compressed_bodies_are_accepted(api: Api) -> None:
    for kind, (encoding, compress) in COMPRESSED.items():
        for size in (len(CONTENT), 300_000, 3 * MIB):
            status, _, answer = await api.send(post(compress(padded(size)), Content_Encoding=encoding))
            assert status == 200, (kind, answer)
            assert json.loads(answer)["received"] == 1


async def test_other_encodings_get_415_with_the_accepted_encodings(api: Api) -> None:
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


async def test_damaged_compressed_bodies_are_refused_and_delay_no_health_probe(api: Api) -> None:
    for kind, (encoding, compressed) in DAMAGED.items():
        attacks = [asyncio.create_task(api.send(post(compressed, Content_Encoding=encoding))) for _ in range(4)]
        while not all(task.done() for task in attacks):
            async with asyncio.timeout(10):
                assert await api.health() == 200
        for status, _, document in [await task for task in attacks]:
            assert (status, problem(document)) in {(400, "not-json"), (503, "overloaded")}, kind


BOMBS: Final[dict[str, Callable[[int], bytes]]] = {
    "gzip": lambda size: gzip.compress(bytes(size)),
    "zstd": lambda size: zstd.compress(bytes(size)),
    "members": lambda size: gzip.compress(bytes(MIB)) * (size // MIB),
}


async def test_a_decompression_bomb_is_refused_at_the_size_limit(api: Api) -> None:
    before = api.memory
    for kind, make in BOMBS.items():
        bomb = post(make(512 * MIB), Content_Encoding="zstd" if kind == "zstd" else "gzip")
        for status, _, document in await asyncio.gather(*(api.send(bomb) for _ in range(6))):
            assert (status, problem(document)) in {(413, "too-large"), (503, "overloaded")}, kind
    assert api.memory - before < CAPACITY / MIB + 60
    assert (await api.send(post(CONTENT)))[0] == 200


async def test_bodies_of_many_invalid_comments_delay_no_health_probe(api: Api) -> None:
    bad = json.dumps({"post_id": "p1", "comments": [0] * 9_990}).encode()
    attacks = [asyncio.create_task(api.send(post(bad))) for _ in range(6)]
    while not all(task.done() for task in attacks):
        async with asyncio.timeout(5):
            assert await api.health() == 200
    assert {(await task)[0] for task in attacks} == {422}


async def test_bodies_that_are_slow_to_scan_get_no_other_client_refused(api: Api) -> None:
    """Fifty kilobytes of gzip: millions of empty arrays in an unknown member, and an invalid comment."""
    members = "[]," * 5_000_000
    compressed = gzip.compress(f'{{"post_id":"p1","x":[{members}1],"comments":[0]}}'.encode())
    attack = post(compressed, Content_Encoding="gzip")
    attacks = [asyncio.create_task(api.send(attack)) for _ in range(12)]
    comments = [comment(number) for number in range(200)]
    content = json.dumps(body({}, *comments, post_id="p1")).encode()
    for _ in range(4):
        async with await Raw.open(api.port, "127.0.0.2") as other:
            await other.send(post(content))
            status, _, document = await other.answer()
        assert status == 200, document
        assert json.loads(document)["rejected"][0]["index"] == 0
    answers = [await task for task in attacks]
    assert {status for status, _, _ in answers} <= {413, 503}
    assert "arrays and objects" in max(document.decode() for status, _, document in answers if status == 413)


async def test_a_full_queue_refuses_a_request_before_its_body(tmp_path: Path, environment: dict[str, str]) -> None:
    many = json.dumps(body(*map(comment, range(25)), post_id="p1")).encode()
    with serving(tmp_path, environment, COMMENT_QUEUE_CAPACITY=25) as api:
        with locked(environment["POSTGRES_DSN"]):
            waiting = asyncio.create_task(api.send(post(many)))
            await until(lambda: api.reported("comment_processing_queue_length") == 25)
            # No byte of the body is sent, and the server requests none.
            status, headers, document = await api.send(post(b"", length=1_000, Expect="100-continue"))
            assert (status, problem(document)) == (503, "queue-full")
            assert int(headers["retry-after"]) > 0
        assert (await waiting)[0] == 200


async def test_the_documentation_and_metrics_cover_refused_encodings(api: Api) -> None:
    async with http.AsyncClient(base_url=api.url) as client:
        document = (await client.get("/openapi.json")).json()
    assert {"408", "415", "503"} <= set(document["paths"]["/comments/process"]["post"]["responses"])
    assert (await api.send(post(b"[", Content_Encoding="br")))[0] == 415
    assert api.reported("comment_processing_errors_total", reason="unsupported-encoding") == 1
