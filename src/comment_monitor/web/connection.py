"""One connection of a client: uvicorn's, with bounds on the size of a head, on each wait and on pipelined requests.

The parser glues a header's fragments together for as long as they come, and no clock of uvicorn's runs while a head, a
rest of a body or a reader is awaited. See docs/adr/0036.
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import httptools
import msgspec
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from comment_monitor.web.problems import MEDIA_TYPE, content_of

if TYPE_CHECKING:
    from comment_monitor.web.door import Door

# Bytes of a request's line and headers together, and of what a chunked body may bring as trailers.
HEAD_BYTES: Final = 65_536
# Headers of a request, and trailers: each takes some twenty times the bytes of a short one.
HEAD_LINES: Final = 200
# Seconds for a head, for the rest of a body that was answered early, and for a client that takes no more of its answer.
PATIENCE: Final = 30.0
# Seconds for the head of a connection beyond the limit.
EXCESS_PATIENCE: Final = 5.0
# Seconds between an answer and the next request of a connection.
KEEP_ALIVE: Final = 75.0
# Seconds in which a refused client is heard out, so that it can read its answer: a connection closed over bytes that
# nobody read is reset, and the answer with it.
GOODBYE: Final = 2.0
# Chunks of a body from which on they have to hold so many bytes on average: each is a call, whatever it holds.
CHUNKS: Final = 4_096
CHUNK_BYTES: Final = 8
# Requests that a connection may have sent before the first of them is answered.
PIPELINED: Final = 100

# uvicorn warns of each connection that speaks no HTTP, or wants a WebSocket: a flood of them would fill the log. They
# are counted here, and told of once a second.
_quiet: Final = logging.getLogger("uvicorn.error.connections")
_quiet.setLevel(logging.ERROR)


class _Flow(FlowControl):
    """Reads no further while whole requests wait for their turn."""

    def __init__(self, transport: asyncio.Transport, waiting: "Connection"):
        super().__init__(transport)
        self._waiting: Connection | None = waiting

    def resume_reading(self) -> None:
        if self._waiting and not self._waiting.pipeline:
            super().resume_reading()

    def forget(self) -> None:
        """The connection is gone."""
        self._waiting = None


def _nothing() -> None:
    """What a request does after its answer that nobody gets."""


class Connection(HttpToolsProtocol):
    """One connection; `door` counts them all and looks at their clocks."""

    door: "Door"

    def __init__(self, *args: Any, door: "Door", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.door = door
        self.logger = _quiet
        self.excess = False
        # When the wait began that it is in; what it waits for follows from the rest.
        self._since = 0.0
        # The request that is being answered; those after it are in the pipeline.
        self._current: RequestResponseCycle | None = None
        # Whether the parser came to the end of something within the bytes it was given last.
        self._moved = False
        self._head_lines = 0
        self._chunks = self._chunk_bytes = 0
        # The first line of a request that asks for another protocol, and its headers.
        self._upgrading: tuple[bytes, list[tuple[bytes, bytes]]] | None = None
        self._unsent_before = 0
        self._in_head = False
        self._body_open = False
        self._head_bytes = 0
        self._pending = 0
        self._stuck_since = 0.0
        self._closing_since: float | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        self._since = self.loop.time()
        self.door.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._give_up_requests()
        super().connection_lost(exc)
        self.door.leave(self)
        # They hold each other: left so, only the collector would find them, and it comes seldom.
        self.pipeline.clear()
        if isinstance(self.flow, _Flow):
            self.flow.forget()
        self.headers, self._upgrading = [], None

    def data_received(self, data: bytes) -> None:
        """Bytes came; those of a refused client are read and dropped."""
        if self._refused or self.transport.is_closing():
            return
        self._moved = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserInvalidURLError:
            self._refuse(HTTPStatus.BAD_REQUEST, NOT_ENCODED)
            return
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
            return
        # The parser keeps what it has of a header, a trailer or a chunk's extension that has no end yet.
        self._pending = 0 if self._moved else self._pending + len(data)
        if self._pending > HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Takes a request that would like another protocol as what it is in this one, with its body.

        The parser takes all that follows such a head for the other protocol, and HTTP lets a server pass over it.
        """
        if self._refused or not self._upgrading:
            return
        (first, headers), self._upgrading = self._upgrading, None
        lines = [first]
        for name, value in headers:
            if name.lower() == b"connection":
                kept = [one for one in value.split(b",") if one.strip().lower() not in {b"upgrade", b"http2-settings"}]
                lines += [b"connection: %b\r\n" % b",".join(kept)] if kept else []
            elif name.lower() not in {b"upgrade", b"http2-settings"}:
                lines.append(b"%b: %b\r\n" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join(lines) + b"\r\n" + rest)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._moved = self._in_head = True
        self._head_bytes = self._head_lines = 0
        self._since = self.loop.time()
        if self.excess:
            self.scope["state"]["excess"] = True

    def on_url(self, url: bytes) -> None:
        """A part of its path."""
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header, or a trailer of a chunked body."""
        # Trailers come after the head of a request that is being worked on: they are not added to its headers.
        if self._in_head:
            super().on_header(name, value)
        self._moved = True
        self._head_lines += 1
        self._count_head(len(name) + len(value) + 4)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES or self._head_lines > HEAD_LINES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Its head is complete."""
        self._in_head = False
        self._moved = True
        if self._refused:
            return
        if fault := self._fault_of_head():
            self._refuse(fault)
            return
        if self.parser.should_upgrade():
            version = self.parser.get_http_version().encode()
            self._upgrading = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version), self.headers
            return
        if len(self.pipeline) >= PIPELINED:
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS)
            return
        super().on_headers_complete()
        self._body_open = True
        self._chunks = self._chunk_bytes = 0

    def _fault_of_head(self) -> HTTPStatus | None:
        """What the parser lets pass and HTTP does not (RFC 9112, 3.2 and 6.1)."""
        hosts = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                return HTTPStatus.NOT_IMPLEMENTED
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            return HTTPStatus.BAD_REQUEST
        return HTTPStatus.BAD_REQUEST if self.parser.get_method() == b"CONNECT" else None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._current = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._moved = True
        if self._refused or self._upgrading:
            return
        self._chunk_bytes += len(body)
        if self._chunks > CHUNKS and self._chunk_bytes < CHUNK_BYTES * self._chunks:
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        super().on_body(body)

    def on_chunk_header(self) -> None:
        """A chunk of it begins."""
        self._chunks += 1

    def on_message_complete(self) -> None:
        """All of it came."""
        self._moved = True
        self._body_open = False
        if not (self._refused or self._upgrading):
            super().on_message_complete()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends no more, and may still wait for answers: those of whole requests it gets."""
        if not self._answering or self._body_open:
            return None
        self.cycle.keep_alive = False
        self._refused = True
        return True

    def on_response_complete(self) -> None:
        """It is answered."""
        super().on_response_complete()
        # The door's clock counts for all connections at once; one for each answer would cost more.
        self._unset_keepalive_if_required()
        self._since = self.loop.time()

    def pause_writing(self) -> None:
        """The client takes no more of its answer for now."""
        super().pause_writing()
        self.door.stuck(self)

    def resume_writing(self) -> None:
        """It takes more."""
        super().resume_writing()
        self.door.moves(self)

    @property
    def unsent(self) -> int:
        """Bytes of its answers that its client has yet to take."""
        return self.transport.get_write_buffer_size()

    @property
    def _latest(self) -> RequestResponseCycle | None:
        """The last request whose head is complete; the library's type knows no connection without one."""
        return self.cycle

    @property
    def _answering(self) -> bool:
        latest = self._latest
        return latest is not None and not (latest.response_complete or latest.disconnected)

    @property
    def idle(self) -> bool:
        """Between two requests: it can be closed, and its client opens another."""
        return (
            self._latest is not None
            and self._latest.response_complete
            and not self._in_head
            and not self._body_open
            and not self.transport.is_closing()
            and not self.unsent
        )

    @property
    def idle_since(self) -> float:
        """The loop's time of its last answer."""
        return self._since

    def look(self, now: float) -> None:
        """Ends it where it has kept us waiting for too long.

        Args:
            now: the loop's time.
        """
        unsent, self._unsent_before = self._unsent_before, self.unsent
        if self._unsent_before:
            # What is written and not taken keeps a connection open that is closed, too.
            if self._unsent_before < unsent or not unsent:
                self._stuck_since = now
            elif now - self._stuck_since > PATIENCE:
                self._end(self.transport.abort)
        elif self.transport.is_closing():
            self._closing_since = self._closing_since or now
            if now - self._closing_since > GOODBYE:
                self._end(self.transport.abort)
        elif not self._answering:
            self._look_at_client(now - self._since)

    def _end(self, how: Callable[[], None]) -> None:
        """Closes the connection over requests that may be under way."""
        self._give_up_requests()
        how()

    def _give_up_requests(self) -> None:
        """Nobody is there for their answers: the library marks the latest only, and others would write to nobody."""
        waiting = [cycle for cycle, _ in self.pipeline]
        for cycle in waiting:
            cycle.on_response = _nothing
            cycle.body = bytearray()
        for one in (self._current, self._latest, *waiting):
            if one and not one.response_complete:
                one.disconnected = True
                one.message_event.set()
        self._current = None

    def _look_at_client(self, waited: float) -> None:
        patience = EXCESS_PATIENCE if self.excess else PATIENCE
        if self._refused:
            if waited > GOODBYE:
                self.transport.close()
        elif self._in_head:
            if waited > patience:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        elif self._latest is None or self._body_open:
            # Not one byte of a first request, or the rest of one that is answered.
            if waited > patience:
                self.transport.close()
        elif (self.excess and waited > GOODBYE) or waited > KEEP_ALIVE:
            self.transport.close()

    def _refuse(self, status: HTTPStatus, answer: bytes = b"") -> None:
        """Answers for a request that never reaches the application, and takes no more."""
        if self._refused:
            return
        self._refused = True
        self._since = self.loop.time()
        self.door.refused(status)
        if not self._answering:
            self.transport.write(answer or ANSWERS[status])
        elif self._body_open and self.cycle is self._current and not self.cycle.response_started:
            # Its handler waits for a rest that can't be read any more.
            self._give_up_requests()
            self.transport.write(answer or ANSWERS[status])
        elif self._body_open:
            self._end(self.transport.close)
        else:
            # Words between the bytes of another request's answer would spoil it: it is the connection's last.
            self.cycle.keep_alive = False


def _answer(status: HTTPStatus, detail: str) -> bytes:
    body = msgspec.json.encode(content_of(status, "bad-http", status.phrase, detail))
    head = (
        f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


NOT_ENCODED: Final = _answer(
    HTTPStatus.BAD_REQUEST, "The address holds characters that have to be percent-encoded (curl -G --data-urlencode)."
)
ANSWERS: Final = {
    status: _answer(status, detail)
    for status, detail in {
        HTTPStatus.BAD_REQUEST: "This is not HTTP/1.1, whose requests have one Host header each.",
        HTTPStatus.NOT_IMPLEMENTED: "A Transfer-Encoding is `chunked`; how a body is packed, Content-Encoding says.",
        HTTPStatus.REQUEST_TIMEOUT: f"The request's head did not come within {PATIENCE:.0f} seconds.",
        HTTPStatus.TOO_MANY_REQUESTS: f"More than {PIPELINED} requests were sent before the first was answered.",
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
            f"A request's head may hold at most {HEAD_BYTES} bytes and {HEAD_LINES} headers."
        ),
    }.items()
}
