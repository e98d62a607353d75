"""The HTTP application: its routes, error handlers and lifespan in one table."""

import asyncio
import importlib.resources
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException, InternalServerException, NotFoundException
from litestar.response import Redirect
from litestar.static_files import create_static_files_router

from comment_monitor.core import errors
from comment_monitor.core.config import Settings
from comment_monitor.observability import tracing
from comment_monitor.runtime import open_runtime
from comment_monitor.web import problems
from comment_monitor.web.lifecycle import Lifecycle
from comment_monitor.web.middleware import CloseOnDrain, EncodedSlash, Excess, Head, RequestId, Traced
from comment_monitor.web.openapi import openapi_config
from comment_monitor.web.routes import comments, health, posts, process

ASSET: Final = re.compile(r"/?(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}/){0,10}[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@get("/", include_in_schema=False)
async def home() -> Redirect:
    """Redirects a browser to the documentation."""
    return Redirect("/docs")


@get("/openapi.json", include_in_schema=False, media_type="application/json")
async def openapi_json(request: Request[Any, Any, State]) -> Response[bytes]:
    """Returns the OpenAPI document, which is made once: making it takes as long as a hundred other requests."""
    state = request.app.state
    if "openapi" not in state:
        state.openapi = msgspec.json.encode(request.app.openapi_schema.to_schema())
    return Response(state.openapi)


async def _only_plain_names(request: Request[Any, Any, State]) -> None:
    """Answers 404 to all but plain names of files: the operating system rejects some other names."""
    if not ASSET.fullmatch(request.scope["path"]):
        raise NotFoundException


def _no_such_file(request: Request[Any, Any, State], _: Exception) -> Response[dict[str, object]]:
    return problems.render_http(request, NotFoundException())


def provide_lifecycle(state: State) -> Lifecycle:
    """Returns the HTTP side of this process."""
    lifecycle: Lifecycle = state.lifecycle
    return lifecycle


@asynccontextmanager
async def _lifespan(app: Litestar) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    async with open_runtime(settings, application="comment-monitor orchestrator") as runtime:
        lifecycle = app.state.lifecycle = Lifecycle(runtime)
        watching = [asyncio.create_task(watcher) for watcher in (lifecycle.bodies.watch(), health.watch(runtime))]
        try:
            yield
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)


def create_app(settings: Settings) -> Litestar:
    """Returns the application for these settings; its lifespan opens and closes everything it needs."""
    assets = Path(str(importlib.resources.files("litestar_offline_docs"))) / "static"
    return Litestar(
        route_handlers=[
            process.process_comments,
            comments.list_comments,
            comments.get_comment,
            posts.list_posts,
            posts.post_summary,
            posts.find_post_summary,
            health.health,
            health.started,
            home,
            openapi_json,
            create_static_files_router(
                "/docs/assets",
                directories=[assets],
                include_in_schema=False,
                before_request=_only_plain_names,
                # The framework raises this for errors of the file system, such as a path below a file.
                exception_handlers={InternalServerException: _no_such_file},
            ),
        ],
        dependencies={"lifecycle": Provide(provide_lifecycle, sync_to_thread=False)},
        lifespan=[_lifespan],
        state=State({"settings": settings}),
        exception_handlers={
            errors.Problem: problems.render,
            HTTPException: problems.render_http,
            Exception: problems.render_unexpected,
        },
        # The handler bounds the body itself: see `bodies`.
        request_max_body_size=None,
        openapi_config=openapi_config(),
        logging_config=None,
    )


def create_asgi(app: Litestar) -> RequestId:
    """Returns the application with the middleware that runs before routing: an unknown path has a request id too."""

    def is_leaving() -> bool:
        lifecycle: Lifecycle | None = app.state.get("lifecycle")
        return lifecycle is not None and lifecycle.not_ready

    within = Excess(CloseOnDrain(Head(EncodedSlash(app)), is_leaving))
    return RequestId(Traced(within) if tracing.on() else within)
