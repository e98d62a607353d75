"""The gauges of the whole system, which alerts use."""

import asyncio
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import psycopg2.extensions
import pytest
from prometheus_client import REGISTRY
from tests.conftest import MakeSettings, execute, metric, open_client, until, with_database
from tests.support.database import analyse_all, blocked, holding, opened, take_in, terminate_blocked
from tests.support.requests import comment

from comment_monitor.core.config import Settings
from comment_monitor.maintenance import system_gauges
from comment_monitor.observability.metrics_server import WithoutUnknown
from comment_monitor.storage import invariants, migrations, revisions
from comment_monitor.storage.postgres import UNAVAILABLE_ERRORS
from comment_monitor.storage.retention import INDEX_PREFIX, RECENT_DAYS, roll_recent_index

RECENT = f"indexname LIKE '{INDEX_PREFIX}%'"


async def test_the_age_of_the_oldest_pending_batch_is_measured(make_settings: MakeSettings) -> None:
    settings = make_settings()
    await take_in(settings, comment(1))
    await take_in(settings, comment(2))
    execute(settings.postgres_dsn, "UPDATE analysis_outbox SET created_at = now() - interval '90 s' WHERE id = 1")
    async with opened(settings) as database:
        await system_gauges.measure_waiting(database)
        assert 90 <= metric("comment_analysis_oldest_seconds") < 150
        assert metric("comment_analysis_backlog") == 2
        await analyse_all(settings)
        await system_gauges.measure_waiting(database)
        assert metric("comment_analysis_oldest_seconds") == 0
        assert metric("comment_analysis_backlog") == 0


async def test_the_backlog_is_omitted_while_the_database_cannot_be_queried(make_settings: MakeSettings) -> None:
    settings = make_settings()
    await take_in(settings, comment(1))
    names = {"comment_analysis_backlog", "comment_analysis_oldest_seconds"}

    def exported() -> set[str]:
        return {family.name for family in WithoutUnknown(REGISTRY).collect()} & names

    async with opened(settings) as database:
        await system_gauges.measure_waiting(database)
        assert exported() == names
        execute(settings.postgres_dsn, "ALTER TABLE analysis_outbox RENAME TO gone")
        with pytest.raises(asyncpg.UndefinedTableError):
            await system_gauges.measure_waiting(database)
        assert exported() == set()
        execute(settings.postgres_dsn, "ALTER TABLE gone RENAME TO analysis_outbox")
        await system_gauges.measure_waiting(database)
        assert (exported(), metric("comment_analysis_backlog")) == (names, 1)


async def test_the_recent_index_age_shows_the_last_cleanup(make_settings: MakeSettings) -> None:
    settings = make_settings()
    today = datetime.now(UTC).date()
    midnight = datetime.combine(today, datetime.min.time(), UTC)

    def age(days: int) -> float:
        return (datetime.now(UTC) - midnight + timedelta(days=RECENT_DAYS + days)).total_seconds()

    async with opened(settings) as database:
        for days in (20, 0):
            await roll_recent_index(database, today - timedelta(days=days))
            least = age(days)
            await system_gauges.measure_recent_index(database)
            assert least <= metric("comment_recent_index_age_seconds") <= age(days)


async def test_the_recent_index_age_is_omitted_without_the_index(make_settings: MakeSettings) -> None:
    settings = make_settings()
    async with opened(settings) as database:
        await system_gauges.measure_recent_index(database)
        assert metric("comment_recent_index_age_seconds") > 0
        ((name,),) = execute(settings.postgres_dsn, f"SELECT indexname FROM pg_indexes WHERE {RECENT}")  # noqa: S608
        execute(settings.postgres_dsn, f"DROP INDEX {name}")
        await system_gauges.measure_recent_index(database)
    assert "comment_recent_index_age_seconds" not in {family.name for family in WithoutUnknown(REGISTRY).collect()}


DUE = "UPDATE invariant_checks SET checked_at = now() - interval '2 hours'"
CHECKED = "comment_invariant_check_timestamp_seconds"


def checks() -> float:
    """Returns how many invariant checks this process has run."""
    return metric("comment_db_query_duration_seconds_count", query="check_outbox_age")


async def check_now(settings: Settings) -> None:
    """Runs an invariant check that is due."""
    async with opened(settings) as database:
        await system_gauges.run_invariant_checks(settings, database)
        execute(settings.postgres_dsn, DUE)
        await system_gauges.run_invariant_checks(settings, database)


async def test_violations_are_exported_for_each_invariant(make_settings: MakeSettings) -> None:
    settings = make_settings()
    await take_in(settings, comment(1), comment(2))

    def exported() -> dict[str, float]:
        return {name: metric("comment_invariant_violations", invariant=name) for name in system_gauges.NAMES}

    await check_now(settings)
    assert exported() == dict.fromkeys(system_gauges.NAMES, 0)
    execute(settings.postgres_dsn, "DELETE FROM analysis_outbox")
    await check_now(settings)
    assert exported() == {**dict.fromkeys(system_gauges.NAMES, 0), "analysed": 2}


async def test_the_invariant_check_runs_once_an_interval_over_all_processes(make_settings: MakeSettings) -> None:
    settings = make_settings()
    async with opened(settings) as database:
        before = checks()
        started = time.time()
        # The invariants are new to the database; their first check is due after an interval.
        await asyncio.gather(*(system_gauges.run_invariant_checks(settings, database) for _ in range(4)))
        assert checks() == before
        assert started - 5 < metric(CHECKED) < time.time() + 5
        execute(settings.postgres_dsn, DUE)
        await asyncio.gather(*(system_gauges.run_invariant_checks(settings, database) for _ in range(4)))
        assert checks() == before + 1
        await system_gauges.run_invariant_checks(settings, database)
        assert checks() == before + 1
        assert metric(CHECKED) > started - 5
        assert metric("comment_invariant_check_interval_seconds") == 3600


async def test_the_stored_results_are_exported_while_another_process_checks(make_settings: MakeSettings) -> None:
    settings = make_settings()
    await take_in(settings, comment(1))
    await check_now(settings)
    execute(settings.postgres_dsn, "DELETE FROM analysis_outbox")
    with holding(settings.postgres_dsn, f"SELECT pg_advisory_xact_lock({invariants.CHECK_LOCK})"):
        await check_now(settings)
        assert metric("comment_invariant_violations", invariant="analysed") == 0
        execute(settings.postgres_dsn, "UPDATE invariant_checks SET violations = 7 WHERE name = 'versions'")
        await check_now(settings)
        assert metric("comment_invariant_violations", invariant="versions") == 7
    await check_now(settings)
    assert metric("comment_invariant_violations", invariant="analysed") == 1
    assert metric("comment_invariant_violations", invariant="versions") == 0


async def test_an_interrupted_check_is_no_success_and_is_repeated(make_settings: MakeSettings) -> None:
    settings = make_settings()
    await take_in(settings, comment(1))
    await check_now(settings)
    last = metric(CHECKED)
    with holding(settings.postgres_dsn, "LOCK TABLE comment_versions IN ACCESS EXCLUSIVE MODE"):
        task = asyncio.create_task(check_now(settings))
        await until(lambda: blocked(settings.postgres_dsn))
        due = metric(CHECKED)
        terminate_blocked(settings.postgres_dsn)
        with pytest.raises(UNAVAILABLE_ERRORS):
            await task
    assert metric(CHECKED) == due < last
    await check_now(settings)
    assert metric(CHECKED) > last


async def test_a_check_holds_no_snapshot_between_statements(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    await take_in(settings, *map(comment, range(10)))
    monkeypatch.setattr(system_gauges, "CHECK_PAUSE", 3600)
    query = (
        "SELECT state, backend_xmin::text, backend_xid::text FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'comment-monitor check'"
    )
    task = asyncio.create_task(check_now(settings))
    try:
        # The check has finished its only slice, and pauses.
        await until(lambda: execute(settings.postgres_dsn, query) == [("idle", None, None)])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_running_service_checks_periodically(make_settings: MakeSettings) -> None:
    settings = make_settings(COMMENT_CHECK_INTERVAL="1")
    await take_in(settings, comment(1))
    execute(settings.postgres_dsn, "DELETE FROM analysis_outbox")
    await check_now(settings)
    execute(settings.postgres_dsn, "DELETE FROM comments")
    async with open_client(settings):
        await until(lambda: metric("comment_invariant_violations", invariant="analysed") == 0)


async def test_schema_usable_follows_the_state_of_the_database(make_settings: MakeSettings, dsn: str) -> None:
    async with open_client(make_settings()):
        await until(lambda: metric("comment_schema_usable") == 1)
        execute(dsn, "DELETE FROM comment_monitor_version")
        await until(lambda: metric("comment_schema_usable") == 0)
        execute(dsn, "INSERT INTO comment_monitor_version VALUES ('008')")
        await until(lambda: metric("comment_schema_usable") == 1)


NEXT_REVISION = """
revision = "{number}"
down_revision = "{before}"


def upgrade() -> None:
    pass
"""


async def test_a_release_works_and_reports_a_pending_migration(
    make_settings: MakeSettings, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of the next release: that of this release, and another revision."""
    before = migrations.head()
    shutil.copytree(migrations.FOLDER, tmp_path / "migrations")
    monkeypatch.setattr(migrations, "FOLDER", tmp_path / "migrations")
    (tmp_path / "migrations" / "versions" / "999_next.py").write_text(NEXT_REVISION.format(number="999", before=before))
    monkeypatch.setattr(revisions, "HEAD", "999")
    monkeypatch.setattr(revisions, "KNOWN", (*revisions.KNOWN, "999"))
    monkeypatch.setattr(revisions, "USABLE", revisions.USABLE | {"999"})
    async with open_client(make_settings()) as client:
        await until(lambda: metric("comment_schema_at_head") == 0)
        health = (await client.get("/health")).json()
        assert health["checks"]["schema"] == f"{before}, and not yet 999"
        assert health["checks"]["database"] == "ok"
        assert (
            await client.post("/comments/process", json={"post_id": "p", "comments": [comment(1)]})
        ).status_code == 200
        migrations.upgrade(dsn)
        await until(lambda: metric("comment_schema_at_head") == 1)
        assert (await client.get("/health")).json()["checks"]["schema"] == "999"


async def test_a_schema_of_a_later_release_is_not_reported_as_behind(make_settings: MakeSettings, dsn: str) -> None:
    execute(dsn, "UPDATE comment_monitor_version SET version_num = '999'")
    async with open_client(make_settings()) as client:
        await until(lambda: metric("comment_schema_at_head") == 1)
        assert (await client.get("/health")).json()["checks"]["schema"] == "999"


async def test_schema_at_head_is_omitted_while_the_database_is_unavailable(make_settings: MakeSettings) -> None:
    settings = make_settings()
    async with open_client(settings):
        await until(lambda: metric("comment_schema_at_head") == 1)
        name = psycopg2.extensions.parse_dsn(settings.postgres_dsn)["dbname"]
        elsewhere = with_database(settings.postgres_dsn, "postgres")
        execute(elsewhere, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        execute(elsewhere, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # noqa: S608
        await until(
            lambda: "comment_schema_at_head" not in {family.name for family in WithoutUnknown(REGISTRY).collect()}
        )
        execute(elsewhere, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await until(lambda: metric("comment_schema_at_head") == 1)


async def test_a_database_without_tables_has_an_unknown_revision(make_settings: MakeSettings, dsn: str) -> None:
    async with open_client(make_settings()) as client:
        await until(lambda: metric("comment_schema_at_head") == 1)
        migrations.downgrade(dsn, "base")
        execute(dsn, "DROP TABLE comment_monitor_version")
        await until(lambda: metric("comment_schema_at_head") == 0)
        checks = (await client.get("/health")).json()["checks"]
        assert checks["schema"] == "unknown"
        assert "no tables" in checks["database"]


async def test_a_table_closed_to_a_periodic_job_is_counted_as_an_error(make_settings: MakeSettings, dsn: str) -> None:
    """The database is usable, so no other metric shows that the sweep and the backlog measurement fail."""
    user = f"user_of_{psycopg2.extensions.parse_dsn(dsn)['dbname']}"
    execute(dsn, f"CREATE ROLE {user} LOGIN PASSWORD 'secret'")
    try:
        execute(dsn, f"GRANT SELECT ON comment_monitor_version, installation, comments, unannounced_edits TO {user}")
        before = metric("comment_processing_errors_total", reason="upkeep")
        own = psycopg2.extensions.make_dsn(dsn, user=user, password="secret")  # noqa: S106
        async with open_client(make_settings(POSTGRES_DSN=own)):
            await until(lambda: metric("comment_processing_errors_total", reason="upkeep") > before)
            assert metric("comment_schema_usable") == 1
    finally:
        execute(dsn, f"DROP OWNED BY {user}")
        execute(dsn, f"DROP ROLE {user}")
