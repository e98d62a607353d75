"""asyncpg and psycopg2 on real servers with the same DSN: the same schema, host, certificate and timeouts."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg2
import psycopg2.extensions
import pytest
from tests.conftest import MakeSettings, execute, open_client
from tests.integration.storage.test_migrations import migrate
from tests.support import forked
from tests.support.intake import outcome_counts, process
from tests.support.requests import comment
from tests.support.tls_front import TlsFront, make_certificates, tls_front

from comment_monitor.core.dsn import psycopg_arguments
from comment_monitor.devserver.postgres_process import EmbeddedPostgres
from comment_monitor.storage import migrations
from comment_monitor.storage.postgres import UNAVAILABLE_ERRORS, Query, in_words, open_database

ONE = Query("one", "SELECT 1")
SETTING = Query("setting", "SELECT current_setting($1)")


class Server(NamedTuple):
    """A PostgreSQL on loopback with TLS, and the certificate of its authority."""

    front: TlsFront
    root: str

    @property
    def port(self) -> int:
        return self.front.port

    def dsn(self, host: str = "localhost", **parameters: str) -> str:
        given = {"host": host, "port": str(self.port), **parameters}
        return psycopg2.extensions.make_dsn(user="postgres", dbname="comments", **given)


@pytest.fixture(scope="module")
def server(postgres: EmbeddedPostgres) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="tests-") as name:
        folder = Path(name)
        make_certificates(folder)
        sockets = psycopg2.extensions.parse_dsn(postgres.dsn)["host"]
        with tls_front(Path(sockets) / ".s.PGSQL.5432", folder) as front:
            yield Server(front, str(folder / "root.pem"))


async def value(dsn: str, query: Query, *arguments: str, timeout: float = 20) -> object:  # noqa: ASYNC109
    """Returns the result of a query through asyncpg."""
    database = await open_database(dsn, size=1, timeout=timeout, application="comment-monitor test")
    try:
        async with database.connection() as conn:
            return await conn.value(query, *arguments)
    finally:
        await database.close()


def value_for_psycopg2(dsn: str, query: Query, *arguments: str) -> object:
    with closing(psycopg2.connect(**psycopg_arguments(dsn, application="test"))) as connection:
        cursor = connection.cursor()
        cursor.execute(query.sql.replace("$1", "%s"), arguments)
        return cursor.fetchone()[0]


async def both(dsn: str, query: Query, *arguments: str) -> tuple[object, object]:
    return await value(dsn, query, *arguments), await asyncio.to_thread(value_for_psycopg2, dsn, query, *arguments)


async def both_refuse(dsn: str) -> str:
    """Asserts that neither driver connects; returns the reason in this program's words."""
    with pytest.raises(UNAVAILABLE_ERRORS) as caught:
        await value(dsn, ONE)
    with pytest.raises(psycopg2.OperationalError):
        await asyncio.to_thread(value_for_psycopg2, dsn, ONE)
    return in_words(caught.value)


async def test_service_and_migration_use_the_same_search_path(empty_dsn: str, make_settings: MakeSettings) -> None:
    execute(empty_dsn, "CREATE SCHEMA monitor")
    dsn = psycopg2.extensions.make_dsn(empty_dsn, options="-c search_path=monitor")
    assert (await migrate(dsn))[0] == 0
    where = (
        "SELECT DISTINCT relnamespace::regnamespace::text FROM pg_class WHERE relname IN ('comments', 'installation')"
    )
    assert execute(empty_dsn, where) == [("monitor",)]
    async with open_client(make_settings(POSTGRES_DSN=dsn)) as client:
        assert (await client.get("/health")).json()["checks"]["database"] == "ok"
        assert outcome_counts(await process(client, comment(1))) == (1, 0, 0, 0)
    assert execute(empty_dsn, "SELECT count(*) FROM monitor.comments") == [(1,)]
    assert migrations.current(dsn) == migrations.head()


async def test_the_programs_settings_override_options(dsn: str) -> None:
    with_options = psycopg2.extensions.make_dsn(
        dsn, options="-c statement_timeout=1 -c timezone=Asia/Tokyo -c work_mem=5MB"
    )
    assert await value(with_options, SETTING, "statement_timeout") == "20s"
    assert await value(with_options, SETTING, "timezone") == "UTC"
    assert await both(with_options, SETTING, "work_mem") == ("5MB", "5MB")


@pytest.mark.parametrize(
    "options",
    ["-c nosuch=1", "-c work_mem=many", "nonsense", "--nosuch", "-c search_path"],
    ids=["unknown", "invalid", "word", "flag", "no-value"],
)
async def test_options_that_the_server_refuses_are_named(options: str, dsn: str, make_settings: MakeSettings) -> None:
    with_options = psycopg2.extensions.make_dsn(dsn, options=options)
    assert await both_refuse(with_options) == "it refuses the `options` of POSTGRES_DSN"
    async with open_client(make_settings(POSTGRES_DSN=with_options)) as client:
        assert "`options` of POSTGRES_DSN" in (await client.get("/health")).json()["checks"]["database"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
async def test_both_drivers_reach_a_host(host: str, server: Server) -> None:
    assert await both(server.dsn(host), ONE) == (1, 1)


async def test_hostaddr_alone_is_the_host(server: Server) -> None:
    assert await both(f"hostaddr=127.0.0.1 port={server.port} user=postgres dbname=comments", ONE) == (1, 1)


@contextmanager
def silent_server() -> Iterator[int]:
    """Yields the port of a server that accepts connections and never responds."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=50)) as listener:
        yield listener.getsockname()[1]


@contextmanager
def closed_port() -> Iterator[int]:
    """Yields a port that stays closed."""
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


async def test_the_next_of_several_hosts_is_tried(server: Server) -> None:
    with closed_port() as closed, silent_server() as silent:
        for port in (closed, silent):
            dsn = server.dsn("127.0.0.1,localhost", port=f"{port},{server.port}", connect_timeout="2")
            assert await both(dsn, ONE) == (1, 1)
        # Without a timeout in the DSN, all hosts share the timeout of a connection.
        dsn = server.dsn("127.0.0.1,localhost", port=f"{silent},{server.port}")
        assert await value(dsn, ONE, timeout=4) == 1


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("any", True), ("primary", True), ("read-write", True), ("prefer-standby", True),
        ("standby", False), ("read-only", False),
    ],
)  # fmt: skip
async def test_a_server_that_violates_target_session_attrs_is_not_used(
    wanted: str, found: bool, server: Server
) -> None:
    dsn = server.dsn("localhost,127.0.0.1", target_session_attrs=wanted)
    if found:
        assert await both(dsn, ONE) == (1, 1)
    else:
        assert await both_refuse(dsn) == "no host satisfies `target_session_attrs`"


async def test_the_dsn_sets_the_connect_timeout(make_settings: MakeSettings) -> None:
    with silent_server() as port:
        dsn = f"postgresql://u@127.0.0.1:{port}/c?connect_timeout=2&sslmode=disable"
        started = asyncio.get_running_loop().time()
        assert await both_refuse(dsn) == "it did not answer in time"
        assert asyncio.get_running_loop().time() - started < 10


async def test_a_connect_timeout_is_not_reported_as_a_slow_query(make_settings: MakeSettings, dsn: str) -> None:
    """The pool is replaced while the schema is known to be usable."""
    settings = make_settings(COMMENT_READ_TIMEOUT="1")
    async with open_client(settings) as client:
        runtime = client.app.state.lifecycle.runtime  # type: ignore[attr-defined]
        assert (await client.get("/comments")).status_code == 200
        await runtime.reading.pool.expire_connections()
        with silent_server() as port:
            other = await open_database(
                f"postgresql://u@127.0.0.1:{port}/c?sslmode=disable", size=1, timeout=1, application="test"
            )
            runtime.reading.pool, before = other.pool, runtime.reading.pool
            try:
                answer = await client.get("/comments")
            finally:
                runtime.reading.pool = before
                await other.close()
    assert answer.status_code == 503
    assert answer.json()["type"].endswith(":database-unavailable"), answer.text


async def test_the_dsn_sets_the_keepalive_options(server: Server) -> None:
    asked = {"keepalives_idle": "33", "keepalives_interval": "7", "keepalives_count": "4", "tcp_user_timeout": "9000"}
    options = {
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 33,
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 7,
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 4,
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 9000,
    }
    for mode in ("disable", "require"):
        assert await options_of(server.dsn(sslmode=mode, **asked), *options) == list(options.values())
    assert await options_of(server.dsn(), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == [1]
    assert await options_of(server.dsn(keepalives="0"), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == [0]


async def options_of(dsn: str, *options: tuple[int, int]) -> list[int]:
    database = await open_database(dsn, size=1, timeout=20, application="test")
    try:
        async with database.connection() as conn:
            used = conn.raw._con._transport.get_extra_info("socket")  # type: ignore[attr-defined]
            return [used.getsockopt(*option) for option in options]
    finally:
        await database.close()


async def test_both_drivers_verify_the_certificate_alike(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(server.root).parent
    for mode, host, root, taken in (
        ("verify-full", "localhost", "root.pem", True),
        ("verify-full", "127.0.0.1", "root.pem", False),
        ("verify-ca", "127.0.0.1", "root.pem", True),
        ("verify-ca", "localhost", "other.pem", False),
        ("require", "127.0.0.1", "root.pem", True),
        ("require", "localhost", "other.pem", False),
    ):
        dsn = server.dsn(host, sslmode=mode, sslrootcert=str(folder / root))
        if taken:
            assert await encryption_counts(server, dsn) == (2, 0), (mode, host, root)
        else:
            assert "certificate" in await both_refuse(dsn), (mode, host, root)
    monkeypatch.setenv("SSL_CERT_FILE", server.root)
    assert await encryption_counts(server, server.dsn(sslrootcert="system")) == (2, 0)
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "other.pem"))
    assert "certificate" in await both_refuse(server.dsn(sslrootcert="system"))


@pytest.mark.parametrize(
    ("mode", "encrypted"), [("disable", False), ("allow", False), ("prefer", True), ("require", True)]
)
async def test_both_drivers_encrypt_alike(mode: str, encrypted: bool, server: Server) -> None:
    assert await encryption_counts(server, server.dsn(sslmode=mode)) == ((2, 0) if encrypted else (0, 2))


async def encryption_counts(server: Server, dsn: str) -> tuple[int, int]:
    """Returns how many of the two connections are encrypted, and how many are not."""
    before = server.front.encrypted, server.front.plain
    assert await both(dsn, ONE) == (1, 1)
    return server.front.encrypted - before[0], server.front.plain - before[1]


@pytest.mark.parametrize("command", ["serve", "worker", "migrate", "check", "cleanup", "ingest"])
def test_each_command_refuses_a_parameter_that_a_driver_cannot_honour(command: str, tmp_path: Path) -> None:
    (tmp_path / "comments.jsonl").write_text("")
    more = ["comments.jsonl"] if command == "ingest" else []
    done = forked.run(
        [sys.executable, "-m", "comment_monitor", command, *more],
        env={**os.environ, "POSTGRES_DSN": "postgresql://u:geheim@h/c?hostaddr=192.0.2.1", "CELERY_BROKER_URL": "redis://h"},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "hostaddr together with host" in done.stderr
    assert "geheim" not in done.stderr + done.stdout
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
