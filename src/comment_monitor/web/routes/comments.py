"""The reading endpoints."""

import re
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from litestar import Request, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from comment_monitor.analysis.findings.labels import RULES
from comment_monitor.core.errors import BadRequest
from comment_monitor.core.model import MAX_ID, MAX_NAME
from comment_monitor.intake.comment_decoder import BadCommentError, read_moment
from comment_monitor.reading import views
from comment_monitor.web.lifecycle import Service
from comment_monitor.web.middleware import SLASH
from comment_monitor.web.openapi import problems
from comment_monitor.web.reads import Kind

DAY: Final = "2026-01-31"
LABELS: Final = tuple(rule.label for rule in RULES)
SENTIMENTS: Final = ("positive", "neutral", "negative")
# Filters by which PostgreSQL may have to look at every comment, or at all of a post.
SEARCHED: Final = ("q", "author", "parent_id", "label", "language", "sentiment")
LANGUAGE: Final = re.compile("[a-z]{2}|und")

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
    """A parameter that is mistyped or given twice would silently find something else than was asked for."""
    names = request.route_handler.parsed_fn_signature.parameters
    known = [name for name in names if name not in {"service", "request"} and name not in request.path_params]
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            raise BadRequest(f"`{name[:MAX_NAME]}` is no parameter here; there are: {', '.join(known) or 'none'}.")
        if given.count(name) > 1:
            raise BadRequest(f"`{name}` is given more than once.")


@get(
    "/comments",
    summary="List comments, newest first",
    description=(
        "Time is when a comment was posted, or, where that is unknown, when it came. All given filters must hold. "
        "`next_cursor` of a page asks for the next one."
    ),
    before_request=check_parameters,
    responses=problems(400, 429, 503),
    tags=["comments"],
)
async def list_comments(  # noqa: PLR0913, PLR0917 - the filters of the contract
    request: Request[Any, Any, State],
    service: NamedDependency[Service],
    post_id: Words = None,
    author: Words = None,
    source: Words = None,
    parent_id: Words = None,
    since: Moment = None,
    until: Moment = None,
    q: Annotated[str | None, QueryParameter(max_length=200, description="Characters in the text, in any case.")] = None,
    label: Annotated[str | None, QueryParameter(schema_extra={"enum": [*LABELS]})] = None,
    language: Annotated[
        str | None, QueryParameter(description="ISO 639-1, or `und`.", schema_extra={"maxLength": 3})
    ] = None,
    sentiment: Annotated[str | None, QueryParameter(schema_extra={"enum": [*SENTIMENTS]})] = None,
    id: Annotated[  # noqa: A002 - the parameter's name
        str | None,
        QueryParameter(
            max_length=MAX_ID,
            description="With `source`: one comment, with its earlier texts; for ids with a slash, which a proxy may "
            "decode in a path.",
        ),
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> views.CommentPage:
    """Comments that meet all given filters."""
    service.runtime.schema.require()
    if id is not None and source is None:
        raise BadRequest("`id` needs `source` beside it: the same id may stand on several platforms.")
    filters: dict[str, Any] = {
        "post_id": plain("post_id", post_id),
        "author": plain("author", author),
        "source": plain("source", source),
        "id": plain("id", id),
        "parent_id": plain("parent_id", parent_id),
        "since": moment("since", since),
        "until": moment("until", until),
        "q": plain("q", q),
        "label": a_label(label),
        "language": a_language(language),
        "sentiment": a_sentiment(sentiment),
    }
    runtime = service.runtime
    before = runtime.schema.before_009
    kind = Kind.LOOKUP if id is not None else Kind.SEARCH if any(filters[name] for name in SEARCHED) else Kind.LIST
    async with turn(request, service, kind):
        return await views.comments(runtime.reading, filters, limit=limit, cursor=cursor, before_009=before)


@get(
    "/comments/{source:str}/{comment_id:str}",
    summary="One comment",
    description=(
        "With its earlier texts. A slash in the id is written %2F; `GET /comments?source=&id=` finds the same where a "
        "proxy decodes that."
    ),
    before_request=check_parameters,
    responses=problems(400, 404, 429, 503),
    tags=["comments"],
)
async def get_comment(
    request: Request[Any, Any, State],
    service: NamedDependency[Service],
    source: FromPath[str],
    comment_id: FromPath[str],
) -> views.CommentView:
    """The comment of this identity."""
    service.runtime.schema.require()
    source, comment_id = segment("source", source), segment("comment_id", comment_id)
    before = service.runtime.schema.before_009
    async with turn(request, service, Kind.LOOKUP):
        return await views.comment(service.runtime.reading, source, comment_id, before_009=before)


@get(
    "/posts",
    summary="List posts, the one with the newest comment first",
    before_request=check_parameters,
    responses=problems(400, 429, 503),
    tags=["posts"],
)
async def list_posts(
    request: Request[Any, Any, State], service: NamedDependency[Service], limit: Limit = 50, cursor: Cursor = None
) -> views.PostPage:
    """Posts that have comments."""
    service.runtime.schema.require()
    async with turn(request, service, Kind.SEARCH):
        return await views.posts(service.runtime.reading, limit=limit, cursor=cursor)


@get(
    "/posts/{source:str}/{post_id:str}/summary",
    summary="A post's comments in numbers",
    description="A slash in the id is written %2F.",
    before_request=check_parameters,
    responses=problems(400, 404, 429, 503),
    tags=["posts"],
)
async def post_summary(
    request: Request[Any, Any, State],
    service: NamedDependency[Service],
    source: FromPath[str],
    post_id: FromPath[str],
) -> views.PostSummary:
    """Counts by sentiment, language and label, authors, replies, edits and what is pending."""
    service.runtime.schema.require()
    source, post_id = segment("source", source), segment("post_id", post_id)
    async with turn(request, service, Kind.LIST):
        return await views.post_summary(service.runtime.reading, source, post_id)


@get(
    "/posts/summary",
    summary="A post's comments in numbers, by parameters",
    description="For post ids with a slash, which a proxy may decode in a path.",
    before_request=check_parameters,
    responses=problems(400, 404, 429, 503),
    tags=["posts"],
)
async def find_post_summary(
    request: Request[Any, Any, State],
    service: NamedDependency[Service],
    source: Annotated[str, QueryParameter(max_length=200)],
    post_id: Annotated[str, QueryParameter(max_length=200)],
) -> views.PostSummary:
    """The same as by the path."""
    service.runtime.schema.require()
    plain("source", source)
    plain("post_id", post_id)
    async with turn(request, service, Kind.LIST):
        return await views.post_summary(service.runtime.reading, source, post_id)


def turn(request: Request[Any, Any, State], service: Service, kind: Kind) -> AbstractAsyncContextManager[None]:
    """The request's turn at the connections for reading."""
    return service.reads.turn(service.client_of(request), kind)


def plain(name: str, value: str | None) -> str | None:
    """A text that PostgreSQL can take."""
    if value is not None and "\0" in value:
        raise BadRequest(f"`{name}` holds a NUL character.")
    return value


def a_label(value: str | None) -> str | None:
    """A label that the analysis may give."""
    if value is not None and value not in LABELS:
        raise BadRequest(f"`label` must be one of {', '.join(LABELS)}.")
    return value


def a_language(value: str | None) -> str | None:
    """A language as the analysis names it."""
    if value is not None and not LANGUAGE.fullmatch(value):
        raise BadRequest("`language` must be ISO 639-1, such as en, or und (can't be told).")
    return value


def a_sentiment(value: str | None) -> str | None:
    """A sentiment as the analysis names it."""
    if value is not None and value not in SENTIMENTS:
        raise BadRequest(f"`sentiment` must be one of {', '.join(SENTIMENTS)}.")
    return value


def segment(name: str, value: str) -> str:
    """A path segment, in which EncodedSlash has hidden slashes."""
    value = value.replace(SLASH, "/")
    plain(name, value)
    return value


def moment(name: str, value: str | None) -> datetime | None:
    """A moment from a query parameter, in each form that a comment's `timestamp` may have; or a day.

    An unescaped `+` of an offset arrives as a space, and means itself; the space before the time may stay one.
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
