"""The endpoints that read posts."""

from typing import Annotated, Any

from litestar import Request, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from comment_monitor.reading import posts
from comment_monitor.web.lifecycle import Lifecycle
from comment_monitor.web.openapi import problems
from comment_monitor.web.reads import Kind
from comment_monitor.web.routes.parameters import Cursor, Limit, check_parameters, plain, segment, turn


@get(
    "/posts",
    summary="List posts, the one with the newest comment first",
    before_request=check_parameters,
    responses=problems(400, 429, 503),
    tags=["posts"],
)
async def list_posts(
    request: Request[Any, Any, State], lifecycle: NamedDependency[Lifecycle], limit: Limit = 50, cursor: Cursor = None
) -> posts.PostPage:
    """Returns a page of the posts that have comments."""
    lifecycle.runtime.schema.require()
    async with turn(request, lifecycle, Kind.SEARCH):
        return await posts.posts(lifecycle.runtime.reading, limit=limit, cursor=cursor)


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
    lifecycle: NamedDependency[Lifecycle],
    source: FromPath[str],
    post_id: FromPath[str],
) -> posts.PostSummary:
    """Returns counts by sentiment, language and label, and of authors, replies, edits and pending comments."""
    lifecycle.runtime.schema.require()
    source, post_id = segment("source", source), segment("post_id", post_id)
    async with turn(request, lifecycle, Kind.LIST):
        return await posts.post_summary(lifecycle.runtime.reading, source, post_id)


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
    lifecycle: NamedDependency[Lifecycle],
    source: Annotated[str, QueryParameter(max_length=200)],
    post_id: Annotated[str, QueryParameter(max_length=200)],
) -> posts.PostSummary:
    """Returns the same summary, with the post in query parameters."""
    lifecycle.runtime.schema.require()
    plain("source", source)
    plain("post_id", post_id)
    async with turn(request, lifecycle, Kind.LIST):
        return await posts.post_summary(lifecycle.runtime.reading, source, post_id)
