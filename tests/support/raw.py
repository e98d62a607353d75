"""Raw TCP connections, for requests that no client library would send."""

import asyncio
import json
from types import TracebackType
from typing import Any, Self

# Seconds for a response on a busy machine, not a limit of the product.
PATIENCE = 60.0
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


class Raw:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, own: str = "127.0.0.1") -> "Raw":
        """Opens a connection to this machine, from a given local address."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**24, local_addr=(own, 0)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        """Writes as fast as the peer reads; a connection closed by the peer shows when reading."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            pass

    def pause(self) -> None:
        """Stops reading."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def answer(self, seconds: float = PATIENCE) -> tuple[int, dict[str, str], bytes]:
        """Returns status, headers and body of the next response; status 0: the connection ended without a response."""
        async with asyncio.timeout(seconds):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0, {}, b""
            first, *rest = head.decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body

    async def ended(self, seconds: float = PATIENCE) -> bool:
        """Whether the peer closes the connection within this time; all data before that is dropped."""
        try:
            async with asyncio.timeout(seconds):
                while await self.reader.read(65_536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True


def post(body: bytes, *, length: int | None = None, **headers: str) -> bytes:
    """Returns a request to process comments; `length` is a false Content-Length."""
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    size = len(body) if length is None else length
    head = f"POST /comments/process HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n{''.join(lines)}\r\n"
    return head.encode() + body


def problem(body: bytes) -> str:
    """Returns the last part of a problem document's type."""
    document: dict[str, Any] = json.loads(body)
    assert document["title"]
    assert document["detail"]
    return str(document["type"]).rpartition(":")[2]
