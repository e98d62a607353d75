"""REDIS_URL may name a cluster node or Sentinels: duplicates are found and requests are counted there."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from tests.conftest import MakeSettings, execute, metric, open_client, until
from tests.support.commands import Run
from tests.support.intake import PATH, lifecycle, outcome_counts, process, several
from tests.support.redis_servers import redis_cluster, redis_sentinel
from tests.support.requests import body, comment
from tests.support.triggers import replaced_long_ago
from tests.unit.case_ids import case_id

from comment_monitor.core.errors import ConfigurationError
from comment_monitor.messaging.celery_app import ANALYSE, QUEUE_NAME, make_celery
from comment_monitor.runtime import check_addresses
from comment_monitor.storage.redis_client import open_redis, read_sentinels

PATIENT = "socket_timeout=30&socket_connect_timeout=30"


@pytest.fixture(params=["cluster-1", "cluster-3", "sentinel"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sentinel":
        with redis_sentinel(tmp_path) as (port, _):
            yield f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/comments?{PATIENT}"
    else:
        with redis_cluster(tmp_path, 3 if request.param == "cluster-3" else 1) as ports:
            yield f"redis://127.0.0.1:{ports[0]}?{PATIENT}"


async def test_repeats_are_found_and_requests_are_rate_limited(url: str, make_settings: MakeSettings, dsn: str) -> None:
    settings = make_settings(REDIS_URL=url, COMMENT_RATE_LIMIT_PER_MINUTE=50)
    replaced_long_ago(dsn)
    async with open_client(settings) as client, open_client(settings) as other:
        # A single comment comes first: a command on a single key does not reveal a cluster.
        assert outcome_counts(await process(client, comment("alone"))) == (1, 0, 0, 0)
        assert outcome_counts(await process(client, *several(500))) == (500, 0, 0, 0)
        hits = metric("comment_dedup_cache_hits_total")
        errors = metric("comment_processing_errors_total", reason="cache")
        for sender in (client, other):
            assert outcome_counts(await process(sender, *several(500), comment("alone"))) == (0, 0, 501, 0)
            assert (await sender.get("/health")).json()["checks"]["cache"] == "ok"
        assert metric("comment_dedup_cache_hits_total") - hits == 1002
        assert metric("comment_processing_errors_total", reason="cache") == errors
        # Edits update Redis, and a revert through another process is no duplicate.
        edits = [comment(known["id"], "edited") for known in several(100)]
        assert outcome_counts(await process(client, *edits)) == (0, 100, 0, 0)
        assert execute(dsn, "SELECT count(*) FROM unannounced_edits") == [(0,)]
        assert outcome_counts(await process(other, *several(100))) == (0, 100, 0, 0)
        # The requests of both processes share a count.
        before = metric("comment_processing_errors_total", reason="rate-limit-store")
        answers = [
            (await sender.post(PATH, json=body(comment("alone")))).status_code
            for _ in range(30)
            for sender in (client, other)
        ]
        assert answers.count(200) == 50 - 6
        assert metric("comment_processing_errors_total", reason="rate-limit-store") == before


async def test_a_failover_is_followed(tmp_path: Path, make_settings: MakeSettings, dsn: str) -> None:
    with redis_sentinel(tmp_path) as (port, (master, replica)):
        settings = make_settings(REDIS_URL=f"redis+sentinel://127.0.0.1:{port}/comments")
        async with open_client(settings) as client:
            cache = lifecycle(client).runtime.cache
            await until(lambda: cache.state == "ok")
            master.shutdown(nosave=True)
            assert outcome_counts(await process(client, comment(1))) == (1, 0, 0, 0)
            await until(lambda: replica.info("replication")["role"] == "master")
            hits = metric("comment_dedup_cache_hits_total")

            async def hit() -> bool:
                assert outcome_counts(await process(client, comment(1))) == (0, 0, 1, 0)
                return metric("comment_dedup_cache_hits_total") > hits

            await until(hit)
            assert cache.state == "ok"


async def test_sentinel_connections_are_closed_at_shutdown(tmp_path: Path, make_settings: MakeSettings) -> None:
    with redis_sentinel(tmp_path) as (port, _), redis.Redis(port=port) as sentinel:

        def connections() -> set[str]:
            return {connection["id"] for connection in sentinel.client_list()}

        before = connections()
        settings = make_settings(
            REDIS_URL=f"redis+sentinel://127.0.0.1:{port}/comments?{PATIENT}", COMMENT_RATE_LIMIT_PER_MINUTE=50
        )
        async with open_client(settings) as client:
            assert outcome_counts(await process(client, comment(1))) == (1, 0, 0, 0)
            assert connections() > before
        await until(lambda: connections() == before)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis+sentinel://a/s", ([("a", 26379)], "s", 0, None, None, None, False)),
        ("rediss+sentinel://a:1,b:2/s/3", ([("a", 1), ("b", 2)], "s", 3, None, None, None, True)),
        ("redis+sentinel://u:p%2F%40@[::1]:5/s%2Ft", ([("::1", 5)], "s/t", 0, "u", "p/@", None, False)),
        ("REDIS+SENTINEL://:p@a/s?sentinel_password=q", ([("a", 26379)], "s", 0, None, "p", "q", False)),
    ],
    ids=["default", "tls", "ipv6", "passwords"],
)
def test_sentinel_urls_are_parsed(url: str, found: tuple[object, ...]) -> None:
    read = read_sentinels(url)
    assert read
    assert tuple(read)[:-1] == found


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://", "redis+sentinel://a", "redis+sentinel://a/", "redis+sentinel:///s", "redis+sentinel://a,/s",
        "redis+sentinel://a:geheim/s", "redis+sentinel://a/s/db", "redis+sentinel://a/s?socket_timeout=geheim",
        "sentinel://geheim@a:26379", "redis+cluster://geheim@a", "redis-cluster://a", "http://geheim@a",
    ],
    ids=case_id,
)  # fmt: skip
def test_an_invalid_redis_url_is_refused_at_startup(url: str, make_settings: MakeSettings) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_redis(url)
    assert str(caught.value).startswith("REDIS_URL=<hidden>: must ")
    assert "redis+sentinel://HOST:26379" in str(caught.value)
    assert "geheim" not in str(caught.value)
    with pytest.raises(ConfigurationError):
        check_addresses(make_settings(REDIS_URL=url))


def test_celery_finds_its_broker_through_the_sentinels(tmp_path: Path, make_settings: MakeSettings) -> None:
    with redis_sentinel(tmp_path) as (port, (master, _)):
        app = make_celery(make_settings(CELERY_BROKER_URL=f"redis+sentinel://127.0.0.1:{port}/comments/0"))
        with app.connection_for_write() as connection:
            app.send_task(ANALYSE, args=(1,), connection=connection)
        assert master.llen(QUEUE_NAME) == 1
        with app.connection_for_read() as connection:
            message = connection.SimpleQueue(QUEUE_NAME).get(timeout=30)
            assert message.headers["task"] == ANALYSE
            message.ack()


def test_a_worker_refuses_a_redis_cluster_as_broker(ingest: Run, tmp_path: Path) -> None:
    with redis_cluster(tmp_path, 1) as (port,):
        done = ingest("--metrics-port", 0, command="worker", CELERY_BROKER_URL=f"redis://127.0.0.1:{port}/0")
    assert done.code == 1
    assert "Celery can't use a Redis Cluster" in done.only_error()


@pytest.mark.parametrize(
    "url",
    ["sentinel://geheim@a:26379", "redis+sentinel://a", "rediss+sentinel://:geheim@a/s", "redis+sentinel://a:geheim/s"],
    ids=case_id,
)
def test_a_broker_url_that_celery_does_not_support_is_refused(url: str, make_settings: MakeSettings) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_addresses(make_settings(CELERY_BROKER_URL=url))
    assert str(caught.value).startswith("CELERY_BROKER_URL=<hidden>: ")
    assert "geheim" not in str(caught.value)
