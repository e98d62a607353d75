"""An input that may pause, such as a pipe from `tail -f`: whoever reads it learns of it, and can be told to stop."""

import io
import select
from collections.abc import Callable
from typing import IO, Final

# Seconds without input that are a pause.
PAUSE: Final = 0.5


class PausingInput(io.RawIOBase):
    """Raw bytes of a pipe, a socket or a terminal; `on_pause` is called in the reader's thread, again and again."""

    def __init__(self, raw: IO[bytes]):
        self._raw = raw
        self._stopped = False
        self.on_pause: Callable[[], None] = lambda: None

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Bytes read into the buffer; 0 at the end, and once it was stopped."""
        while not self._stopped and not select.select([self._raw], [], [], PAUSE)[0]:
            self.on_pause()
        if self._stopped:
            return 0
        data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def stop(self) -> None:
        """From now on it is at its end: a reader that waits in its thread comes back within a moment.

        Closing it would wait for that reader.
        """
        self._stopped = True

    def close(self) -> None:
        """Closes the input too."""
        self._raw.close()
        super().close()
