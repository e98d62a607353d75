"""One connection of a client: uvicorn's, with bounds on the size of a head, on each wait and on pipelined requests.

The parser glues a header's fragments together for as long as they come, and no clock of uvicorn's runs while a head, a
rest of a body or a reader is awaited. See docs/adr/0036.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from comment_monitor.api.problems import MEDIA_TYPE, content_of

if TYPE_CHECKING:
    from comment_monitor.api.door import Door

# Bytes of a request's line and headers together, and of what a chunked body may bring as trailers.
HEAD_BYTES: Final = 65_536
# Seconds for a head, for the rest of a body that was answered early, and for a client that takes no more of its answer.
PATIENCE: Final = 30.0
# Seconds for the head of a connection beyond the limit.
EXCESS_PATIENCE: Final = 5.0
# Seconds between an answer and the next request of a connection.
KEEP_ALIVE: Final = 75.0
# Seconds in which a refused client is heard out, so that it can read its answer: a connection closed over bytes that
# nobody read is reset, and the answer with it.
GOODBYE: Final = 2.0
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
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting.pipeline:
            super().resume_reading()


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
        self._in_head = False
        self._body_open = False
        self._head_bytes = 0
        self._pending = 0
        self._stuck_since: float | None = None
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
        super().connection_lost(exc)
        self.door.leave(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came; those of a refused client are read and dropped."""
        if self._refused or self.transport.is_closing():
            return
        headless = not self._in_head
        super().data_received(data)
        if not self._in_head:
            return
        # Of a head that began within these bytes, they may hold much else.
        self._pending = 0 if headless else self._pending + len(data)
        if self._pending > HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
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
        self._count_head(len(name) + len(value) + 4)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Its head is complete."""
        self._in_head = False
        self._body_open = True
        if self._refused:
            return
        if len(self.pipeline) >= PIPELINED:
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS)
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it came."""
        self._body_open = False
        if not self._refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """It is answered."""
        super().on_response_complete()
        # The door's clock counts for all connections at once; one for each answer would cost more.
        self._unset_keepalive_if_required()
        self._since = self.loop.time()

    def pause_writing(self) -> None:
        """The client takes no more of its answer for now."""
        super().pause_writing()
        self._stuck_since = self.loop.time()
        self.door.stuck(self)

    def resume_writing(self) -> None:
        """It takes more."""
        super().resume_writing()
        self._stuck_since = None
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
        return self._latest is not None and not self._latest.response_complete

    @property
    def idle(self) -> bool:
        """Between two requests: it can be closed, and its client opens another."""
        return (
            self._latest is not None
            and self._latest.response_complete
            and not self._in_head
            and not self._body_open
            and not self.transport.is_closing()
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
        if self.transport.is_closing():
            # What was written and is not taken keeps a closed connection open.
            self._closing_since = self._closing_since or now
            if now - self._closing_since > GOODBYE:
                self.transport.abort()
        elif self._stuck_since is not None:
            if now - self._stuck_since > PATIENCE:
                self.transport.abort()
        elif self._refused:
            if now - self._since > GOODBYE:
                self.transport.close()
        elif not self._answering:
            self._look_at_client(now - self._since)

    def _look_at_client(self, waited: float) -> None:
        patience = EXCESS_PATIENCE if self.excess else PATIENCE
        if self._in_head:
            if waited > patience:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        elif self._latest is None or self._body_open:
            # Not one byte of a first request, or the rest of one that is answered.
            if waited > patience:
                self.transport.close()
        elif (self.excess and waited > GOODBYE) or waited > KEEP_ALIVE:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - as the library calls it
        """The parser can't read it."""
        self._refuse(HTTPStatus.BAD_REQUEST)

    def _refuse(self, status: HTTPStatus) -> None:
        """Answers for a request that never reaches the application, and takes no more."""
        if self._refused:
            return
        self._refused = True
        self._since = self.loop.time()
        self.door.refused(status)
        if not self._answering:
            self.transport.write(ANSWERS[status])
        elif self._body_open:
            # Its handler waits for a rest that can't be read any more.
            self.transport.close()
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


ANSWERS: Final = {
    status: _answer(status, detail)
    for status, detail in {
        HTTPStatus.BAD_REQUEST: "This is not HTTP/1.1.",
        HTTPStatus.REQUEST_TIMEOUT: f"The request's head did not come within {PATIENCE:.0f} seconds.",
        HTTPStatus.TOO_MANY_REQUESTS: f"More than {PIPELINED} requests were sent before the first was answered.",
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"A request's head may hold at most {HEAD_BYTES} bytes.",
    }.items()
}
