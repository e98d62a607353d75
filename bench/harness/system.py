"""Servers and our processes for a measurement, in a temporary folder, on loopback; all of it gone at the end."""

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
    """One `comment-monitor` process."""

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
        """Of the process that was started."""
        return self._child.pid

    def memory(self) -> list[float]:
        """MiB of memory (USS: what would be free again without it) of the process and each of its children."""
        one = psutil.Process(self._child.pid)
        return [part.memory_full_info().uss / MIB for part in (one, *one.children(recursive=True))]

    def resident(self) -> list[float]:
        """MiB of memory of the process and each of its children, with what they share."""
        one = psutil.Process(self._child.pid)
        return [part.memory_info().rss / MIB for part in (one, *one.children(recursive=True))]

    def processor_seconds(self) -> float:
        """Of the process and each of its children, since they began."""
        one = psutil.Process(self._child.pid)
        times = [part.cpu_times() for part in (one, *one.children(recursive=True))]
        return sum(part.user + part.system for part in times)

    def check(self) -> None:
        """Raises where it has ended."""
        if self._child.poll() is not None:
            raise RuntimeError(f"A process ended: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """As Kubernetes does."""
        self._child.terminate()
        self._child.wait(60)


class System:
    """The servers, and on them as many of our processes as a measurement wants."""

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
        """Of the database."""
        return self.postgres.dsn

    @property
    def broker(self) -> str:
        """RabbitMQ's name, or Redis's where RabbitMQ is not installed."""
        return "RabbitMQ" if self.rabbitmq else "Redis"

    @property
    def environment(self) -> dict[str, str]:
        """What our processes are told."""
        return {
            "POSTGRES_DSN": self.dsn,
            "REDIS_URL": self.redis.url,
            "CELERY_BROKER_URL": self.rabbitmq.url if self.rabbitmq else self.redis.broker_url,
            "COMMENT_RATE_LIMIT_PER_MINUTE": "0",
            "LOG_LEVEL": "WARNING",
        }

    def child_environment(self) -> dict[str, str]:
        """The environment of a command that works on these servers."""
        return {**os.environ, **self.environment}

    @contextmanager
    def serving(self, *, program: Sequence[str] = PROGRAM, **settings: str) -> Iterator[tuple[str, Process]]:
        """One API process; yields its URL and it. `program`: what Python is to run."""
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
        """One worker process (and the parent that Celery gives it). `program`: what Python is to run."""
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
        """The one number that a statement returns."""
        [[number]] = self.execute(statement)
        return int(str(number))

    def forget(self) -> None:
        """Every round begins alike: no comment, no message, nothing in Redis, nothing left to be flushed."""
        self.execute("TRUNCATE comments, comment_versions, analysis_outbox, comment_analyses")
        self.forget_cache()
        with make_celery(load(self.environment)).connection_for_write() as connection:
            queue = Queue(QUEUE_NAME, durable=True)(connection.default_channel)
            queue.declare()
            queue.purge()
        self.execute("CHECKPOINT")

    def forget_cache(self) -> None:
        """Nothing in Redis."""
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
    """The servers, until the end of the block, or until SIGTERM: nothing that was started is left."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        folder.chmod(0o755)
        system = System(folder, stack)
        system.start()
        yield system
