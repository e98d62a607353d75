"""One connection of a client: uvicorn's, with bounds on the size of a head, on each wait and on pipelined requests.

The parser joins a header's fragments for as long as they come, and uvicorn has no timeout while it waits for a head,
for the rest of a body or for a client to read its answer. See docs/adr/0036.
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

# Bytes of a request's line and headers together, including the trailers of a chunked body.
HEAD_BYTES: Final = 65_536
# Headers of a request, including trailers: in memory, each takes some twenty times the bytes of a short header.
HEAD_LINES: Final = 200
# Seconds for a head, for the rest of a body that was answered early, and for a client that reads no more of its answer.
PATIENCE: Final = 30.0
# Seconds for the head of a connection above the limit.
EXCESS_PATIENCE: Final = 5.0
# Seconds between an answer and the next request of a connection.
KEEP_ALIVE: Final = 75.0
# Seconds in which the bytes of a refused client are still read, so that it can read its answer: closing a connection
# with unread bytes resets it, and the answer is lost.
LINGER: Final = 2.0
# Beyond CHUNKS chunks, a body's chunks must hold CHUNK_BYTES bytes on average: each chunk is a call, whatever its size.
CHUNKS: Final = 4_096
CHUNK_BYTES: Final = 8
# Requests that a connection may have sent before the first of them is answered.
PIPELINED: Final = 100
UPGRADE_HEADERS: Final = frozenset((b"upgrade", b"http2-settings"))

# uvicorn warns of each connection that does not speak HTTP or asks for a WebSocket: a flood of them would fill the log.
# They are counted here instead, and logged once a second.
_quiet: Final = logging.getLogger("uvicorn.error.connections")
_quiet.setLevel(logging.ERROR)


class _Flow(FlowControl):
    """Does not resume reading while complete requests wait in the pipeline."""

    def __init__(self, transport: asyncio.Transport, connection: "Connection"):
        super().__init__(transport)
        self._connection: Connection | None = connection

    def resume_reading(self) -> None:
        if self._connection and not self._connection.pipeline:
            super().resume_reading()

    def forget(self) -> None:
        """Drops the reference to the lost connection."""
        self._connection = None


def _nothing() -> None:
    """Replaces the callback after an answer that no client gets."""


class Connection(HttpToolsProtocol):
    """One connection; `door` counts all connections and checks their timeouts."""

    door: "Door"

    def __init__(self, *args: Any, door: "Door", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.door = door
        self.logger = _quiet
        self.excess = False
        # The start of the current wait; the other attributes determine its kind.
        self._since = 0.0
        # The request that is being answered; later requests are in the pipeline.
        self._current: RequestResponseCycle | None = None
        # Whether the parser reached the end of an element within the latest bytes.
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
        """Registers the connection and starts the wait for its first request."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        self._since = self.loop.time()
        self.door.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives up the connection's requests and frees what it holds."""
        self._give_up_requests()
        super().connection_lost(exc)
        self.door.leave(self)
        # These objects refer to each other: otherwise only the garbage collector would free them, and it runs rarely.
        self.pipeline.clear()
        if isinstance(self.flow, _Flow):
            self.flow.forget()
        self.headers, self._upgrading = [], None

    def data_received(self, data: bytes) -> None:
        """Parses received bytes; those of a refused client are dropped."""
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
        # The parser buffers a header, a trailer or a chunk's extension until its end.
        self._pending = 0 if self._moved else self._pending + len(data)
        if self._pending > HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Handles a request that asks for another protocol as an ordinary HTTP request, with its body.

        The parser takes all bytes after such a head for the other protocol. HTTP lets a server ignore the upgrade, so
        the request is parsed again without it.
        """
        if self._refused or not self._upgrading:
            return
        (first, headers), self._upgrading = self._upgrading, None
        lines = [first]
        for name, value in headers:
            if name.lower() == b"connection":
                kept = [option for option in value.split(b",") if option.strip().lower() not in UPGRADE_HEADERS]
                lines += [b"connection: %b\r\n" % b",".join(kept)] if kept else []
            elif name.lower() not in UPGRADE_HEADERS:
                lines.append(b"%b: %b\r\n" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join(lines) + b"\r\n" + rest)

    def on_message_begin(self) -> None:
        """Begins a request."""
        super().on_message_begin()
        self._moved = self._in_head = True
        self._head_bytes = self._head_lines = 0
        self._since = self.loop.time()
        if self.excess:
            self.scope["state"]["excess"] = True

    def on_url(self, url: bytes) -> None:
        """Takes a part of the request's path."""
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a whole header, or a trailer of a chunked body."""
        # Trailers come after the head, when the request is already being handled: they are not added to its headers.
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
        """Checks the complete head and starts the request."""
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
        """Returns the status for a head that the parser accepts and HTTP does not (RFC 9112, 3.2 and 6.1)."""
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
        """Takes a part of the request's body."""
        self._moved = True
        if self._refused or self._upgrading:
            return
        self._chunk_bytes += len(body)
        if self._chunks > CHUNKS and self._chunk_bytes < CHUNK_BYTES * self._chunks:
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        super().on_body(body)

    def on_chunk_header(self) -> None:
        """Counts a chunk of the body."""
        self._chunks += 1

    def on_message_complete(self) -> None:
        """Completes the request."""
        self._moved = True
        self._body_open = False
        if not (self._refused or self._upgrading):
            super().on_message_complete()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answers the complete requests of a client that sends no more, then closes the connection."""
        if not self._answering or self._body_open:
            return None
        self.cycle.keep_alive = False
        self._refused = True
        return True

    def on_response_complete(self) -> None:
        """Starts the wait for the next request."""
        super().on_response_complete()
        # The door checks all connections with one timer; a keep-alive timer for each answer would cost more.
        self._unset_keepalive_if_required()
        self._since = self.loop.time()

    def pause_writing(self) -> None:
        """Reports that the client reads no more of its answer for now."""
        super().pause_writing()
        self.door.stuck(self)

    def resume_writing(self) -> None:
        """Reports that the client reads its answer again."""
        super().resume_writing()
        self.door.moves(self)

    @property
    def unsent(self) -> int:
        """Bytes of answers that the client has yet to read."""
        return self.transport.get_write_buffer_size()

    @property
    def _latest(self) -> RequestResponseCycle | None:
        """The latest request whose head is complete, or None; the library's type leaves out None."""
        return self.cycle

    @property
    def _answering(self) -> bool:
        latest = self._latest
        return latest is not None and not (latest.response_complete or latest.disconnected)

    @property
    def idle(self) -> bool:
        """Whether the connection is between two requests: it can be closed, and the client opens another one."""
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
        """The loop's time of the last answer."""
        return self._since

    def check(self, now: float) -> None:
        """Ends the connection if its client has kept it waiting for too long.

        Args:
            now: the loop's time in seconds.
        """
        unsent, self._unsent_before = self._unsent_before, self.unsent
        if self._unsent_before:
            # Unread bytes of an answer also keep a closed connection open.
            if self._unsent_before < unsent or not unsent:
                self._stuck_since = now
            elif now - self._stuck_since > PATIENCE:
                self._end(self.transport.abort)
        elif self.transport.is_closing():
            self._closing_since = self._closing_since or now
            if now - self._closing_since > LINGER:
                self._end(self.transport.abort)
        elif not self._answering:
            self._check_client(now - self._since)

    def _end(self, close: Callable[[], None]) -> None:
        """Closes the connection and gives up requests that may be under way."""
        self._give_up_requests()
        close()

    def _give_up_requests(self) -> None:
        """Marks all requests as disconnected; the library marks only the latest, and the others would go on writing."""
        waiting = [cycle for cycle, _ in self.pipeline]
        for cycle in waiting:
            cycle.on_response = _nothing
            cycle.body = bytearray()
        for request in (self._current, self._latest, *waiting):
            if request and not request.response_complete:
                request.disconnected = True
                request.message_event.set()
        self._current = None

    def _check_client(self, waited: float) -> None:
        patience = EXCESS_PATIENCE if self.excess else PATIENCE
        if self._refused:
            if waited > LINGER:
                self.transport.close()
        elif self._in_head:
            if waited > patience:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        elif self._latest is None or self._body_open:
            # No byte of a first request came, or the rest of a body that was answered early is missing.
            if waited > patience:
                self.transport.close()
        elif (self.excess and waited > LINGER) or waited > KEEP_ALIVE:
            self.transport.close()

    def _refuse(self, status: HTTPStatus, answer: bytes = b"") -> None:
        """Answers a request without the application, and drops all further bytes."""
        if self._refused:
            return
        self._refused = True
        self._since = self.loop.time()
        self.door.refused(status)
        if not self._answering:
            self.transport.write(answer or ANSWERS[status])
        elif self._body_open and self.cycle is self._current and not self.cycle.response_started:
            # The handler waits for the rest of a body, which can't be read any more.
            self._give_up_requests()
            self.transport.write(answer or ANSWERS[status])
        elif self._body_open:
            self._end(self.transport.close)
        else:
            # Bytes in the middle of another request's answer would corrupt it: that answer is the connection's last.
            self.cycle.keep_alive = False


def _answer(status: HTTPStatus, detail: str) -> bytes:
    body = msgspec.json.encode(content_of(status, "bad-http", status.phrase, detail))
    head = (
        f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


NOT_ENCODED: Final = _answer(
    HTTPStatus.BAD_REQUEST, "The URL holds characters that have to be percent-encoded (curl -G --data-urlencode)."
)
ANSWERS: Final = {
    status: _answer(status, detail)
    for status, detail in {
        HTTPStatus.BAD_REQUEST: "This is not HTTP/1.1, whose requests have one Host header each.",
        HTTPStatus.NOT_IMPLEMENTED: "Transfer-Encoding must be `chunked`; Content-Encoding names a body's compression.",
        HTTPStatus.REQUEST_TIMEOUT: f"The request's head did not come within {PATIENCE:.0f} seconds.",
        HTTPStatus.TOO_MANY_REQUESTS: f"More than {PIPELINED} requests were sent before the first was answered.",
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
            f"A request's head may hold at most {HEAD_BYTES} bytes and {HEAD_LINES} headers."
        ),
    }.items()
}
