"""An input that may pause, such as a pipe from `tail -f`: whoever reads it learns of it before they wait."""

import io
import select
from collections.abc import Callable
from typing import IO, Final

# Seconds without input that are a pause.
PAUSE: Final = 0.5


class PausingInput(io.RawIOBase):
    """Raw bytes of a pipe, a socket or a terminal; `on_pause` is called in the reader's thread."""

    def __init__(self, raw: IO[bytes]):
        self._raw = raw
        self.on_pause: Callable[[], None] = lambda: None

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Bytes read into the buffer; 0 at the end."""
        if not select.select([self._raw], [], [], PAUSE)[0]:
            self.on_pause()
        data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Closes the input too."""
        self._raw.close()
        super().close()
