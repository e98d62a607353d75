"""Servers and the service's processes for a measurement, in a temporary folder, on loopback; removed at the end."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psutil
import psycopg2
import redis
from kombu import Queue
from tests.support.rabbitmq import RabbitMQ, free_port, server_script

from comment_monitor.core.config import load
from comment_monitor.devserver.postgres_process import EmbeddedPostgres
from comment_monitor.devserver.redis_process import EmbeddedRedis
from comment_monitor.messaging.celery_app import QUEUE_NAME, make_celery
from comment_monitor.storage.migrations import upgrade

START_TIMEOUT: Final = 60.0
PROGRAM: Final = ("-m", "comment_monitor")
MIB: Final = 1024 * 1024


class Process:
    """A `comment-monitor` process."""

    def __init__(self, environment: Mapping[str, str], log: Path, *arguments: str, program: Sequence[str] = PROGRAM):
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                [sys.executable, *program, *arguments],
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.log = log

    @property
    def pid(self) -> int:
        """The PID of the started process."""
        return self._child.pid

    def memory(self) -> list[float]:
        """Returns the unshared memory (USS) in MiB of the process and each of its children."""
        return [process.memory_full_info().uss / MIB for process in self._tree()]

    def resident(self) -> list[float]:
        """Returns the resident memory, including shared pages, in MiB of the process and each of its children."""
        return [process.memory_info().rss / MIB for process in self._tree()]

    def processor_seconds(self) -> float:
        """Returns the processor seconds of the process and its children since their start."""
        times = [process.cpu_times() for process in self._tree()]
        return sum(spent.user + spent.system for spent in times)

    def _tree(self) -> list[psutil.Process]:
        parent = psutil.Process(self._child.pid)
        return [parent, *parent.children(recursive=True)]

    def check(self) -> None:
        """Raises RuntimeError if the process has ended."""
        if self._child.poll() is not None:
            raise RuntimeError(f"A process ended: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Stops the process as Kubernetes does, with SIGTERM."""
        self._child.terminate()
        self._child.wait(60)


class System:
    """The servers, and the service's processes that a measurement starts."""

    def __init__(self, folder: Path, stack: ExitStack):
        self._folder = folder
        self._stack = stack
        self.postgres = EmbeddedPostgres(folder)
        self.redis = EmbeddedRedis(folder)
        self.rabbitmq = RabbitMQ(folder / "rabbitmq") if server_script() else None

    def start(self) -> None:
        """Starts the servers and migrates the database."""
        self.postgres.start()
        self._stack.callback(self.postgres.stop)
        self.redis.start()
        self._stack.callback(self.redis.stop)
        if self.rabbitmq:
            self.rabbitmq.start()
            self._stack.callback(self.rabbitmq.stop)
        upgrade(self.postgres.dsn)

    @property
    def dsn(self) -> str:
        """The address of the database."""
        return self.postgres.dsn

    @property
    def broker(self) -> str:
        """The broker's name: RabbitMQ, or Redis if RabbitMQ is not installed."""
        return "RabbitMQ" if self.rabbitmq else "Redis"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the service's processes."""
        return {
            "POSTGRES_DSN": self.dsn,
            "REDIS_URL": self.redis.url,
            "CELERY_BROKER_URL": self.rabbitmq.url if self.rabbitmq else self.redis.broker_url,
            "COMMENT_RATE_LIMIT_PER_MINUTE": "0",
            "LOG_LEVEL": "WARNING",
        }

    def child_environment(self) -> dict[str, str]:
        """Returns the environment of a command that uses these servers."""
        return {**os.environ, **self.environment}

    @contextmanager
    def serving(self, *, program: Sequence[str] = PROGRAM, **settings: str) -> Iterator[tuple[str, Process]]:
        """Starts an API process; yields its URL and the process. `program`: Python's arguments."""
        port = free_port()
        arguments = ("serve", "--port", str(port), "--metrics-port", str(free_port()))
        process = Process(self.environment | settings, self._folder / "serve.log", *arguments, program=program)
        try:
            url = f"http://127.0.0.1:{port}"
            _until_it_answers(url, process)
            yield url, process
        finally:
            process.stop()

    @contextmanager
    def working(self, *, program: Sequence[str] = PROGRAM, **settings: str) -> Iterator[Process]:
        """Starts a worker process and its Celery parent. `program`: Python's arguments."""
        arguments = ("worker", "--concurrency", "1", "--metrics-port", "0")
        process = Process(self.environment | settings, self._folder / "worker.log", *arguments, program=program)
        try:
            yield process
        finally:
            process.stop()

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Runs a statement and returns its rows."""
        conn = psycopg2.connect(self.dsn)
        try:
            conn.autocommit = True
            with conn.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            conn.close()

    def count(self, statement: str) -> int:
        """Returns the number that a statement returns."""
        [[number]] = self.execute(statement)
        return int(str(number))

    def forget(self) -> None:
        """Removes all comments, messages and keys in Redis, and flushes PostgreSQL, so that all rounds start alike."""
        self.execute("TRUNCATE comments, comment_versions, analysis_outbox, comment_analyses")
        self.forget_cache()
        with make_celery(load(self.environment)).connection_for_write() as connection:
            queue = Queue(QUEUE_NAME, durable=True)(connection.default_channel)
            queue.declare()
            queue.purge()
        self.execute("CHECKPOINT")

    def forget_cache(self) -> None:
        """Removes everything in Redis."""
        with redis.Redis.from_url(self.redis.url) as client:
            client.flushdb()


def _until_it_answers(url: str, process: Process) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        process.check()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def running() -> Iterator[System]:
    """Runs the servers until the end of the block or until SIGTERM; stops every process it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        folder.chmod(0o755)
        system = System(folder, stack)
        system.start()
        yield system
