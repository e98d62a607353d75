"""The embedded servers alone: what they keep, what they survive, and what they say where they can't run."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import kombu
import psutil
import psycopg2
import pytest
import redis

from comment_monitor.devserver.endpoints import only_one, published, read_endpoints
from comment_monitor.devserver.errors import EmbeddedError
from comment_monitor.devserver.folders import LONGEST_SOCKET_FOLDER
from comment_monitor.devserver.postgres_process import EmbeddedPostgres, postgres_server
from comment_monitor.devserver.redis_process import redis_server

START_AND_STAY = """
import signal, sys
from pathlib import Path
from comment_monitor.devserver.postgres_process import EmbeddedPostgres

server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
print(server.child.pid, flush=True)
signal.pause()
"""


@contextmanager
def open_folder() -> Iterator[Path]:
    # Not pytest's own folder: it is closed to others, such as the user that PostgreSQL runs as where we are root.
    with tempfile.TemporaryDirectory(prefix="embedded-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder / "data"


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    with open_folder() as folder:
        with postgres_server(folder / "data"):
            pass
        yield folder / "data"


@pytest.fixture
def used_dir(made: Path, data_dir: Path) -> Path:
    """A data folder that was in use before; a copy, because initdb takes seconds."""
    subprocess.run(["cp", "-a", made, data_dir], check=True)
    return data_dir


def execute(dsn: str, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def start_and_stay(data_dir: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", START_AND_STAY, str(data_dir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill(process: "subprocess.Popen[str]") -> None:
    with process:
        process.kill()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def one_line(error: pytest.ExceptionInfo[EmbeddedError]) -> str:
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def test_a_fresh_postgres_has_the_database_on_a_socket_alone_and_writes_through_to_the_disk(data_dir: Path) -> None:
    with postgres_server(data_dir) as server:
        settings = ("listen_addresses", "fsync", "synchronous_commit", "server_encoding")
        assert [execute(server.dsn, f"SHOW {name}") for name in settings] == [
            [("",)],
            [("on",)],
            [("on",)],
            [("UTF8",)],
        ]
        assert execute(server.dsn, "SELECT current_database()") == [("comments",)]
        assert not psutil.Process(server.child.pid).net_connections("inet")


def test_a_second_start_finds_what_the_first_stored(used_dir: Path) -> None:
    for expected in (1, 2):
        with postgres_server(used_dir) as server:
            execute(server.dsn, "CREATE TABLE IF NOT EXISTS kept (n int)")
            execute(server.dsn, "INSERT INTO kept VALUES (1)")
            assert execute(server.dsn, "SELECT count(*) FROM kept") == [(expected,)]


def test_what_was_committed_is_there_after_a_power_cut(used_dir: Path) -> None:
    with postgres_server(used_dir) as server:
        execute(server.dsn, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        server.kill()
        assert (used_dir / "postgres" / "postmaster.pid").exists()
        server.start()
        assert execute(server.dsn, "SELECT count(*) FROM kept") == [(1000,)]


def test_a_start_waits_for_the_server_of_a_parent_that_was_killed(used_dir: Path) -> None:
    parent = start_and_stay(used_dir)
    assert parent.stdout
    orphan = psutil.Process(int(parent.stdout.readline()))
    kill(parent)
    with postgres_server(used_dir) as server:
        # Between the moment at which it lets go of the folder and its end there is another.
        until(lambda: not alive(orphan))
        # So it is the new one that answers.
        assert execute(server.dsn, "SELECT 1") == [(1,)]


def test_a_kill_in_the_middle_of_initdb_does_not_hinder_the_next_start(data_dir: Path) -> None:
    parent = start_and_stay(data_dir)
    until(lambda: list(data_dir.glob("postgres.new-*/base")))
    kill(parent)
    assert not (data_dir / "postgres").exists()
    with postgres_server(data_dir) as server:
        assert execute(server.dsn, "SELECT current_database()") == [("comments",)]


def test_nothing_of_a_stopped_server_is_left(used_dir: Path) -> None:
    with postgres_server(used_dir) as server:
        family = [server.child.pid, *(one.pid for one in psutil.Process(server.child.pid).children(recursive=True))]
        open_connection = psycopg2.connect(server.dsn)
    assert not [pid for pid in family if psutil.pid_exists(pid)]
    open_connection.close()


def test_a_folder_that_can_not_be_made_is_named_in_one_line(data_dir: Path) -> None:
    data_dir.write_text("a file")
    with pytest.raises(EmbeddedError) as error:
        EmbeddedPostgres(data_dir / "below").start()
    assert str(data_dir) in one_line(error)
    assert "--data-dir" in one_line(error)


def test_data_of_another_major_version_is_left_alone_and_both_versions_are_named(used_dir: Path) -> None:
    version = used_dir / "postgres" / "PG_VERSION"
    ours = version.read_text().strip()
    version.write_text("9\n")
    with pytest.raises(EmbeddedError, match=rf"PostgreSQL 9, this is {ours}") as error:
        EmbeddedPostgres(used_dir).start()
    one_line(error)


def test_a_server_that_ends_at_once_gives_the_reason_from_its_log(used_dir: Path) -> None:
    (used_dir / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedError, match="could not find the database system") as error:
        EmbeddedPostgres(used_dir).start()
    assert "postgres.log" in one_line(error)


def test_a_path_too_long_for_a_socket_gets_a_short_private_one(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that the short one goes with the test.
    monkeypatch.setattr(tempfile, "tempdir", str(data_dir.parent))
    deep = data_dir / ("x" * LONGEST_SOCKET_FOLDER)
    with postgres_server(deep) as server, redis_server(deep) as cache:
        folder = Path(str(execute(server.dsn, "SHOW unix_socket_directories")[0][0]))
        assert deep not in folder.parents
        assert folder.stat().st_mode & 0o077 == 0
        assert redis.Redis.from_url(cache.url).ping()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as another user")
def test_a_folder_above_that_is_closed_to_the_servers_user_is_named_and_stays_closed(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700)
    with pytest.raises(EmbeddedError) as error:
        EmbeddedPostgres(data_dir / "below").start()
    assert f"can't enter {data_dir}:" in one_line(error)
    assert data_dir.stat().st_mode & 0o777 == 0o700


def test_redis_answers_on_a_socket_alone_and_takes_the_queue(data_dir: Path) -> None:
    with redis_server(data_dir) as server:
        assert redis.Redis.from_url(server.url).config_get("port") == {"port": "0"}
        with kombu.Connection(server.broker_url) as broker, broker.SimpleQueue("test") as queue:
            queue.put({"n": 1})
            # The cache may be emptied at any time; the queue is in a database of its own.
            redis.Redis.from_url(server.url).flushdb()
            assert queue.get(timeout=10).payload == {"n": 1}


def test_redis_comes_back_empty_after_a_kill(data_dir: Path) -> None:
    with redis_server(data_dir) as server:
        redis.Redis.from_url(server.url).set("key", "value")
        server.kill()
        server.start()
        assert redis.Redis.from_url(server.url).get("key") is None


def test_endpoints_are_private_and_there_only_while_their_up_lives(data_dir: Path) -> None:
    assert read_endpoints(data_dir) is None
    with only_one(data_dir), published(data_dir, {"POSTGRES_DSN": "postgresql:///x"}):
        assert read_endpoints(data_dir) == {"POSTGRES_DSN": "postgresql:///x"}
        assert (data_dir / "endpoints.json").stat().st_mode & 0o777 == 0o600
    assert read_endpoints(data_dir) is None


def test_endpoints_of_an_up_that_was_killed_are_not_given_out(data_dir: Path) -> None:
    with only_one(data_dir), published(data_dir, {"POSTGRES_DSN": "postgresql:///x"}):
        left = (data_dir / "endpoints.json").read_bytes()
    (data_dir / "endpoints.json").write_bytes(left)
    assert read_endpoints(data_dir) is None
    with only_one(data_dir):
        assert read_endpoints(data_dir) is None


def test_one_folder_is_held_by_one_process_which_is_named(data_dir: Path) -> None:
    with only_one(data_dir), pytest.raises(EmbeddedError, match=rf"process {os.getpid()}") as error, only_one(data_dir):
        pass
    one_line(error)


def test_initdb_does_not_outlive_a_parent_that_was_killed(data_dir: Path) -> None:
    parent = start_and_stay(data_dir)
    until(lambda: list(data_dir.glob("postgres.new-*/base")))
    kill(parent)
    until(lambda: not [one for one in psutil.process_iter() if _works_in(one, data_dir)])


def _works_in(process: psutil.Process, data_dir: Path) -> bool:
    try:
        return any(str(data_dir) in part for part in process.cmdline())
    except psutil.Error:
        return False
