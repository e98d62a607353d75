"""The analysis queue on a real broker, seen from outside: by another client, and with a wire that can be cut."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

import amqp

from comment_monitor.messaging.celery_app import QUEUE_NAME

PIECE: Final = 65_536
PATIENCE: Final = 60


@contextmanager
def channel(url: str) -> Iterator[amqp.Channel]:
    """A channel of a client that is not Celery."""
    address = urlsplit(url)
    vhost = address.path.removeprefix("/") or "/"
    with amqp.Connection(f"{address.hostname}:{address.port}", virtual_host=vhost) as connection:
        yield connection.channel()


def messages(url: str) -> list[amqp.Message]:
    """Takes all that waits."""
    try:
        with channel(url) as one:
            return [*iter(lambda: one.basic_get(QUEUE_NAME, no_ack=True), None)]
    except amqp.NotFound:
        return []


def empty(url: str) -> None:
    """Takes what an earlier test left, once nobody works it off any more.

    The broker sees some time later that a worker was killed, and only then gives back what that one held.
    """
    deadline = time.monotonic() + PATIENCE
    with suppress(amqp.NotFound), channel(url) as one:
        while (declared := one.queue_declare(QUEUE_NAME, passive=True)) and declared[2]:
            assert time.monotonic() < deadline, "a worker of an earlier test is still there"
            time.sleep(0.02)
        one.queue_purge(QUEUE_NAME)


def named(url: str) -> list[list[int]]:
    """Takes all that waits: the outbox rows that each message names."""
    return [json.loads(one.body)[0] for one in messages(url)]


def outbox_ids(url: str) -> list[int]:
    """The same, whichever message it is that names them."""
    return [id_ for ids in named(url) for id_ in ids]


class Wire:
    """A TCP connection's way to a server: it carries, or keeps the server's answers to itself, or leads nowhere.

    `path`: the server's socket, where it listens on none of TCP.
    """

    def __init__(self, url: str, *, path: str | None = None):
        self._target = urlsplit(url)
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.replace(f":{self._target.port}/", f":{self._listener.getsockname()[1]}/")
        self.answers = True
        self.open = True
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self.open:
                    near.close()
                    continue
                far = self._connect()
                self._sockets += [near, far]
                threading.Thread(target=self._carry, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._carry, args=(far, near, True), daemon=True).start()

    def _connect(self) -> socket.socket:
        if self._path is None:
            return socket.create_connection((self._target.hostname, self._target.port))
        far = socket.socket(socket.AF_UNIX)
        far.connect(self._path)
        return far

    def _carry(self, here: socket.socket, there: socket.socket, answering: bool) -> None:
        with suppress(OSError):
            while piece := here.recv(PIECE):
                if self.answers or not answering:
                    there.sendall(piece)
        for one in (here, there):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Every connection ends, and no new one is had until `open` is set again."""
        self.open = False
        self._hang_up()

    def _hang_up(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._sockets.clear()

    def close(self) -> None:
        self.cut()
        self._listener.close()
