"""TLS in front of a PostgreSQL that was built without it, with PostgreSQL's own negotiation."""

import asyncio
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

SSL_REQUEST: Final = struct.pack("!ll", 8, 80877103)


def make_certificates(folder: Path) -> None:
    """Writes `root.pem`, `server.pem` of `localhost` signed by it, and `other.pem` of an unrelated authority."""
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -subj /CN=root -days 2 -keyout root.key -out root.pem",
        "req -new -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA root.pem -CAkey root.key -CAcreateserial -days 2 -extfile names -out server.pem",
        "req -x509 -newkey rsa:2048 -nodes -subj /CN=other -days 2 -keyout other.key -out other.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


class TlsFront:
    """Listens on loopback with IPv4 and IPv6, and counts encrypted and plain connections."""

    def __init__(self, socket_path: Path, folder: Path):
        self._socket_path = socket_path
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self.port = 0
        self.encrypted = 0
        self.plain = 0

    def run(self) -> None:
        """Serves until `stop`."""
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        second = self._loop.run_until_complete(asyncio.start_server(self._serve, "::1", self.port))
        self._started.set()
        self._loop.run_forever()
        for listener in (server, second):
            listener.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def wait(self) -> None:
        """Waits until the port listens."""
        assert self._started.wait(30)

    def stop(self) -> None:
        """Ends `run`."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError, asyncio.CancelledError):
            begin = await reader.readexactly(8)
            if begin == SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(self._context)
                # A client that refuses the certificate sends nothing more.
                begin = await reader.readexactly(8)
                self.encrypted += 1
            else:
                self.plain += 1
            to_reader, to_writer = await asyncio.open_unix_connection(self._socket_path)
            to_writer.write(begin)
            await asyncio.gather(_copy(reader, to_writer), _copy(to_reader, writer))
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@contextmanager
def tls_front(socket_path: Path, folder: Path) -> Iterator[TlsFront]:
    """Yields a proxy that runs until the end of the block."""
    front = TlsFront(socket_path, folder)
    thread = threading.Thread(target=front.run)
    thread.start()
    try:
        front.wait()
        yield front
    finally:
        front.stop()
        thread.join()
