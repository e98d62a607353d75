"""The analysis queue on a real broker, read by another client, and a TCP proxy that can be cut."""

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
    """Removes and returns all messages of the queue."""
    try:
        with channel(url) as broker_channel:
            return [*iter(lambda: broker_channel.basic_get(QUEUE_NAME, no_ack=True), None)]
    except amqp.NotFound:
        return []


def empty(url: str) -> None:
    """Removes the messages of earlier tests, once no worker consumes them.

    The broker notices a killed worker after some time, and only then redelivers its messages.
    """
    deadline = time.monotonic() + PATIENCE
    with suppress(amqp.NotFound), channel(url) as broker_channel:
        while (declared := broker_channel.queue_declare(QUEUE_NAME, passive=True)) and declared[2]:
            assert time.monotonic() < deadline, "a worker of an earlier test is still connected"
            time.sleep(0.02)
        broker_channel.queue_purge(QUEUE_NAME)


def named(url: str) -> list[list[int]]:
    """Removes all messages; returns the outbox rows that each message names."""
    return [json.loads(message.body)[0] for message in messages(url)]


def outbox_ids(url: str) -> list[int]:
    """Removes all messages; returns the outbox rows that they name."""
    return [id_ for ids in named(url) for id_ in ids]


class Wire:
    """A TCP proxy of a server: it forwards, withholds the server's responses, or is closed.

    `path`: the Unix socket of a server that does not listen on TCP.
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
        for end in (here, there):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Closes every connection, and accepts none until `open` is set again."""
        self.open = False
        self._hang_up()

    def _hang_up(self) -> None:
        for connection in self._sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._sockets.clear()

    def close(self) -> None:
        self.cut()
        self._listener.close()
