"""`GET /health`: both probes ask it, so no outage of a server behind this process may fail it."""

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec

from comment_monitor.api.state import Service


class Health(msgspec.Struct):
    """ok: all there; degraded: this process answers, something behind it is away; draining: it is on its way out."""

    status: str
    checks: dict[str, str]


@get(
    "/health",
    summary="Whether this process can answer",
    tags=["service"],
    responses={503: ResponseSpec(Health, description="On its way out", generate_examples=False)},
)
async def health(service: NamedDependency[Service]) -> Response[Health]:
    """200 from the first moment on, 503 from the start of the shutdown. Looks at nothing: it tells what is known."""
    runtime = service.runtime
    problem = runtime.schema.problem.detail if runtime.schema.problem else runtime.schema.silence()
    checks = {
        "database": problem or "ok",
        "schema": runtime.schema.in_words(),
        "cache": runtime.cache.state,
        "broker": runtime.publisher.state,
        "intake": "on" if runtime.settings.enabled else "off",
        "queue": str(len(runtime.pipeline.queue)),
    }
    if service.leaving:
        return Response(Health("draining", checks), status_code=503, headers={"Retry-After": "1"})
    degraded = problem or checks["cache"] == "away" or checks["broker"] == "away"
    return Response(Health("degraded" if degraded else "ok", checks))
