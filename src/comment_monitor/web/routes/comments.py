"""The endpoints that read comments."""

import re
from typing import Annotated, Any, Final

from litestar import Request, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from comment_monitor.analysis.findings.labels import RULES
from comment_monitor.core.errors import BadRequest
from comment_monitor.core.model import MAX_ID
from comment_monitor.reading import comments
from comment_monitor.web.lifecycle import Lifecycle
from comment_monitor.web.openapi import problems
from comment_monitor.web.reads import Kind
from comment_monitor.web.routes.parameters import (
    Cursor,
    Limit,
    Moment,
    Words,
    check_parameters,
    moment,
    plain,
    segment,
    turn,
)

LABELS: Final = tuple(rule.label for rule in RULES)
SENTIMENTS: Final = ("positive", "neutral", "negative")
# Filters with which PostgreSQL may have to scan every comment, or every comment of a post.
SEARCHED: Final = ("q", "author", "parent_id", "label", "language", "sentiment")
LANGUAGE: Final = re.compile("[a-z]{2}|und")


@get(
    "/comments",
    summary="List comments, newest first",
    description=(
        "A comment's time is when it was posted or, if that is unknown, when it was received. A comment must match all "
        "given filters. `next_cursor` of a page is the `cursor` of the next page."
    ),
    before_request=check_parameters,
    responses=problems(400, 429, 503),
    tags=["comments"],
)
async def list_comments(  # noqa: PLR0913, PLR0917 - the filters of the contract
    request: Request[Any, Any, State],
    lifecycle: NamedDependency[Lifecycle],
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
) -> comments.CommentPage:
    """Returns a page of the comments that match all given filters."""
    lifecycle.runtime.schema.require()
    if id is not None and source is None:
        raise BadRequest("`id` needs `source` beside it: the same id may exist on several platforms.")
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
    runtime = lifecycle.runtime
    before = runtime.schema.before_009
    kind = Kind.LOOKUP if id is not None else Kind.SEARCH if any(filters[name] for name in SEARCHED) else Kind.LIST
    async with turn(request, lifecycle, kind):
        return await comments.comments(runtime.reading, filters, limit=limit, cursor=cursor, before_009=before)


@get(
    "/comments/{source:str}/{comment_id:str}",
    summary="One comment",
    description=(
        "With its earlier texts. A slash in the id is written %2F; `GET /comments?source=&id=` finds the same comment "
        "if a proxy decodes the slash."
    ),
    before_request=check_parameters,
    responses=problems(400, 404, 429, 503),
    tags=["comments"],
)
async def get_comment(
    request: Request[Any, Any, State],
    lifecycle: NamedDependency[Lifecycle],
    source: FromPath[str],
    comment_id: FromPath[str],
) -> comments.CommentView:
    """Returns the comment with this source and id."""
    lifecycle.runtime.schema.require()
    source, comment_id = segment("source", source), segment("comment_id", comment_id)
    before = lifecycle.runtime.schema.before_009
    async with turn(request, lifecycle, Kind.LOOKUP):
        return await comments.comment(lifecycle.runtime.reading, source, comment_id, before_009=before)


def a_label(value: str | None) -> str | None:
    """Returns the label, if the analysis can give it."""
    if value is not None and value not in LABELS:
        raise BadRequest(f"`label` must be one of {', '.join(LABELS)}.")
    return value


def a_language(value: str | None) -> str | None:
    """Returns the language, if the analysis can give it."""
    if value is not None and not LANGUAGE.fullmatch(value):
        raise BadRequest("`language` must be ISO 639-1, such as en, or und (undetermined).")
    return value


def a_sentiment(value: str | None) -> str | None:
    """Returns the sentiment, if the analysis can give it."""
    if value is not None and value not in SENTIMENTS:
        raise BadRequest(f"`sentiment` must be one of {', '.join(SENTIMENTS)}.")
    return value
