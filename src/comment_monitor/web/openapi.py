"""The OpenAPI document beyond the handlers' types, and Swagger UI from installed files."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar import Request, Router
from litestar.exceptions import NotFoundException
from litestar.openapi import ResponseSpec
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.openapi.spec import Example, OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema

from comment_monitor import __version__
from comment_monitor.core.model import MAX_AUTHOR, MAX_ID, MAX_NAME, MAX_TEXT, MAX_URL, Rejection

PHRASES: Final = {
    400: "The body is not JSON, or a parameter is not valid",
    404: "Not found",
    408: "The body came too slowly; a repeat is safe",
    413: "The request is too large",
    415: "The body's compression is not supported; `Accept-Encoding` names the supported ones",
    422: "The request has the wrong structure, or every comment was rejected",
    429: "Too many requests; `Retry-After` says when to repeat",
    503: "Not available at the moment; `Retry-After` says when to repeat, which is safe",
}


class ProblemDocument(msgspec.Struct, kw_only=True):
    """A problem document (RFC 9457) with the request's id, which its log lines hold too."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    # Only of `all-rejected`: each comment, and the reason.
    rejected: list[Rejection] | msgspec.UnsetType = msgspec.UNSET


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """Returns the problem documents that an operation may answer."""
    return {
        status: ResponseSpec(
            ProblemDocument,
            description=PHRASES[status],
            media_type="application/problem+json",
            generate_examples=False,
        )
        for status in statuses
    }


def _text(low: int, high: int, description: str, **more: Any) -> Schema:
    return Schema(type=OpenAPIType.STRING, min_length=low, max_length=high, description=description, **more)


NULLABLE: Final = [OpenAPIType.STRING, OpenAPIType.NULL]
COMMENT: Final = Schema(
    type=OpenAPIType.OBJECT,
    required=["id", "text"],
    properties={
        "id": _text(1, MAX_ID, "Identity within the source."),
        "text": _text(1, MAX_TEXT, "Stored character for character. Not blank; no NUL, no lone surrogate."),
        "author": Schema(
            type=NULLABLE,
            max_length=MAX_AUTHOR,
            description="The author's name; absent, null or blank: unknown, such as when a platform withholds names.",
        ),
        "author_id": Schema(
            type=NULLABLE,
            max_length=MAX_AUTHOR,
            description="The author's identifier at the source. If given, it decides instead of the name whether "
            "two authors are the same.",
        ),
        "edited_at": Schema(
            type=NULLABLE,
            description="When the text was edited last, RFC 3339 with an offset: the latest edit wins, in whichever "
            "order edits arrive.",
        ),
        "url": Schema(type=NULLABLE, max_length=MAX_URL, description="The comment's address; stored unchanged."),
        "likes": Schema(
            type=[OpenAPIType.INTEGER, OpenAPIType.NULL],
            description="As last sent.",
            minimum=-(2**63),
            maximum=2**63 - 1,
        ),
        "timestamp": Schema(type=NULLABLE, description="RFC 3339 with an offset; absent or blank: unknown."),
        "parent_id": Schema(
            type=NULLABLE, max_length=MAX_ID, description="The id of the comment that this one replies to."
        ),
        "metadata": Schema(
            type=[OpenAPIType.OBJECT, OpenAPIType.NULL], description="Stored unchanged; at most 65,536 characters."
        ),
    },
)
REQUEST: Final = Schema(
    type=OpenAPIType.OBJECT,
    required=["post_id", "comments"],
    properties={
        "post_id": _text(1, MAX_NAME, "The post of the comments."),
        "source": _text(1, MAX_NAME, "The platform; stored in lower case.", default="threads"),
        "comments": Schema(type=OpenAPIType.ARRAY, items=COMMENT, description="At most 10,000."),
    },
)
EXAMPLE: Final = {
    "post_id": "18050206876707110",
    "comments": [
        {"id": "1", "text": "Where can I buy this?", "author": "ana", "timestamp": "2026-01-31T09:30:00Z"},
        {"id": "2", "text": "Same question", "author": "ben", "parent_id": "1", "metadata": {"likes": 3}},
    ],
}


@dataclass
class ProcessOperation(Operation):
    """Declares the body of `POST /comments/process`, which its handler reads itself, comment by comment."""

    def __post_init__(self) -> None:
        self.request_body = RequestBody(
            required=True,
            content={
                "application/json": OpenAPIMediaType(
                    schema=REQUEST, examples={"two comments": Example(summary="Two comments", value=EXAMPLE)}
                )
            },
        )


def _no_other_pages(request: Request[Any, Any, Any]) -> None:
    """Answers other paths below /docs with a problem document; the framework's own answer is an HTML page."""
    if request.path_params:
        raise NotFoundException("Not Found")


def openapi_config() -> OpenAPIConfig:
    """Returns the configuration of `/openapi.json` and `/docs`."""
    return OpenAPIConfig(
        title="Comment Monitoring Pipeline",
        version=__version__,
        description="Stores each comment once, analyses it and makes it searchable. 200 means committed.",
        openapi_router=Router("/docs", route_handlers=[], include_in_schema=False, before_request=_no_other_pages),
        render_plugins=[
            SwaggerRenderPlugin(
                path="/",
                js_url="/docs/assets/swagger-ui-bundle.js",
                css_url="/docs/assets/swagger-ui.css",
                standalone_preset_js_url="/docs/assets/swagger-ui-standalone-preset.js",
                favicon='<link rel="icon" href="data:,">',
            ),
            JsonRenderPlugin(path="/openapi.json"),
        ],
    )
