"""PostgreSQL restarted, killed, absent or not migrated: 503 with Retry-After, and no comment answered 200 is lost."""

import asyncio
import re
from collections.abc import Callable
from functools import partial

import pytest
from psycopg2.extensions import make_dsn, parse_dsn
from tests.conftest import MakeSettings, execute, until, with_database
from tests.faults.conftest import MakeSystem
from tests.support.database import blocked, holding, take_in
from tests.support.locks import cut_all, cut_blocked, locked
from tests.support.requests import comment
from tests.support.system import System, analysed, assert_unavailable, traffic

from comment_monitor.analysis.batch_processor import open_worker
from comment_monitor.devserver.postgres_process import EmbeddedPostgres
from comment_monitor.storage import migrations


@pytest.mark.parametrize("end", [EmbeddedPostgres.stop, EmbeddedPostgres.kill], ids=["stopped", "killed"])
async def test_a_postgresql_outage_loses_nothing(
    make_system: MakeSystem, own_postgres: EmbeddedPostgres, end: Callable[[EmbeddedPostgres], None]
) -> None:
    system = make_system(POSTGRES_DSN=own_postgres.dsn)
    await system.start()
    async with traffic(system.url) as clients:
        await clients.goes_on()
        end(own_postgres)
        await until(lambda: 503 in clients.statuses)
        await system.until_health("degraded", broker="ok", cache="ok")
        own_postgres.start()
        await clients.goes_on()
        await system.until_health("ok", database="ok")
    assert clients.statuses == {200, 503}
    await system.all_is_well(clients.sent)


CLOSED = {
    "everybody": ("ALTER DATABASE {name} ALLOW_CONNECTIONS false", "ALTER DATABASE {name} ALLOW_CONNECTIONS true"),
    "user": ("REVOKE {owner} FROM {user}", "GRANT {owner} TO {user}"),
}


@pytest.mark.parametrize(("close", "open_"), CLOSED.values(), ids=CLOSED)
async def test_a_database_closed_to_connections_loses_nothing(
    make_system: MakeSystem, dsn: str, close: str, open_: str
) -> None:
    """Connections are refused, as during the restore of a backup."""
    elsewhere = with_database(dsn, "postgres")
    ((owner,),) = execute(dsn, "SELECT current_user")
    database = parse_dsn(dsn)["dbname"]
    user = f"user_of_{database}"
    names = {"name": database, "owner": owner, "user": user}
    execute(dsn, f"CREATE ROLE {user} LOGIN PASSWORD 'secret' IN ROLE {owner}")
    try:
        system = make_system(POSTGRES_DSN=make_dsn(dsn, user=user, password="secret"))  # noqa: S106
        await system.start()
        async with traffic(system.url) as clients:
            await clients.goes_on()
            execute(elsewhere, close.format(**names))
            execute(elsewhere, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'")  # noqa: S608
            await until(lambda: 503 in clients.statuses)
            await system.until_health("degraded", broker="ok", cache="ok")
            execute(elsewhere, open_.format(**names))
            await clients.goes_on()
            await system.until_health("ok", database="ok")
        assert clients.statuses == {200, 503}
        await system.all_is_well(clients.sent)
    finally:
        system.end()
        execute(elsewhere, f"DROP ROLE {user}")


async def test_health_reports_a_database_that_does_not_answer(system: System) -> None:
    await system.start(system.orchestrator)
    await system.until_health("ok", database="ok")
    # Each refresh begins with this table.
    with holding(system.dsn, "LOCK TABLE comment_monitor_version IN ACCESS EXCLUSIVE MODE"):
        await until(lambda: blocked(system.dsn))
        await system.until_health("degraded")
        _, found = await system.health()
        assert re.fullmatch(r"The database has not answered for \d+ s\.", found["checks"]["database"])
        # Other queries may still work.
        assert (await system.post(comment(1))).json()["stored"] == 1
    await system.until_health("ok", database="ok")


async def test_repeatedly_cut_connections_lose_nothing(system: System) -> None:
    await system.start()
    async with traffic(system.url) as clients:
        for _ in range(25):
            await clients.goes_on(15)
            assert cut_all(system.dsn)
            assert (await system.get("/comments")).status_code in {200, 503}
    assert clients.statuses <= {200, 503}
    await system.all_is_well(clients.sent)


class Cutter:
    """Cuts writes that wait for a lock, and counts their connections."""

    def __init__(self, dsn: str):
        self._dsn = dsn
        self._pids: set[int] = set()

    def has_cut(self, amount: int) -> bool:
        self._pids |= cut_blocked(self._dsn)
        return len(self._pids) == amount


@pytest.mark.parametrize("retries", [0, 2])
async def test_a_write_with_a_cut_connection_is_retried(make_system: MakeSystem, retries: int) -> None:
    system = make_system(COMMENT_MAX_RETRIES=retries)
    await system.start(system.orchestrator)
    with locked(system.dsn):
        # A write that is cut more often than it is retried is given up.
        refused = asyncio.create_task(system.post(comment(1)))
        await until(partial(Cutter(system.dsn).has_cut, 1 + retries))
        assert_unavailable(await refused, "database-unavailable")
        assert not blocked(system.dsn)
        # A write that is cut as often as it is retried succeeds at the last attempt.
        stored = asyncio.create_task(system.post(comment(2)))
        await until(partial(Cutter(system.dsn).has_cut, retries))
        await until(lambda: blocked(system.dsn))
    assert (await stored).json()["stored"] == 1
    assert (await system.post(comment(1), comment(2))).json()["stored"] == 1
    system.has_no_complaints()


async def test_cut_connections_mark_no_comment_failed(make_settings: MakeSettings, dsn: str) -> None:
    """A redelivered batch counts its starts, in case it ends its worker: here only the database fails."""
    settings = make_settings()
    await take_in(settings, comment(1))
    ((outbox_id,),) = execute(dsn, "SELECT id FROM analysis_outbox")
    async with open_worker(settings) as worker:
        with locked(dsn, "comment_analyses"):
            work = asyncio.create_task(worker.analyse_batch(outbox_id, redelivered=True))
            await until(partial(Cutter(dsn).has_cut, settings.max_retries))
            await until(lambda: blocked(dsn))
        await work
    assert analysed(dsn) == {"1"}


async def test_a_system_started_before_postgresql_works_once_available(
    make_system: MakeSystem, own_postgres: EmbeddedPostgres
) -> None:
    own_postgres.stop()
    system = make_system(POSTGRES_DSN=own_postgres.dsn)
    await system.start()
    await system.until_health("degraded", broker="ok", schema="unknown")
    assert_unavailable(await system.post(comment(1)), "database-unavailable")
    assert_unavailable(await system.get("/comments"), "database-unavailable")
    own_postgres.start()
    await system.until_health("ok", database="ok", schema=migrations.head())
    assert (await system.post(comment(1))).json()["stored"] == 1
    assert len((await system.get("/comments")).json()["items"]) == 1
    await system.all_is_well(["1"])


async def test_a_system_started_before_the_migration_works_once_migrated(
    make_system: MakeSystem, empty_dsn: str
) -> None:
    system = make_system(POSTGRES_DSN=empty_dsn)
    await system.start()
    await system.until_health("degraded", broker="ok", schema="unknown")
    assert_unavailable(await system.post(comment(1)), "schema-behind")
    assert_unavailable(await system.get("/comments"), "schema-behind")
    migrations.upgrade(empty_dsn)
    await system.until_health("ok", database="ok", schema=migrations.head())
    assert (await system.post(comment(1))).json()["stored"] == 1
    await system.all_is_well(["1"])
