"""The embedded PostgreSQL and Redis: their data, their recovery, and the errors of a start that fails."""

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
from tests.conftest import execute

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
    # Not pytest's folder: PostgreSQL runs as another user if the tests run as root, and could not enter it.
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
    """A data folder that was used before; a copy, because initdb takes seconds."""
    subprocess.run(["cp", "-a", made, data_dir], check=True)
    return data_dir


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


def test_a_new_postgres_listens_on_a_socket_only_and_commits_to_disk(data_dir: Path) -> None:
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


def test_a_second_start_finds_the_stored_data(used_dir: Path) -> None:
    for expected in (1, 2):
        with postgres_server(used_dir) as server:
            execute(server.dsn, "CREATE TABLE IF NOT EXISTS kept (n int)")
            execute(server.dsn, "INSERT INTO kept VALUES (1)")
            assert execute(server.dsn, "SELECT count(*) FROM kept") == [(expected,)]


def test_committed_data_survives_a_power_cut(used_dir: Path) -> None:
    with postgres_server(used_dir) as server:
        execute(server.dsn, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        server.kill()
        assert (used_dir / "postgres" / "postmaster.pid").exists()
        server.start()
        assert execute(server.dsn, "SELECT count(*) FROM kept") == [(1000,)]


def test_a_start_waits_for_the_server_of_a_killed_parent(used_dir: Path) -> None:
    parent = start_and_stay(used_dir)
    assert parent.stdout
    orphan = psutil.Process(int(parent.stdout.readline()))
    kill(parent)
    with postgres_server(used_dir) as server:
        # The killed parent's server may end some time after it releases the folder.
        until(lambda: not alive(orphan))
        # The new server responds.
        assert execute(server.dsn, "SELECT 1") == [(1,)]


def test_a_kill_during_initdb_does_not_affect_the_next_start(data_dir: Path) -> None:
    parent = start_and_stay(data_dir)
    until(lambda: list(data_dir.glob("postgres.new-*/base")))
    kill(parent)
    assert not (data_dir / "postgres").exists()
    with postgres_server(data_dir) as server:
        assert execute(server.dsn, "SELECT current_database()") == [("comments",)]


def test_no_process_of_a_stopped_server_remains(used_dir: Path) -> None:
    with postgres_server(used_dir) as server:
        family = [server.child.pid, *(child.pid for child in psutil.Process(server.child.pid).children(recursive=True))]
        open_connection = psycopg2.connect(server.dsn)
    assert not [pid for pid in family if psutil.pid_exists(pid)]
    open_connection.close()


def test_an_unusable_data_folder_is_a_one_line_error_that_names_the_folder(data_dir: Path) -> None:
    data_dir.write_text("a file")
    with pytest.raises(EmbeddedError) as error:
        EmbeddedPostgres(data_dir / "below").start()
    assert str(data_dir) in one_line(error)
    assert "--data-dir" in one_line(error)


def test_data_of_another_major_version_is_an_error_that_names_both_versions(used_dir: Path) -> None:
    version = used_dir / "postgres" / "PG_VERSION"
    ours = version.read_text().strip()
    version.write_text("9\n")
    with pytest.raises(EmbeddedError, match=rf"PostgreSQL 9, this is {ours}") as error:
        EmbeddedPostgres(used_dir).start()
    one_line(error)


def test_a_failed_start_reports_the_reason_from_the_server_log(used_dir: Path) -> None:
    (used_dir / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedError, match="could not find the database system") as error:
        EmbeddedPostgres(used_dir).start()
    assert "postgres.log" in one_line(error)


def test_a_path_too_long_for_a_socket_is_replaced_by_a_short_private_path(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The short path is removed with the test.
    monkeypatch.setattr(tempfile, "tempdir", str(data_dir.parent))
    deep = data_dir / ("x" * LONGEST_SOCKET_FOLDER)
    with postgres_server(deep) as server, redis_server(deep) as cache:
        folder = Path(str(execute(server.dsn, "SHOW unix_socket_directories")[0][0]))
        assert deep not in folder.parents
        assert folder.stat().st_mode & 0o077 == 0
        assert redis.Redis.from_url(cache.url).ping()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as another user")
def test_a_parent_folder_closed_to_the_server_user_is_named_and_stays_closed(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700)
    with pytest.raises(EmbeddedError) as error:
        EmbeddedPostgres(data_dir / "below").start()
    assert f"can't enter {data_dir}:" in one_line(error)
    assert data_dir.stat().st_mode & 0o777 == 0o700


def test_redis_listens_on_a_socket_only_and_holds_the_queue(data_dir: Path) -> None:
    with redis_server(data_dir) as server:
        assert redis.Redis.from_url(server.url).config_get("port") == {"port": "0"}
        with kombu.Connection(server.broker_url) as broker, broker.SimpleQueue("test") as queue:
            queue.put({"n": 1})
            # The cache may be emptied at any time; the queue has its own database.
            redis.Redis.from_url(server.url).flushdb()
            assert queue.get(timeout=10).payload == {"n": 1}


def test_redis_is_empty_after_a_kill(data_dir: Path) -> None:
    with redis_server(data_dir) as server:
        redis.Redis.from_url(server.url).set("key", "value")
        server.kill()
        server.start()
        assert redis.Redis.from_url(server.url).get("key") is None


def test_endpoints_are_private_and_exist_only_while_up_runs(data_dir: Path) -> None:
    assert read_endpoints(data_dir) is None
    with only_one(data_dir), published(data_dir, {"POSTGRES_DSN": "postgresql:///x"}):
        assert read_endpoints(data_dir) == {"POSTGRES_DSN": "postgresql:///x"}
        assert (data_dir / "endpoints.json").stat().st_mode & 0o777 == 0o600
    assert read_endpoints(data_dir) is None


def test_endpoints_of_a_killed_up_are_ignored(data_dir: Path) -> None:
    with only_one(data_dir), published(data_dir, {"POSTGRES_DSN": "postgresql:///x"}):
        left = (data_dir / "endpoints.json").read_bytes()
    (data_dir / "endpoints.json").write_bytes(left)
    assert read_endpoints(data_dir) is None
    with only_one(data_dir):
        assert read_endpoints(data_dir) is None


def test_a_folder_in_use_is_an_error_that_names_the_process(data_dir: Path) -> None:
    with only_one(data_dir), pytest.raises(EmbeddedError, match=rf"process {os.getpid()}") as error, only_one(data_dir):
        pass
    one_line(error)


def test_initdb_does_not_outlive_a_killed_parent(data_dir: Path) -> None:
    parent = start_and_stay(data_dir)
    until(lambda: list(data_dir.glob("postgres.new-*/base")))
    kill(parent)
    until(lambda: not [process for process in psutil.process_iter() if _works_in(process, data_dir)])


def _works_in(process: psutil.Process, data_dir: Path) -> bool:
    try:
        return any(str(data_dir) in part for part in process.cmdline())
    except psutil.Error:
        return False
