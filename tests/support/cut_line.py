"""A TCP proxy that cuts its connections for good after a given number of chunks to the server."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

PATIENCE: Final = 30.0


class CutLine:
    """Forwards the connections to its port until the chunks are used up; from then on, the port is closed."""

    def __init__(self, server: tuple[str, int], pieces: int):
        self._server = server
        self._left = pieces
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._over = threading.Event()
        self._listening: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    def run(self) -> None:
        """Forwards until `stop`."""
        asyncio.set_event_loop(self._loop)
        self._listening = self._loop.run_until_complete(asyncio.start_server(self._pass_on, "127.0.0.1", 0))
        self.port = self._listening.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        self._cut()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def wait(self) -> None:
        """Waits until the port listens."""
        assert self._ready.wait(PATIENCE)

    def is_cut(self, seconds: float) -> bool:
        """Waits this many seconds for the cut; returns whether it happened."""
        return self._over.wait(seconds)

    def stop(self) -> None:
        """Ends `run`."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with suppress(OSError, asyncio.CancelledError):
            from_server, to_server = await asyncio.open_connection(*self._server)
            self._writers.append(to_server)
            await asyncio.gather(self._ask(reader, to_server), self._answer(from_server, writer))

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            if not self._left:
                self._cut()
                return
            self._left -= 1
            writer.write(piece)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
        writer.close()

    def _cut(self) -> None:
        if self._listening:
            self._listening.close()
        for writer in self._writers:
            writer.transport.abort()
        self._over.set()


@contextmanager
def cut_line(server: tuple[str, int], pieces: int) -> Iterator[CutLine]:
    """Yields a proxy of the server that forwards this number of chunks."""
    line = CutLine(server, pieces)
    thread = threading.Thread(target=line.run)
    thread.start()
    try:
        line.wait()
        yield line
    finally:
        line.stop()
        thread.join()
