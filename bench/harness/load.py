"""A load generator that uses little processor time, because it shares the processors with the service.

Requests are built before the measurement starts, and responses are decoded after it ends.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec
import uvloop

from comment_monitor.core import model

HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length:"
TIMEOUT: Final = 60.0
now = time.perf_counter


class Outcome(NamedTuple):
    """The outcome of a run: seconds from its first byte to its last response, and each request's latency in seconds."""

    seconds: float
    latencies: list[float]
    stored: int
    duplicates: int

    @property
    def rate(self) -> float:
        """Comments per second."""
        return (self.stored + self.duplicates) / self.seconds


class LoadError(Exception):
    """A request failed, so the measurement is void."""


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport has the methods of asyncio.Transport, but is no subclass of it.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("The service ended the connection."))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(HEAD_END)
        if head < 0 or self._answer is None:
            return
        at = self._received.lower().find(LENGTH, 0, head)
        end = self._received.index(b"\r", at)
        whole = head + len(HEAD_END) + int(self._received[at + len(LENGTH) : end])
        if len(self._received) >= whole:
            answer, self._received = bytes(self._received), bytearray()
            self._answer.set_result(answer)

    async def exchange(self, request: bytes) -> bytes:
        """Sends a request and returns its response, including the head."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self._transport.close()


def send(url: str, bodies: Sequence[bytes], *, connections: int, rate: float | None = None) -> Outcome:
    """Sends all bodies over a number of connections.

    Args:
        url: URL of the service.
        bodies: bodies of `POST /comments/process`.
        connections: number of connections.
        rate: requests per second; None: each connection sends its next request as soon as it has a response. A latency
            counts from the moment at which the request was due, so that a service that delays the client does not
            seem fast.

    Raises:
        LoadError: a response was not 200, or a comment was rejected.
    """
    host = urlsplit(url).netloc
    requests = [
        b"POST /comments/process HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (host.encode(), len(body), body)
        for body in bodies
    ]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        started, finished, latencies, answers = runner.run(_send(url, requests, connections, rate))
    responses = [_decode(answer) for answer in answers]
    stored = sum(response.stored for response in responses)
    duplicates = sum(response.duplicates for response in responses)
    return Outcome(finished - started, latencies, stored, duplicates)


async def _send(
    url: str, requests: list[bytes], connections: int, rate: float | None
) -> tuple[float, float, list[float], list[bytes]]:
    loop = asyncio.get_running_loop()
    host, port = urlsplit(url).netloc.split(":")
    opened = [(await loop.create_connection(_Connection, host, int(port)))[1] for _ in range(connections)]
    latencies: list[float] = []
    answers: list[bytes] = []
    started = now()
    turns = iter(enumerate(requests))
    async with asyncio.timeout(TIMEOUT + (len(requests) / rate if rate else TIMEOUT * 5)), asyncio.TaskGroup() as group:
        for connection in opened:
            group.create_task(_work(connection, turns, started, rate, latencies, answers))
    finished = now()
    for connection in opened:
        connection.close()
    return started, finished, latencies, answers


async def _work(
    connection: _Connection,
    turns: Iterator[tuple[int, bytes]],
    started: float,
    rate: float | None,
    latencies: list[float],
    answers: list[bytes],
) -> None:
    for number, request in turns:
        due = now()
        if rate:
            due = started + number / rate
            if (wait := due - now()) > 0:
                await asyncio.sleep(wait)
        answers.append(await connection.exchange(request))
        latencies.append(now() - due)


def _decode(answer: bytes) -> model.Receipt:
    head, _, body = answer.partition(HEAD_END)
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise LoadError(f"{head.partition(HEAD_END[:2])[0].decode()}: {body[:300].decode(errors='replace')}")
    response = msgspec.json.decode(body, type=model.Receipt)
    if response.rejected:
        raise LoadError(f"rejected: {response.rejected[0].reason}")
    return response
