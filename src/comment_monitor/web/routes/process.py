"""`POST /comments/process`: accepts comments."""

import asyncio
from typing import Any, Final

from litestar import Request, Response, post
from litestar.datastructures import State
from litestar.di import NamedDependency

from comment_monitor.core import errors
from comment_monitor.core.model import Parsed, Receipt  # check-words: kept
from comment_monitor.intake.rate_limit import Verdict
from comment_monitor.intake.request_parser import parse_at_once, parse_one_by_one
from comment_monitor.observability import metrics
from comment_monitor.web.bodies import Body
from comment_monitor.web.encodings import encoding_of
from comment_monitor.web.lifecycle import Lifecycle
from comment_monitor.web.openapi import ProcessOperation, problems

# Bytes of a body that is parsed within some milliseconds, whatever it holds.
LARGE: Final = 1_024


@post(
    "/comments/process",
    status_code=200,
    summary="Store comments and queue them for analysis",
    description=(
        "200 means committed: each stored comment and its place in the analysis queue. "
        "A bad comment is rejected by name and the rest is stored; a repeat of the request is always safe."
    ),
    operation_class=ProcessOperation,
    responses=problems(400, 408, 413, 415, 422, 429, 503),
    tags=["comments"],
)
async def process_comments(
    request: Request[Any, Any, State], lifecycle: NamedDependency[Lifecycle]
) -> Response[Receipt]:  # check-words: kept
    """Parses the body, stores its comments, and answers with their outcomes."""
    with lifecycle.bodies.hold() as body:
        try:
            lifecycle.require_work()
            verdict = await _count(request, lifecycle)
            received = await _read(request, lifecycle, body)
            parsed = await _parse(request, received, lifecycle)
        except errors.Incomplete:
            # The client gave up, which is not an error of this process.
            raise
        except errors.Problem as problem:
            metrics.count_error(problem.slug)
            raise
        result = await lifecycle.runtime.pipeline.process(parsed)
    if result.rejected and len(result.rejected) == result.received:
        metrics.count_error(errors.NothingAccepted.slug)
        raise errors.NothingAccepted(
            f"None of the {result.received} comments can be stored.", extra={"rejected": result.rejected}
        )
    return Response(result, headers=verdict.headers if verdict else None)


async def _read(request: Request[Any, Any, State], lifecycle: Lifecycle, body: Body) -> bytes:
    """Returns the decompressed body. The headers are checked first: no request waits for a body that is refused."""
    headers = request.scope["headers"]
    most = lifecycle.runtime.settings.max_request_bytes
    packing = encoding_of(headers)
    for name, value in headers:
        # The parser has checked that the value is a number.
        if name == b"content-length" and int(value) > most:
            raise errors.TooLarge(f"A request may hold at most {most} bytes.")
    received = await body.read(request.receive, most)
    return await lifecycle.unpacker.unpack(body, received, packing, most) if packing else received


async def _parse(request: Request[Any, Any, State], body: bytes, lifecycle: Lifecycle) -> Parsed:
    """Returns the comments. Larger bodies that need parsing one by one do so in a thread, so that no request waits."""
    most = lifecycle.runtime.settings.max_comments_per_request
    parsed = parse_at_once(body, max_comments=most)
    if parsed is None and len(body) > LARGE:
        async with lifecycle.careful(request):
            parsed = await asyncio.to_thread(parse_one_by_one, body, max_comments=most)
    return parsed or parse_one_by_one(body, max_comments=most)


async def _count(request: Request[Any, Any, State], lifecycle: Lifecycle) -> Verdict | None:
    verdict = await lifecycle.runtime.limit.hit(lifecycle.client_of(request))
    if verdict and not verdict.allowed:
        metrics.RATE_LIMITED.inc()
        raise errors.RateLimited(
            f"{verdict.limit} requests a minute are allowed.", retry_after=verdict.reset, headers=verdict.headers
        )
    return verdict
