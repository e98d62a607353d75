"""Shared by the reading endpoints: the checks of parameters, and the turns at the connections for reading."""

from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from litestar import Request
from litestar.datastructures import State
from litestar.params import QueryParameter

from comment_monitor.core.errors import BadRequest
from comment_monitor.core.model import MAX_NAME
from comment_monitor.intake.comment_decoder import BadCommentError, read_moment
from comment_monitor.web.lifecycle import Lifecycle
from comment_monitor.web.middleware import SLASH
from comment_monitor.web.reads import Kind

DAY: Final = "2026-01-31"

Words = Annotated[str | None, QueryParameter(max_length=200)]
Moment = Annotated[
    str | None,
    QueryParameter(
        max_length=40,
        description="As a comment's `timestamp`: RFC 3339, such as 2026-01-31T09:30:00Z; or a day, which begins at "
        "midnight UTC.",
    ),
]
Limit = Annotated[int, QueryParameter(ge=1, le=500)]
Cursor = Annotated[str | None, QueryParameter(max_length=1000, description="`next_cursor` of the page before.")]


def check_parameters(request: Request[Any, Any, State]) -> None:
    """Rejects unknown and repeated parameters, with which a request would silently return other data than wanted."""
    names = request.route_handler.parsed_fn_signature.parameters
    known = [name for name in names if name not in {"lifecycle", "request"} and name not in request.path_params]
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            raise BadRequest(f"`{name[:MAX_NAME]}` is not a parameter here; there are: {', '.join(known) or 'none'}.")
        if given.count(name) > 1:
            raise BadRequest(f"`{name}` is given more than once.")


def turn(request: Request[Any, Any, State], lifecycle: Lifecycle, kind: Kind) -> AbstractAsyncContextManager[None]:
    """Returns a block in which the request has a connection for reading."""
    return lifecycle.reads.turn(lifecycle.client_of(request), kind)


def plain(name: str, value: str | None) -> str | None:
    """Returns the text, if PostgreSQL can handle it."""
    if value is not None and "\0" in value:
        raise BadRequest(f"`{name}` holds a NUL character.")
    return value


def segment(name: str, value: str) -> str:
    """Returns a path segment with the slashes that EncodedSlash replaced."""
    value = value.replace(SLASH, "/")
    plain(name, value)
    return value


def moment(name: str, value: str | None) -> datetime | None:
    """Parses a query parameter that holds a day, or a moment in any form of a comment's `timestamp`.

    An unescaped `+` of an offset arrives as a space and is read as `+`; the space before the time stays a space.
    """
    text = value.strip() if value else ""
    if len(text) == len(DAY):
        text += "T00:00:00Z"
    try:
        found = read_moment(name, text[: len(DAY) + 1] + text[len(DAY) + 1 :].replace(" ", "+"))
        return found.astimezone(UTC) if found else None
    except BadCommentError as error:
        raise BadRequest(f"{error}, or a day.") from None
    except OverflowError:
        raise BadRequest(f"`{name}` lies at or beyond the ends of the years 1 to 9999 (in UTC).") from None
