"""What the OpenAPI document says beyond the handlers' types; Swagger UI from files of our own."""

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
    415: "The body is packed in a way that is not taken; `Accept-Encoding` says what is",
    422: "The request has not the right shape, or every comment was rejected",
    429: "Too many requests; `Retry-After` says when to come back",
    503: "Not now; `Retry-After` says when to repeat, which is safe",
}


class ProblemDocument(msgspec.Struct, kw_only=True):
    """RFC 9457, with the id under which the logs know the request."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    # Of `all-rejected`: each comment, and why.
    rejected: list[Rejection] | msgspec.UnsetType = msgspec.UNSET


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The problem documents that an operation may answer."""
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
            description="Who wrote it; absent, null or blank: unknown, as where a platform withholds names.",
        ),
        "author_id": Schema(
            type=NULLABLE,
            max_length=MAX_AUTHOR,
            description="The author's identifier at the source. Where given, it decides instead of the name whether "
            "two authors are the same.",
        ),
        "edited_at": Schema(
            type=NULLABLE,
            description="When the text was edited last, RFC 3339 with an offset: the latest edit wins, in whichever "
            "order edits come.",
        ),
        "url": Schema(type=NULLABLE, max_length=MAX_URL, description="Where the comment stands; kept as it comes."),
        "likes": Schema(
            type=[OpenAPIType.INTEGER, OpenAPIType.NULL],
            description="As last sent.",
            minimum=-(2**63),
            maximum=2**63 - 1,
        ),
        "timestamp": Schema(type=NULLABLE, description="RFC 3339 with an offset; absent or blank: unknown."),
        "parent_id": Schema(type=NULLABLE, max_length=MAX_ID, description="The comment that this one answers."),
        "metadata": Schema(
            type=[OpenAPIType.OBJECT, OpenAPIType.NULL], description="Kept as it comes; at most 65,536 characters."
        ),
    },
)
REQUEST: Final = Schema(
    type=OpenAPIType.OBJECT,
    required=["post_id", "comments"],
    properties={
        "post_id": _text(1, MAX_NAME, "The post under which the comments stand."),
        "source": _text(1, MAX_NAME, "The platform, in lower case whichever way it is sent.", default="threads"),
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
    """`POST /comments/process` reads its body itself, comment by comment; here it says what it expects."""

    def __post_init__(self) -> None:
        self.request_body = RequestBody(
            required=True,
            content={
                "application/json": OpenAPIMediaType(
                    schema=REQUEST, examples={"two comments": Example(summary="Two comments", value=EXAMPLE)}
                )
            },
        )


def _only_what_is_there(request: Request[Any, Any, Any]) -> None:
    """The framework's own page for other paths below /docs is HTML; ours is a problem document like any other."""
    if request.path_params:
        raise NotFoundException("Not Found")


def openapi_config() -> OpenAPIConfig:
    """`/openapi.json` and `/docs`."""
    return OpenAPIConfig(
        title="Comment Monitoring Pipeline",
        version=__version__,
        description="Comments in, each once; stored, analysed, searchable. 200 means committed.",
        openapi_router=Router("/docs", route_handlers=[], include_in_schema=False, before_request=_only_what_is_there),
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
