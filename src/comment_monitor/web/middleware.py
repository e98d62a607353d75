"""Middleware for every request.

It sets the request id, opens the span, answers HEAD, keeps encoded slashes, refuses requests on excess connections, and
closes connections at shutdown.
"""

import re
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import unquote

import msgspec
import structlog
from litestar.enums import ScopeType

from comment_monitor.core import errors
from comment_monitor.observability import metrics, tracing
from comment_monitor.web.problems import MEDIA_TYPE, content_of, refusals

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
# Paths of the health probes, which are sent at all times and under any load.
PROBES: Final = frozenset(("/health", "/health/started"))
METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"))
# Replaces a slash that is part of an id until the router has split the path. No id contains a lone surrogate, and
# decoding a path never yields one.
SLASH: Final = "\ud82f"
ENCODED_SLASH: Final = re.compile("%2f", re.IGNORECASE)


class RequestId:
    """Adds a request's id to its log lines and to its response. A well-formed id that the caller sent is used."""

    def __init__(self, app: "ASGIApp"):
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Passes the request on with its id."""
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode() if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        header = (b"x-request-id", request_id.encode())

        async def send_with_id(message: "Message") -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], header]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self.app(scope, receive, send_with_id)


class Traced:
    """Opens a server span for each request except health probes, in the caller's trace if there is one."""

    def __init__(self, app: "ASGIApp"):
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Passes the request on. The span gets the route's name: a path may contain ids, which no trace may contain."""
        if scope["type"] != ScopeType.HTTP or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
        if not TRACEPARENT.fullmatch(given):
            given = b""
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        with tracing.span(method, "SERVER", parent=given.decode("latin-1"), http__request__method=method) as span:

            async def send_and_note(message: "Message") -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
                        tracing.failed(span, str(message["status"]))
                await send(message)

            span.set_attribute("request.id", scope.get("state", {}).get("request_id", ""))
            try:
                with structlog.contextvars.bound_contextvars(trace_id=tracing.trace_id(span)):
                    await self.app(scope, receive, send_and_note)
            finally:
                if route := scope.get("path_template"):
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)


class CloseOnDrain:
    """Once this process is shutting down, closes each connection after its next answer.

    Otherwise a client would continue to use the connection, and might send a request just when it is closed.
    """

    def __init__(self, app: "ASGIApp", is_leaving: Callable[[], bool]):
        self.app = app
        self.is_leaving = is_leaving

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Passes the request on; when the response begins, decides whether to close the connection after it."""

        async def send_and_close(message: "Message") -> None:
            if message["type"] == "http.response.start" and self.is_leaving():
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self.app(scope, receive, send_and_close)


class Excess:
    """Answers 503 on a connection above the limit, except to health probes.

    A 503 there would make Kubernetes restart the process, which does not help against too many connections.
    """

    def __init__(self, app: "ASGIApp"):
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Passes the request on if its connection is within the limit, or if it is a probe."""
        state = scope.get("state") or {}
        if not state.get("excess") or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        problem = errors.Overloaded("This process has reached its connection limit; repeat the request.")
        metrics.count_error(problem.slug)
        refusals.note("too-many-connections", status=problem.status)
        content = content_of(problem.status, problem.slug, problem.title, problem.detail)
        body = msgspec.json.encode(content | {"request_id": state.get("request_id")})
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"retry-after", str(problem.retry_after).encode()),
        ]
        await send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class Head:
    """Answers HEAD wherever GET is answered, with the same status and headers and without the body."""

    def __init__(self, app: "ASGIApp"):
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Passes the request on, a HEAD request as GET; adds HEAD to an `Allow` header that lists GET."""
        if scope["type"] == ScopeType.HTTP and scope["method"] == "HEAD":
            await self._as_get(scope, receive, send)
            return

        async def send_allowed(message: "Message") -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, _with_head(value) if name == b"allow" else value) for name, value in message["headers"]
                ]
            await send(message)

        await self.app(scope, receive, send_allowed)

    async def _as_get(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        async def send_head(message: "Message") -> None:
            if message["type"] == "http.response.body":
                # If the body comes in several messages, only the last one is sent, with an empty body, because it ends
                # the response.
                message = {**message, "body": b""}
                if message.get("more_body"):
                    return
            await send(message)

        # Changes a copy: the server must still see HEAD in its own scope, so that it expects no body.
        inner = cast("Scope", {**scope, "method": "GET"})
        try:
            await self.app(inner, receive, send_head)
        finally:
            # `Traced` reads the route from the original scope.
            if route := inner.get("path_template"):
                scope["path_template"] = route


def _with_head(allowed: bytes) -> bytes:
    methods = {method.strip() for method in allowed.split(b",")}
    return b", ".join(sorted(methods | {b"HEAD"} if b"GET" in methods else methods))


class EncodedSlash:
    """Keeps an encoded slash inside its path segment, because ids such as Bluesky's `at://...` contain slashes."""

    def __init__(self, app: "ASGIApp"):
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Passes the request on; decodes its path, but replaces each encoded slash by SLASH."""
        raw: bytes | None = scope.get("raw_path") if scope["type"] == ScopeType.HTTP else None
        if raw and b"%2f" in raw.lower():
            text = raw.split(b"?", 1)[0].decode("latin-1")
            scope["path"] = SLASH.join(unquote(part) for part in ENCODED_SLASH.split(text))
        await self.app(scope, receive, send)
