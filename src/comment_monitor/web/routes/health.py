"""`GET /health`: both probes ask it, so no outage of a server behind this process may fail it."""

import asyncio
from typing import Final

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec

from comment_monitor.observability import logs, metrics
from comment_monitor.runtime import Runtime
from comment_monitor.web.lifecycle import Lifecycle

logger = logs.get(__name__)

# Seconds between two looks, and looks in a row that have to find the same before it is told.
LOOK_EVERY: Final = 2.0
LOOKS: Final = 2
OFF: Final = "off: CELERY_BROKER_URL names no broker, and what is stored is never analysed"


class Health(msgspec.Struct):
    """What this process says of itself.

    `status` is ok (all there), degraded (this process answers, something behind it is away), draining (it is on its
    way out) or refused (what it was given does not open the database).
    """

    status: str
    checks: dict[str, str]


def troubles(runtime: Runtime) -> dict[str, str]:
    """What is wrong, by the name of its check. Looks at nothing: it tells what is known."""
    schema = runtime.schema
    found: dict[str, str | None] = {
        "database": (schema.problem.detail if schema.problem else schema.stalled_for())
        or ("It takes no writes: it is read-only." if schema.read_only else None)
        or (f"The latest write failed: {runtime.pipeline.trouble}." if runtime.pipeline.trouble else None),
        "cache": "away" if runtime.cache.state == "away" else None,
        "broker": {"away": "away", "off": OFF}.get(runtime.publisher.state),
        "upkeep": runtime.scheduler.trouble,
    }
    return {name: words for name, words in found.items() if words}


def _answer(lifecycle: Lifecycle, why_not: str | None, *, retry_after: int) -> Response[Health]:
    """All that is known; 503 with this status where there is one."""
    runtime = lifecycle.runtime
    wrong = troubles(runtime)
    checks = {
        "database": "ok",
        "schema": runtime.schema.describe(),
        "cache": runtime.cache.state,
        "broker": "ok",
        "upkeep": "ok",
        "intake": "on" if runtime.settings.enabled else "off",
        "queue": str(len(runtime.pipeline.queue)),
        **wrong,
    }
    if why_not:
        return Response(Health(why_not, checks), status_code=503, headers={"Retry-After": str(retry_after)})
    return Response(Health("degraded" if wrong else "ok", checks))


@get(
    "/health",
    summary="Whether this process can answer",
    tags=["service"],
    responses={503: ResponseSpec(Health, description="On its way out", generate_examples=False)},
)
async def health(lifecycle: NamedDependency[Lifecycle]) -> Response[Health]:
    """200 from the first moment on, 503 from the start of the shutdown. Looks at nothing: it tells what is known."""
    return _answer(lifecycle, "draining" if lifecycle.not_ready else None, retry_after=1)


@get(
    "/health/started",
    summary="Whether this process can begin",
    tags=["service"],
    responses={503: ResponseSpec(Health, description="The database refuses it", generate_examples=False)},
)
async def started(lifecycle: NamedDependency[Lifecycle]) -> Response[Health]:
    """503 where the database refuses what this process was given (login, database, options, certificate, host's name).

    An outage is 200, and so is all that comes after the database has let this process in once: a rollout ends at pods
    that can never work, and nothing else is decided by it.
    """
    return _answer(lifecycle, "refused" if lifecycle.runtime.schema.is_closed_to_us else None, retry_after=2)


async def watch(runtime: Runtime) -> None:
    """Sets the gauges of the checks, and logs what changes, for ever; at the start what will not change by itself."""
    told: dict[str, str] = {}
    if runtime.publisher.state == "off":
        told["broker"] = OFF
        logger.warning("degraded", check="broker", detail=OFF)
    seen = 0
    before: dict[str, str] = dict(told)
    while True:
        wrong = troubles(runtime)
        for name in metrics.HEALTH_CHECKS:
            metrics.HEALTH.labels(check=name).set(name not in wrong)
        seen = seen + 1 if wrong.keys() == before.keys() else 1
        before = wrong
        if seen >= LOOKS and wrong.keys() != told.keys():
            for name in wrong.keys() - told.keys():
                logger.warning("degraded", check=name, detail=wrong[name])
            for name in told.keys() - wrong.keys():
                logger.info("well_again", check=name)
            told = wrong
        await asyncio.sleep(LOOK_EVERY)
