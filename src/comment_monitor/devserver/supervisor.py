"""`comment-monitor up`: servers, migrations, API and worker on this machine, all of them stopped at the end."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

from comment_monitor.core.config import load
from comment_monitor.devserver.child_process import how_it_ended, start_child, stop_child
from comment_monitor.devserver.endpoints import only_one, published
from comment_monitor.devserver.errors import EmbeddedError
from comment_monitor.devserver.folders import make_folder
from comment_monitor.devserver.postgres_process import EmbeddedPostgres
from comment_monitor.devserver.redis_process import EmbeddedRedis

HEALTH_TIMEOUT: Final = 60.0
ORPHANS_TIMEOUT: Final = 30.0
POLL: Final = 0.03
# Seconds between two checks of the children, and seconds that a second Ctrl-C waits for each child.
WATCH: Final = 0.1
HURRY: Final = 1.0
# Free bytes below which a disk counts as full: PostgreSQL allocates each WAL file as a whole.
FULL: Final = 16 * 2**20
# Seconds that a child may need beyond the times in its settings.
MARGIN: Final = 20.0

API: Final = "The API"
WORKER: Final = "The worker"
# The children in the order in which they stop, and the signals for each.
STOP_SIGNALS: Final = {API: (signal.SIGTERM,), WORKER: (signal.SIGTERM, signal.SIGQUIT)}

_PROGRAM: Final = (sys.executable, "-m", "comment_monitor")


class Where(NamedTuple):
    """Where `up` listens and keeps its data."""

    host: str
    port: int
    metrics_port: int
    data_dir: Path

    def url(self, port: int, path: str) -> str:
        """Returns the URL of a path that `up` serves."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}{path}"


class Part(NamedTuple):
    """A process that has to live as long as `up` does."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path | None


class Interrupted(Exception):
    """A signal asked to stop before everything was up."""


class Stop:
    """Set by SIGINT and SIGTERM; a second signal calls `hurry`, and shortens the waits for the children."""

    def __init__(self, hurry: Callable[[], None]) -> None:
        # Not a threading.Event: the code that the handler interrupts may hold its lock.
        self._asked = False
        self._hurry = hurry
        self.hurried = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Handles a signal."""
        if self._asked:
            self.hurried = True
            self._hurry()
        self._asked = True

    def wait(self, seconds: float) -> bool:
        """Waits that long unless the stop is already set; returns whether it is set."""
        if not self._asked:
            time.sleep(seconds)
        return self._asked

    def patience(self, seconds: float) -> float:
        """Returns the seconds to wait for a child that may need `seconds` to end."""
        return HURRY if self.hurried else seconds


class Supervisor:
    """Starts all parts in order and watches them."""

    def __init__(self, where: Where, environment: Mapping[str, str]):
        self._where = where
        self._environment = dict(environment)
        self._parts: list[Part] = []
        self._postgres: EmbeddedPostgres | None = None
        self._stop = Stop(self._end_now)

    @contextmanager
    def running(self) -> Iterator[dict[str, str]]:
        """Runs everything until the end of the block; yields the servers' addresses.

        Raises:
            EmbeddedError: a part can't start; one line says what to do.
            Interrupted: a signal came first.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        with ExitStack() as stack:
            make_folder(self._where.data_dir)
            was_killed = stack.enter_context(only_one(self._where.data_dir))
            self._check_ports(patience=ORPHANS_TIMEOUT if was_killed else 0)
            endpoints = self._start_servers(stack)
            endpoints["PROMETHEUS_MULTIPROC_DIR"] = str(self._empty_metrics_folder())
            self._environment.update(endpoints)
            self._environment.setdefault("LOG_LEVEL_FILE", str(self._where.data_dir / "log-level"))
            self._migrate()
            stack.callback(self._stop_children)
            self._start_children()
            self._wait_until_healthy()
            addresses = {
                "API_URL": self._where.url(self._where.port, ""),
                "METRICS_URL": self._where.url(self._where.metrics_port, "/metrics"),
            }
            stack.enter_context(published(self._where.data_dir, {**endpoints, **addresses}))
            yield endpoints

    def watch(self) -> None:
        """Returns when a signal asks to stop.

        Raises:
            EmbeddedError: a part has ended unasked, or the data folder is gone.
        """
        while not self._stop.wait(WATCH):
            self._check_parts()
            self._check_folder()

    def _check_parts(self) -> None:
        for part in self._parts:
            if part.process.poll() is not None:
                see = f"; see {part.log}" if part.log else ""
                raise EmbeddedError(
                    f"{part.name} {how_it_ended(part.process)}{see}. Everything else was stopped.{self._is_full()}"
                )

    def _is_full(self) -> str:
        """Returns advice if the data's disk is full, which ends servers; otherwise an empty text."""
        with suppress(OSError):
            if shutil.disk_usage(self._where.data_dir).free < FULL:
                return f" The disk that holds {self._where.data_dir} is full: free space there, then start again."
        return ""

    def _check_folder(self) -> None:
        if self._postgres and not self._postgres.is_whole:
            raise EmbeddedError(
                f"PostgreSQL's files in {self._where.data_dir} are gone, moved or deleted: new data might "
                "not be kept, so everything was stopped. Put them back, or start again with an empty folder."
            )

    def _check_ports(self, *, patience: float) -> None:
        """Waits for the ports: the API of a killed `up` still finishes accepted requests, and frees its ports soon."""
        deadline = time.monotonic() + patience
        while True:
            try:
                self._hold_ports()
            except EmbeddedError:
                if time.monotonic() >= deadline:
                    raise
                if self._stop.wait(POLL):
                    raise Interrupted from None
            else:
                return

    def _hold_ports(self) -> None:
        host = self._where.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # All ports stay bound until the last is checked, so that the same port for both is found too.
        with ExitStack() as stack:
            for port, option in ((self._where.port, "--port"), (self._where.metrics_port, "--metrics-port")):
                probe = stack.enter_context(socket.socket(family))
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                    probe.listen()
                except OSError as error:
                    advice = (
                        "choose another --host"
                        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
                        else (f"stop what uses it, or choose another with {option}")
                    )
                    raise EmbeddedError(f"Port {port} on {host} can't be used ({error.strerror}): {advice}.") from None

    def _start_servers(self, stack: ExitStack) -> dict[str, str]:
        """Starts the servers that the environment does not name."""
        given = self._environment
        postgres = None if given.get("POSTGRES_DSN") else EmbeddedPostgres(self._where.data_dir)
        broker = given.get("CELERY_BROKER_URL") or given.get("RABBITMQ_URL")
        redis = None if given.get("REDIS_URL") and broker else EmbeddedRedis(self._where.data_dir)
        for server in (redis, postgres):
            if server:
                stack.callback(server.stop)
        # From this thread, one after the other: a child ends with the thread that started it.
        if postgres:
            postgres.start()
            self._postgres = postgres
            self._parts.append(Part("PostgreSQL", postgres.child, postgres.log))
        if redis:
            redis.start()
            self._parts.append(Part("Redis", redis.child, redis.log))
        return {
            "POSTGRES_DSN": postgres.dsn if postgres else given["POSTGRES_DSN"],
            "REDIS_URL": given.get("REDIS_URL") or (redis.url if redis else ""),
            "CELERY_BROKER_URL": broker or (redis.broker_url if redis else ""),
        }

    def _empty_metrics_folder(self) -> Path:
        """Returns the folder where API, worker and `ingest` keep their counts; each start begins at zero."""
        folder = self._where.data_dir / "metrics"
        shutil.rmtree(folder, ignore_errors=True)
        return make_folder(folder)

    def _migrate(self) -> None:
        with tempfile.TemporaryFile("w+") as output:
            child = start_child([*_PROGRAM, "migrate"], environment=self._environment, output=output)
            while child.poll() is None:
                if self._stop.wait(POLL):
                    # Its transaction is rolled back; the next start begins it again.
                    stop_child(child, signal.SIGTERM)
                    raise Interrupted
            output.seek(0)
            lines = output.read().strip().splitlines()
        if child.returncode:
            raise EmbeddedError(lines[-1].removeprefix("Error: ") if lines else "The database could not be migrated.")

    def _start_children(self) -> None:
        host = ["--host", self._where.host]
        serve = ["serve", *host, "--port", str(self._where.port), "--metrics-port", str(self._where.metrics_port)]
        # The worker's metrics are on the API's port: both share a folder.
        worker = ["worker", "--metrics-port", "0"]
        for name, arguments in ((API, serve), (WORKER, worker)):
            self._parts.append(Part(name, start_child([*_PROGRAM, *arguments], environment=self._environment), None))

    def _stop_children(self) -> None:
        """Stops the API first, which finishes accepted requests; then the worker, which finishes begun batches."""
        settings = load(self._environment)
        # The API needs its drain delay, then the time of a batch; a worker's task is killed at its own time limit.
        needs = {
            API: settings.drain_delay + settings.processing_timeout + MARGIN,
            WORKER: settings.processing_timeout + MARGIN,
        }
        for name, signals in STOP_SIGNALS.items():
            for part in self._parts:
                if part.name == name:
                    stop_child(part.process, *signals, patience=self._stop.patience(needs[name]))
                    _end_session(part.process.pid)

    def _end_now(self) -> None:
        """Kills API and worker: requests without an answer may be repeated, and begun batches are analysed again."""
        for part in self._parts:
            if part.name in STOP_SIGNALS:
                _end_session(part.process.pid)

    def _wait_until_healthy(self) -> None:
        url = self._where.url(self._where.port, "/health")
        # A proxy named in the environment can't reach this machine's loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + HEALTH_TIMEOUT
        while time.monotonic() < deadline:
            if self._stop.wait(POLL):
                raise Interrupted
            self._check_parts()
            with suppress(OSError), opener.open(url, timeout=2):
                return
        raise EmbeddedError(f"The API did not answer on {url} within {HEALTH_TIMEOUT:.0f} s.")


def _end_session(leader: int) -> None:
    """Kills the rest of a child's session: a killed worker leaves its pool behind."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def run(where: Where, announce: Callable[[Where, Mapping[str, str]], None]) -> None:
    """Runs everything until SIGINT or SIGTERM; `announce` gets the addresses once all is up.

    Raises:
        EmbeddedError: a part can't start, or ended unasked.
    """
    supervisor = Supervisor(where, os.environ)
    with suppress(Interrupted), supervisor.running() as endpoints:
        announce(where, endpoints)
        supervisor.watch()
