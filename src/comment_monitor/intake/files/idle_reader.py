"""An input that may pause, such as a pipe from `tail -f`: reports each pause to its reader, and can be stopped."""

import io
import select
from collections.abc import Callable
from typing import IO, Final

# Seconds without input that count as a pause.
PAUSE: Final = 0.5


class PausingInput(io.RawIOBase):
    """Raw bytes of a pipe, a socket or a terminal; the reader's thread calls `on_pause` repeatedly during a pause."""

    def __init__(self, raw: IO[bytes]):
        self._raw = raw
        self._stopped = False
        self.on_pause: Callable[[], None] = lambda: None

    def readable(self) -> bool:
        """Returns True."""
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Reads into the buffer; returns the number of bytes, 0 at the end and after `stop`."""
        while not self._stopped and not select.select([self._raw], [], [], PAUSE)[0]:
            self.on_pause()
        if self._stopped:
            return 0
        data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def stop(self) -> None:
        """Ends the input: a reader that waits in its thread returns within `PAUSE` seconds.

        Closing the input instead would wait for that reader.
        """
        self._stopped = True

    def close(self) -> None:
        """Also closes the underlying input."""
        self._raw.close()
        super().close()
