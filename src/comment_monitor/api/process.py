"""`POST /comments/process`: the way in."""

import asyncio
from typing import Any, Final

from litestar import Request, Response, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.exceptions import InternalServerException

from comment_monitor import errors, metrics
from comment_monitor.api.clients import client_of
from comment_monitor.api.openapi import ProcessOperation, problems
from comment_monitor.api.state import Service
from comment_monitor.config import networks
from comment_monitor.limits import Verdict
from comment_monitor.model import Parsed, Receipt
from comment_monitor.parse import parse_at_once, parse_one_by_one

# Bytes that are parsed within a millisecond or so, whatever they hold.
LARGE: Final = 65_536


@post(
    "/comments/process",
    status_code=200,
    summary="Store comments and queue them for analysis",
    description=(
        "200 means committed: each stored comment and its place in the analysis queue. "
        "A bad comment is rejected by name and the rest is stored; a repeat of the request is always safe."
    ),
    operation_class=ProcessOperation,
    responses=problems(400, 413, 422, 429, 503),
    tags=["comments"],
)
async def process_comments(request: Request[Any, Any, State], service: NamedDependency[Service]) -> Response[Receipt]:
    """Parses the body, stores its comments, answers with what became of them."""
    try:
        service.require_work()
        verdict = await _count(request, service)
        parsed = await _parse(await _read(request, service), service.runtime.settings.max_comments_per_request)
    except errors.Incomplete:
        # A client that changed its mind: nothing went wrong here.
        raise
    except errors.Problem as problem:
        metrics.count_error(problem.slug)
        raise
    receipt = await service.runtime.pipeline.process(parsed)
    if receipt.rejected and len(receipt.rejected) == receipt.received:
        metrics.count_error(errors.NothingAccepted.slug)
        raise errors.NothingAccepted(
            f"None of the {receipt.received} comments can be stored.", extra={"rejected": receipt.rejected}
        )
    return Response(receipt, headers=verdict.headers if verdict else None)


async def _read(request: Request[Any, Any, State], service: Service) -> bytes:
    """The body, as long as its sender is there, and this process."""
    try:
        async with service.reading():
            return await request.body()
    except TimeoutError:
        raise errors.Draining("This process shut down before the request was complete; repeat it.") from None
    except InternalServerException:
        # The framework's word for a connection that ended before the body did.
        raise errors.Incomplete("The connection ended before the request did.") from None


async def _parse(body: bytes, max_comments: int) -> Parsed:
    """The comments; a large body that needs the careful way is no reason for others to wait."""
    parsed = parse_at_once(body, max_comments=max_comments)
    if parsed is None and len(body) > LARGE:
        parsed = await asyncio.to_thread(parse_one_by_one, body, max_comments=max_comments)
    return parsed or parse_one_by_one(body, max_comments=max_comments)


async def _count(request: Request[Any, Any, State], service: Service) -> Verdict | None:
    peer = request.client.host if request.client else ""
    client = client_of(peer, request.scope["headers"], networks(service.runtime.settings.trusted_proxies))
    verdict = await service.runtime.limit.hit(client)
    if verdict and not verdict.allowed:
        metrics.RATE_LIMITED.inc()
        raise errors.RateLimited(
            f"{verdict.limit} requests a minute are allowed.", retry_after=verdict.reset, headers=verdict.headers
        )
    return verdict
