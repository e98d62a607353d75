"""Renders every error as a problem document (RFC 9457)."""

import logging
from http import HTTPStatus
from typing import Any, Final

import asyncpg
from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException

from comment_monitor.core import errors
from comment_monitor.observability import logs, metrics
from comment_monitor.storage.postgres import SCHEMA_MISSING_ERRORS, UNAVAILABLE_ERRORS
from comment_monitor.web.refusals import Refusals

logger = logs.get(__name__)
refusals = Refusals()

# Statuses that come in floods: each kind of problem has at most one log line a second.
OFTEN: Final = frozenset((400, 404, 405, 408, 413, 415, 422, 429, 503))
MEDIA_TYPE: Final = "application/problem+json"
AnyRequest = Request[Any, Any, State]


def render(request: AnyRequest, problem: errors.Problem) -> Response[dict[str, object]]:
    """Returns the document of a problem."""
    return _document(
        request, problem.status, problem.slug, problem.title, problem.detail, problem.extra,
        {**problem.headers, **({"Retry-After": str(problem.retry_after)} if problem.retry_after else {})},
    )  # fmt: skip


def render_http(request: AnyRequest, error: HTTPException) -> Response[dict[str, object]]:
    """Returns the document of the framework's errors: an unknown path or method, a parameter out of bounds."""
    title = HTTPStatus(error.status_code).phrase
    slug = title.lower().replace(" ", "-")
    detail = _in_words(error.extra) if isinstance(error.extra, list) else error.detail
    return _document(request, error.status_code, slug, title, detail, {}, dict(error.headers or {}))


def _in_words(faults: list[dict[str, str]]) -> str:
    """Returns the framework's faults of the parameters as one line."""
    return "; ".join(f"`{fault.get('key', 'request')}`: {_in_short(fault.get('message', ''))}" for fault in faults)


def _in_short(message: str) -> str:
    """Returns the decoder's message without Python's names of types."""
    return message.replace("`int`", "a number").replace("`str`", "a text").replace(" | null", "").replace("`", "")


def render_unexpected(request: AnyRequest, error: Exception) -> Response[dict[str, object]]:
    """Returns the document of any other error: database errors by name, all others without internal details."""
    if isinstance(error, asyncpg.QueryCanceledError | TimeoutError):
        return render(request, errors.QueryTooSlow("Narrow it with `post_id`, `since` or `until`."))
    if isinstance(error, SCHEMA_MISSING_ERRORS):
        return render(request, errors.SchemaBehind("The database is not migrated: run `comment-monitor migrate`."))
    if isinstance(error, UNAVAILABLE_ERRORS):
        return render(request, errors.DatabaseUnavailable("The database does not answer."))
    if isinstance(error, asyncpg.DataError):
        return render(request, errors.BadRequest("A parameter holds a value that the database can't search for."))
    metrics.count_error(errors.Problem.slug)
    # The log line leaves out the exception's message, which may quote a user's text.
    logger.error("request_failed", error=type(error).__name__, at=logs.where(error.__traceback__))
    return render(request, errors.Problem("Server error. The request_id finds it in the logs."))


def _document(  # noqa: PLR0913, PLR0917 - the members of the document
    request: AnyRequest,
    status: int,
    slug: str,
    title: str,
    detail: str,
    extra: dict[str, object],
    headers: dict[str, str],
) -> Response[dict[str, object]]:
    refusals.note(
        slug,
        level=logging.WARNING if status >= HTTPStatus.INTERNAL_SERVER_ERROR else logging.INFO,
        often=status in OFTEN,
        status=status,
        method=request.method,
        # Not the path, which may hold a user's text.
        route=request.scope.get("path_template") or "unknown",
    )
    request_id = request.scope["state"].get("request_id")
    content = content_of(status, slug, title, detail) | {"request_id": request_id, **extra}
    return Response(content, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def content_of(status: int, slug: str, title: str, detail: str) -> dict[str, object]:
    """Returns the members that every problem document has."""
    return {"type": f"urn:comment-monitor:problem:{slug}", "title": title, "status": status, "detail": detail}
