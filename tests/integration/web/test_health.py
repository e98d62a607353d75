"""`/health` names each failure and stays 200; a gauge, the log and the error responses name the failure too."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg2
import pytest
from tests.conftest import execute, until
from tests.integration.conftest import MakeUp
from tests.support import http
from tests.support.api import Api, serving
from tests.support.intake import refused
from tests.support.requests import body, comment
from tests.support.up import Up
from tests.support.up import until as wait

from comment_monitor.devserver.endpoints import read_endpoints

SENT: Final = body(comment(1), post_id="p1")


@pytest.fixture
def api(tmp_path: Path, environment: dict[str, str]) -> Iterator[Api]:
    with serving(tmp_path, environment, COMMENT_MAX_RETRIES=0, CELERY_BROKER_URL="memory://") as running_api:
        yield running_api


def health(api: Api) -> dict[str, Any]:
    answer = http.get(f"{api.url}/health", timeout=60)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def until_degraded(api: Api, check: str, words: str) -> None:
    """Waits until `/health`, the gauge and one line of the log report this check as degraded."""

    def is_degraded() -> bool:
        found = health(api)
        return bool(found["status"] == "degraded" and words in found["checks"][check])

    await until(is_degraded)
    await until(lambda: api.reported("comment_health_check", check=check) == 0)
    await until(lambda: len(api.lines(event="degraded", check=check)) == 1)


async def until_well(api: Api, check: str) -> None:
    await until(lambda: health(api)["status"] == "ok", seconds=120)
    await until(lambda: api.reported("comment_health_check", check=check) == 1)
    await until(lambda: len(api.lines(event="well_again", check=check)) == 1)


def get(api: Api, path: str) -> httpx.Response:
    return http.get(f"{api.url}{path}", timeout=60)


def post(api: Api) -> httpx.Response:
    return http.post(f"{api.url}/comments/process", json=SENT, timeout=60)


async def test_a_read_only_database_is_reported_as_degraded(api: Api, environment: dict[str, str]) -> None:
    """As on a managed service with a nearly full disk: new sessions are read-only, open sessions may still write."""
    dsn = environment["POSTGRES_DSN"]
    name = psycopg2.extensions.parse_dsn(dsn)["dbname"]
    await until(lambda: health(api)["status"] == "ok")
    execute(dsn, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    execute(dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                 "AND pid <> pg_backend_pid()")  # fmt: skip
    await until_degraded(api, "database", "takes no writes: it is read-only")
    assert "takes no writes: it is read-only" in refused(post(api), 503, "database-unavailable")["detail"]
    assert get(api, "/comments").status_code == 200
    may_write = f"{dsn} options='-c default_transaction_read_only=off'"
    execute(may_write, f"ALTER DATABASE {name} RESET default_transaction_read_only")
    execute(dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                 "AND pid <> pg_backend_pid()")  # fmt: skip
    await until_well(api, "database")
    assert post(api).status_code == 200


async def test_a_full_disk_is_reported_by_failed_writes(api: Api, environment: dict[str, str]) -> None:
    """No probe of the database writes, so only the latest write shows a full disk."""
    dsn = environment["POSTGRES_DSN"]
    await until(lambda: health(api)["status"] == "ok")
    execute(
        dsn,
        """
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON comments FOR EACH STATEMENT EXECUTE FUNCTION full_disk();
        """,
    )
    assert "takes no writes: its disk is full" in refused(post(api), 503, "database-unavailable")["detail"]
    await until_degraded(api, "database", "its disk is full")
    execute(dsn, "DROP TRIGGER full_disk ON comments")
    assert post(api).status_code == 200
    await until_well(api, "database")


async def test_a_failing_periodic_job_is_reported_as_degraded(api: Api, environment: dict[str, str]) -> None:
    await until(lambda: health(api)["status"] == "ok")
    execute(environment["POSTGRES_DSN"], "ALTER TABLE analysis_outbox RENAME TO somewhere")
    await until_degraded(api, "upkeep", "UndefinedTableError")
    execute(environment["POSTGRES_DSN"], "ALTER TABLE somewhere RENAME TO analysis_outbox")
    await until_well(api, "upkeep")


async def test_a_missing_broker_is_reported_and_comments_are_accepted(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with serving(tmp_path, environment, CELERY_BROKER_URL="", RABBITMQ_URL="") as api:
        await until_degraded(api, "broker", "CELERY_BROKER_URL names no broker")
        assert post(api).status_code == 200


def check_of(up: Up, name: str) -> str:
    answer = up.get("/health")
    assert answer.status_code == 200
    return str(answer.json()["checks"][name]) if answer.json()["status"] == "degraded" else "ok"


def test_a_hanging_broker_is_reported_and_comments_are_accepted(make_up: MakeUp) -> None:
    up = make_up().start().wait_until_up().wait_until_well()
    broker = up.child("redis-server")
    broker.suspend()
    try:
        wait(lambda: check_of(up, "broker") == "away")
        assert up.post(json=SENT).status_code == 200
    finally:
        broker.resume()
    up.wait_until_well()
    wait(lambda: up.get("/comments/threads/1").json()["analysis"])


@pytest.mark.parametrize("lost", ["everything", "tables"])
def test_a_deleted_data_folder_stops_up(make_up: MakeUp, lost: str) -> None:
    """PostgreSQL could still write to its open files, and those writes would be lost."""
    up = make_up().start().wait_until_up()
    assert up.post(json=SENT).status_code == 200
    shutil.rmtree(up.data_dir / "postgres" / ("" if lost == "everything" else "base"))
    [line] = up.errors()
    assert f"PostgreSQL's files in {up.data_dir} are gone" in line
    assert up.is_gone()


def test_an_external_database_that_lost_its_files_is_reported(make_up: MakeUp) -> None:
    """`up` did not start that server, so it does not stop it."""
    other = make_up().start().wait_until_up().wait_until_well()
    dsn = (read_endpoints(other.data_dir) or {})["POSTGRES_DSN"]
    up = Up(other.data_dir.parent / "second", POSTGRES_DSN=dsn).start()
    try:
        lose_files(up.wait_until_up().wait_until_well(), other, dsn)
    finally:
        up.end()


def lose_files(up: Up, other: Up, dsn: str) -> None:
    assert up.post(json=SENT).status_code == 200
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_relation_filepath('comments')")
        [[path]] = cursor.fetchall()
    (other.data_dir / "postgres" / path).unlink()
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        # Sessions that have the file open can still use it: end them.
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                       "AND backend_type = 'client backend'")  # fmt: skip
    refusal = up.post(json=body(comment(2), post_id="p1"))
    assert (refusal.status_code, "can't use its files" in refusal.json()["detail"]) == (503, True)
    wait(lambda: "can't use its files" in check_of(up, "database") + check_of(up, "upkeep"))
