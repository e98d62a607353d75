"""`GET /health`: the probes of liveness and readiness use it, so no outage of a server may fail it."""

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

# Seconds between two checks, and consecutive checks that have to agree before a change is logged.
CHECK_INTERVAL: Final = 2.0
AGREEING: Final = 2
OFF: Final = "off: CELERY_BROKER_URL names no broker, and stored comments are never analysed"


class Health(msgspec.Struct):
    """The state of this process.

    `status` is ok (every check passes), degraded (this process answers, but a check fails), draining (it is shutting
    down) or refused (the database rejects what this process was configured with).
    """

    status: str
    checks: dict[str, str]


def troubles(runtime: Runtime) -> dict[str, str]:
    """Returns the failing checks by name, with the reason. It asks no server: it returns the known state."""
    schema = runtime.schema
    found: dict[str, str | None] = {
        "database": (schema.problem.detail if schema.problem else schema.stalled_for())
        or ("The database takes no writes: it is read-only." if schema.read_only else None)
        or (f"The latest write failed: {runtime.pipeline.trouble}." if runtime.pipeline.trouble else None),
        "cache": "away" if runtime.cache.state == "away" else None,
        "broker": {"away": "away", "off": OFF}.get(runtime.publisher.state),
        "upkeep": runtime.scheduler.trouble,
    }
    return {name: words for name, words in found.items() if words}


def _answer(lifecycle: Lifecycle, why_not: str | None, *, retry_after: int) -> Response[Health]:
    """Returns all known state; with status code 503 if `why_not` is given, which is then the `status`."""
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
    responses={503: ResponseSpec(Health, description="Shutting down", generate_examples=False)},
)
async def health(lifecycle: NamedDependency[Lifecycle]) -> Response[Health]:
    """Answers 200 from the start, and 503 from the start of the shutdown. It asks no server."""
    return _answer(lifecycle, "draining" if lifecycle.not_ready else None, retry_after=1)


@get(
    "/health/started",
    summary="Whether this process can start",
    tags=["service"],
    responses={503: ResponseSpec(Health, description="The database refuses this process", generate_examples=False)},
)
async def started(lifecycle: NamedDependency[Lifecycle]) -> Response[Health]:
    """Answers 503 if the database rejects this process's configuration (login, database, options, certificate, host).

    An outage is 200, and so is every failure after the database has accepted this process once: this probe only ends
    a rollout at pods that can never work.
    """
    return _answer(lifecycle, "refused" if lifecycle.runtime.schema.is_closed_to_us else None, retry_after=2)


async def watch(runtime: Runtime) -> None:
    """Sets the gauges of the checks and logs changes, forever; logs a broker that is off once, at the start."""
    logged: dict[str, str] = {}
    if runtime.publisher.state == "off":
        logged["broker"] = OFF
        logger.warning("degraded", check="broker", detail=OFF)
    agreeing = 0
    before: dict[str, str] = dict(logged)
    while True:
        wrong = troubles(runtime)
        for name in metrics.HEALTH_CHECKS:
            metrics.HEALTH.labels(check=name).set(name not in wrong)
        agreeing = agreeing + 1 if wrong.keys() == before.keys() else 1
        before = wrong
        if agreeing >= AGREEING and wrong.keys() != logged.keys():
            for name in wrong.keys() - logged.keys():
                logger.warning("degraded", check=name, detail=wrong[name])
            for name in logged.keys() - wrong.keys():
                logger.info("well_again", check=name)
            logged = wrong
        await asyncio.sleep(CHECK_INTERVAL)
