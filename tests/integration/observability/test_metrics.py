"""Each request changes only the expected metrics, and every declared error reason can occur."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import httpx
import kombu
import msgspec
import pytest
from prometheus_client import REGISTRY
from tests.conftest import MakeSettings, execute, metric, open_client, until
from tests.support.database import analyse_all
from tests.support.intake import PATH, in_turn, lifecycle, outcome_counts, process, queued, refused, several
from tests.support.locks import locked
from tests.support.requests import body, comment
from tests.support.triggers import DATA_EXCEPTION, SERIALIZATION_FAILURE, refuse

from comment_monitor.analysis.findings import repetition
from comment_monitor.messaging import consumer
from comment_monitor.observability import metrics
from comment_monitor.storage import invariants
from comment_monitor.storage.invariants import INVARIANTS
from comment_monitor.web import door

QUEUE_LENGTH: Final = "comment_processing_queue_length"
DURATION: Final = "comment_processing_duration_seconds"
QUERIES: Final = "comment_db_query_duration_seconds"


# Queries of periodic jobs. The last ones check the invariants: once an hour, and at any time for the first run.
PERIODIC: Final = {
    (query,)
    for query in (
        *("schema_revision", "cache_state", "sweep_outbox", "analysis_backlog", "recent_indexes"),
        *("check_last_comment", "check_next_slice", "check_identity_index", "last_checks", "add_checks", "save_checks"),
        *(invariants.LOCK_CHECK.name, *(invariant.query.name for invariant in INVARIANTS)),
    )
}
GAUGES_OF_ALL: Final = {
    "comment_body_bytes_in_flight",
    "comment_analysis_backlog",
    "comment_analysis_oldest_seconds",
    "comment_recent_index_age_seconds",
    "comment_schema_usable",
    "comment_schema_at_head",
    "comment_invariant_check_timestamp_seconds",
    "comment_invariant_check_interval_seconds",
}


def values() -> dict[tuple[str, ...], float]:
    """Returns every sample of this project, without the buckets."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in REGISTRY.collect()
        if family.name.startswith("comment_")
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def changes(before: dict[tuple[str, ...], float]) -> dict[str, float]:
    """Returns what has changed since, except durations and the metrics of periodic jobs."""
    return {
        " ".join(name): value - before.get(name, 0)
        for name, value in values().items()
        if value != before.get(name, 0)
        and not name[0].endswith("_sum")
        and name[1:] not in PERIODIC
        and name[0] not in GAUGES_OF_ALL
    }


async def test_known_traffic_changes_only_the_expected_metrics(client: httpx.AsyncClient) -> None:
    await process(client, *several(10))
    before = values()
    mixed = [*several(12), comment("c0", "edited"), *several(3, "new"), *several(2, "new"), comment(""), comment(9, "")]
    assert outcome_counts(await process(client, *mixed)) == (5, 1, 12, 2)
    await process(client, *several(25, "more"))
    assert changes(before) == {
        "comment_processing_attempts_total": 2 + 3,
        "comment_processing_success_total": 2 + 3,
        f"{DURATION}_count": 2 + 3,
        "comment_processing_errors_total invalid-comment": 2,
        "comment_duplicates_detected_total cache": 10,
        "comment_duplicates_detected_total request": 2,
        "comment_dedup_cache_hits_total": 10,
        "comment_dedup_cache_misses_total": 2 + 1 + 5 + 25,
        "comment_stored_total new": 5 + 25,
        "comment_stored_total edited": 1,
        # The first write has new comments and an edit, which takes a separate statement.
        f"{QUERIES}_count write_comments": 2 + 1,
        f"{QUERIES}_count cache_namespaces": 1,
    }


async def test_the_duration_of_a_batch_lasts_from_arrival_to_commit(client: httpx.AsyncClient, dsn: str) -> None:
    before = {name: metric(name) for name in (f"{DURATION}_sum", f"{DURATION}_count")}
    loop = asyncio.get_running_loop()
    with locked(dsn):
        (sending,) = in_turn(client, several(1))
        await queued(client, 1)
        locked_from = loop.time()
        await until(lambda: loop.time() > locked_from + 0.3)
        locked_for = loop.time() - locked_from
    await sending
    assert metric(f"{DURATION}_count") - before[f"{DURATION}_count"] == 1
    assert metric(f"{DURATION}_sum") - before[f"{DURATION}_sum"] >= locked_for


async def test_the_queue_length_counts_accepted_and_uncommitted_comments(client: httpx.AsyncClient, dsn: str) -> None:
    idle = metric(QUEUE_LENGTH)
    with locked(dsn):
        requests = in_turn(client, several(7, "a"))
        await queued(client, 7)
        assert metric(QUEUE_LENGTH) - idle == 7
        requests += in_turn(client, several(30, "b"), several(25, "c"))
        await queued(client, 62)
        assert metric(QUEUE_LENGTH) - idle == 62
        assert (await client.get("/health")).json()["checks"]["queue"] == "62"
    await asyncio.gather(*requests)
    assert metric(QUEUE_LENGTH) == idle


async def test_the_queue_length_drops_after_failures(client: httpx.AsyncClient, dsn: str) -> None:
    idle = metric(QUEUE_LENGTH)
    await refuse(dsn, "INSERT", "comments")
    refused(await client.post(PATH, json=body(*several(25))), 503, "database-unavailable")
    assert metric(QUEUE_LENGTH) == idle


async def test_the_queue_length_drops_when_clients_disconnect(client: httpx.AsyncClient, dsn: str) -> None:
    idle = metric(QUEUE_LENGTH)
    with locked(dsn):
        requests = in_turn(client, *(several(60, name) for name in "abcd"))
        await queued(client, 240)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        assert metric(QUEUE_LENGTH) == idle
    # A write that had begun does not release the comments again.
    await process(client, *several(25, "after"))
    assert metric(QUEUE_LENGTH) == idle


@pytest.mark.parametrize("patient", [True, False])
async def test_the_queue_length_drops_when_the_process_drains(
    make_settings: MakeSettings, dsn: str, patient: bool
) -> None:
    idle = metric(QUEUE_LENGTH)
    async with open_client(make_settings()) as client:
        with locked(dsn):
            requests = in_turn(client, *(several(60, name) for name in "abcd"))
            await queued(client, 240)
            lifecycle(client).drain()
            refused(await client.post(PATH, content=SENT), 503, "draining")
            if not patient:
                for request in requests[1:]:
                    request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
    assert metric(QUEUE_LENGTH) == idle


async def test_the_backlog_counts_comments_without_analysis(
    client: httpx.AsyncClient, make_settings: MakeSettings
) -> None:
    scheduler = lifecycle(client).runtime.scheduler
    await process(client, *several(12))
    await scheduler.measure_backlog()
    assert metric("comment_analysis_backlog") == 12
    before = values()
    await analyse_all(make_settings())
    await scheduler.measure_backlog()
    assert metric("comment_analysis_backlog") == 0
    changed = changes(before)
    assert changed["comment_analysis_total done"] == 12
    assert changed["comment_analysis_duration_seconds_count"] == 2
    assert changed[f"{QUERIES}_count save_results"] == 2


async def test_no_metric_contains_data_of_a_comment(client: httpx.AsyncClient) -> None:
    await process(client, comment("an-id-of-ours", "words of ours", author="name of ours"), post_id="post-of-ours")
    assert "of-ours" not in str(values())
    assert "of ours" not in str(values())


class Stage:
    """The settings and databases with which a scenario causes an error."""

    def __init__(self, make: MakeSettings, dsn: str, empty_dsn: str, monkeypatch: pytest.MonkeyPatch):
        self.make = make
        self.dsn = dsn
        self.empty_dsn = empty_dsn
        self.monkeypatch = monkeypatch

    async def send(
        self,
        status: int,
        *,
        content: bytes | None = None,
        times: int = 1,
        headers: dict[str, str] | None = None,
        **changes: Any,
    ) -> None:
        """Sends the same request `times` times; the last response must have this status."""
        async with open_client(self.make(**changes)) as client:
            for _ in range(times):
                response = await client.post(PATH, content=content or SENT, headers=headers)
            assert response.status_code == status


SENT: Final = msgspec.json.encode(body(comment(1)))
NOWHERE: Final = "unix:///nowhere/redis.sock"


async def draining(stage: Stage) -> None:
    async with open_client(stage.make()) as client:
        lifecycle(client).draining = True
        refused(await client.post(PATH, content=SENT), 503, "draining")


async def queue_full(stage: Stage) -> None:
    async with open_client(stage.make(COMMENT_QUEUE_CAPACITY=25)) as client:
        with locked(stage.dsn):
            (first,) = in_turn(client, several(25))
            await queued(client, 25)
            refused(await client.post(PATH, content=SENT), 503, "queue-full")
        await first


async def timeout(stage: Stage) -> None:
    # Below the setting's minimum, with which the test would take fifteen seconds.
    # It limits each statement and connection attempt too, which must not end first on a busy machine.
    async with open_client(msgspec.structs.replace(stage.make(), processing_timeout=4)) as client:
        # Without a connection there is no statement that could run into its own limit first.
        pool = lifecycle(client).runtime.writing.pool
        acquired = [await pool.acquire() for _ in range(pool.get_max_size())]
        refused(await client.post(PATH, content=SENT), 503, "timeout")
        for connection in acquired:
            await pool.release(connection)


async def database_unavailable(stage: Stage) -> None:
    await refuse(stage.dsn, "INSERT", "comments", code=SERIALIZATION_FAILURE)
    await stage.send(503, COMMENT_MAX_RETRIES=0)


async def internal(stage: Stage) -> None:
    await refuse(stage.dsn, "INSERT", "comments")
    await stage.send(503)


async def not_storable(stage: Stage) -> None:
    await refuse(stage.dsn, "INSERT", "comments", code=DATA_EXCEPTION)
    await stage.send(422)


async def scheduler(stage: Stage) -> None:
    await stage.send(200)
    execute(stage.dsn, "UPDATE analysis_outbox SET due_at = now()")
    await refuse(stage.dsn, "UPDATE", "analysis_outbox")
    before = reason("upkeep")
    async with open_client(stage.make(CELERY_BROKER_URL="memory://")):
        await until(lambda: reason("upkeep") > before)


async def analysis(stage: Stage) -> None:
    await stage.send(200)

    def fails(_: str) -> str:
        raise ValueError

    stage.monkeypatch.setattr(repetition, "normalise", fails)
    await analyse_all(stage.make())


async def broker(stage: Stage) -> None:
    before = reason("broker")
    async with open_client(stage.make(CELERY_BROKER_URL="amqp://127.0.0.1:1//")) as client:
        await process(client, comment(1))
        await until(lambda: reason("broker") > before)


async def foreign_message(_: Stage) -> None:
    with kombu.Connection("memory://") as connection, connection.SimpleQueue("foreign") as queue:
        queue.put(5)
        assert consumer.rejects(queue.get(timeout=5), ())


async def bad_http(_: Stage) -> None:
    door.Door(16).refused(HTTPStatus.BAD_REQUEST)


async def body_too_slow(stage: Stage) -> None:
    async def stalls() -> AsyncIterator[bytes]:
        yield b"{"
        lifecycle(client).bodies.check(asyncio.get_running_loop().time() + 31)
        await asyncio.Event().wait()

    async with open_client(stage.make()) as client:
        refused(await client.post(PATH, content=stalls()), 408, "body-too-slow")


async def overloaded(stage: Stage) -> None:
    async with open_client(stage.make(COMMENT_BODY_BYTES_IN_FLIGHT=2**20)) as client:
        with lifecycle(client).bodies.hold() as large:
            large.grow(700_000)
            refused(await client.post(PATH, content=b" " * 500_000), 503, "overloaded")
        await process(client, comment(1))


async def conflict(stage: Stage) -> None:
    await stage.send(200, content=msgspec.json.encode(body(comment(1), post_id="another post")))
    await stage.send(422)


SCENARIOS: Final[dict[str, Callable[[Stage], Awaitable[None]]]] = {
    "all-rejected": lambda stage: stage.send(422, content=msgspec.json.encode(body(comment("")))),
    "analysis": analysis,
    "bad-http": bad_http,
    "body-too-slow": body_too_slow,
    "broker": broker,
    "cache": lambda stage: stage.send(200, REDIS_URL=NOWHERE),
    "conflict": conflict,
    "database-unavailable": database_unavailable,
    "disabled": lambda stage: stage.send(503, COMMENT_MONITORING_ENABLED="false"),
    "draining": draining,
    "foreign-message": foreign_message,
    "internal": internal,
    "invalid-comment": lambda stage: stage.send(200, content=msgspec.json.encode(body(comment(""), comment(1)))),
    "invalid-request": lambda stage: stage.send(422, content=b"[]"),
    "not-json": lambda stage: stage.send(400, content=b"{"),
    "not-storable": not_storable,
    "overloaded": overloaded,
    "queue-full": queue_full,
    "rate-limit-store": lambda stage: stage.send(200, REDIS_URL=NOWHERE, COMMENT_RATE_LIMIT_PER_MINUTE=50),
    "rate-limited": lambda stage: stage.send(429, times=51, COMMENT_RATE_LIMIT_PER_MINUTE=50),
    "schema-behind": lambda stage: stage.send(503, POSTGRES_DSN=stage.empty_dsn),
    "timeout": timeout,
    "too-large": lambda stage: stage.send(413, content=b" " * 2000, COMMENT_MAX_REQUEST_BYTES=1024),
    "unsupported-encoding": lambda stage: stage.send(415, content=b"{}", headers={"Content-Encoding": "br"}),
    "upkeep": scheduler,
}


def reason(name: str) -> float:
    return metric("comment_processing_errors_total", reason=name)


@pytest.mark.parametrize("name", metrics.ERROR_REASONS)
async def test_every_declared_error_reason_can_occur(
    make_settings: MakeSettings, dsn: str, empty_dsn: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = reason(name)
    await SCENARIOS[name](Stage(make_settings, dsn, empty_dsn, monkeypatch))
    assert reason(name) > before
