"""Processes that the database refuses: `/health/started` answers 503, and a worker exits, so that a rollout stops."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn
from tests.conftest import execute, until
from tests.support import forked, http
from tests.support.api import Api, serving

from comment_monitor.storage.readiness import SCHEMA_INTERVAL

DISCONNECT: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid()"
)
ELSEWHERE: Final = "elsewhere"


def probe(api: Api, path: str = "/health/started") -> tuple[int, str, str]:
    """Returns the status code, the status and the check of the database."""
    answer = http.get(f"{api.url}{path}", timeout=60)
    found: dict[str, Any] = answer.json()
    return answer.status_code, found["status"], found["checks"]["database"]


def on_server(dsn: str, statement: str) -> None:
    """Executes a statement in the database `postgres`: some can't run in the database that they change."""
    conn = psycopg2.connect(make_dsn(dsn, dbname="postgres"))
    try:
        conn.autocommit = True
        with conn.cursor() as cursor:
            cursor.execute(statement)
    finally:
        conn.close()


Wrong = Callable[[str], str]
# Errors in a DSN, and the message for each.
WRONG: Final[dict[str, tuple[Wrong, str]]] = {
    "database": (lambda dsn: make_dsn(dsn, dbname="nowhere"), "the server has no such database"),
    "user": (lambda dsn: make_dsn(dsn, user="nobody_at_all"), "the server refuses the user or the password"),
    "options": (lambda dsn: make_dsn(dsn, options="-c no_such_setting=1"), "it refuses the `options` of POSTGRES_DSN"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_serve_with_a_refused_dsn_is_not_started_and_keeps_running(
    tmp_path: Path, environment: dict[str, str], dsn: str, wrong: str
) -> None:
    change, words = WRONG[wrong]
    with serving(tmp_path, environment, POSTGRES_DSN=change(dsn)) as api:
        await until(lambda: probe(api)[0] == 503)
        assert probe(api)[1:] == ("refused", f"The database can't be used: {words}.")
        assert probe(api, "/health")[:2] == (200, "degraded")
        status, headers, _ = await api.send(b"GET /health/started HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, headers["retry-after"]) == (503, "2")


async def test_a_refusal_after_the_start_leaves_the_process_started(
    tmp_path: Path, environment: dict[str, str], dsn: str
) -> None:
    name = parse_dsn(dsn)["dbname"]
    on_server(dsn, f"ALTER DATABASE {name} RENAME TO {name}_{ELSEWHERE}")
    try:
        with serving(tmp_path, environment) as api:
            await until(lambda: probe(api)[:2] == (503, "refused"))
            on_server(dsn, f"ALTER DATABASE {name}_{ELSEWHERE} RENAME TO {name}")
            await until(lambda: probe(api)[0] == 200 and probe(api, "/health")[2] == "ok")
            on_server(dsn, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            on_server(dsn, DISCONNECT.format(name))
            on_server(dsn, f"ALTER DATABASE {name} RENAME TO {name}_{ELSEWHERE}")
            await until(lambda: "no such database" in probe(api, "/health")[2])
            assert probe(api)[:2] == (200, "degraded")
    finally:
        on_server(dsn, f"ALTER DATABASE {name}_{ELSEWHERE} ALLOW_CONNECTIONS true")
        on_server(dsn, f"ALTER DATABASE {name}_{ELSEWHERE} RENAME TO {name}")
    assert execute(dsn, "SELECT 1") == [(1,)]


async def test_an_outage_or_missing_tables_at_the_start_are_not_a_refusal(
    tmp_path: Path, environment: dict[str, str], dsn: str
) -> None:
    for number, other in enumerate((make_dsn(dsn, host="127.0.0.1", port=1), make_dsn(dsn, dbname="postgres"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        with serving(folder, environment, POSTGRES_DSN=other) as api:
            await until(lambda api=api: "reached yet" not in probe(api)[2])  # type: ignore[misc]
            assert probe(api)[:2] == (200, "degraded")


@contextmanager
def worker(environment: dict[str, str], dsn: str) -> Iterator[forked.Popen]:
    """Runs a worker whose broker is unavailable."""
    running = forked.Popen(
        [sys.executable, "-m", "comment_monitor", "worker", "--concurrency", "1", "--metrics-port", "0"],
        env={**os.environ, **environment, "POSTGRES_DSN": dsn, "CELERY_BROKER_URL": "amqp://127.0.0.1:1//"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with running:
        try:
            yield running
        finally:
            running.kill()


@pytest.mark.parametrize("wrong", WRONG)
def test_a_worker_with_a_refused_dsn_exits_with_a_one_line_error(
    environment: dict[str, str], dsn: str, wrong: str
) -> None:
    change, words = WRONG[wrong]
    with worker(environment, change(dsn)) as running:
        output, _ = running.communicate(timeout=120)
    assert running.returncode == 1
    assert output == f"Error: POSTGRES_DSN=<hidden>: the database can't be used: {words}.\n"


def test_a_worker_logs_an_unavailable_database_and_waits(environment: dict[str, str], dsn: str) -> None:
    with worker(environment, make_dsn(dsn, host="127.0.0.1", port=1)) as running:
        assert running.stdout
        line = running.stdout.readline()
        assert "database_not_usable" in line
        assert "connection refused" in line
        assert running.poll() is None
        running.terminate()
        running.communicate(timeout=60)


# PostgreSQL's response to a wrong password, in its wire protocol.
FIELDS: Final = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0\0"
REFUSAL: Final = b"E" + (len(FIELDS) + 4).to_bytes(4, "big") + FIELDS


@contextmanager
def refusing(times: int) -> Iterator[str]:
    """Yields the DSN of a server that refuses the first logins, and does not answer later ones."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as connections:

        def refuse() -> None:
            for _ in range(times):
                connection, _ = server.accept()
                connections.enter_context(connection)
                connection.recv(4096)
                connection.sendall(REFUSAL)

        thread = threading.Thread(target=refuse)
        thread.start()
        yield f"postgresql://comments:wrong@127.0.0.1:{server.getsockname()[1]}/comments?sslmode=disable"
        thread.join(60)


async def test_a_refusal_stays_reported_while_the_next_probe_hangs(tmp_path: Path, environment: dict[str, str]) -> None:
    with refusing(1) as wrong, serving(tmp_path, environment, POSTGRES_DSN=wrong) as api:
        await until(lambda: probe(api)[1] == "refused")
        # The next probe of the database hangs meanwhile.
        ends = time.monotonic() + 2 * SCHEMA_INTERVAL
        while time.monotonic() < ends:
            assert probe(api)[:2] == (503, "refused")
