"""Decompresses bodies in gzip and zstd, within the bounds of any body."""

import asyncio
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Final

from comment_monitor.core import errors
from comment_monitor.web.bodies import SMALL, Body

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TAKEN: Final = "gzip, zstd"
# Decompressed bytes at a time.
PIECE: Final = 1_048_576
# A frame declares how much memory its decompression takes: every decoder has to support 2^23 bytes (RFC 8878).
WINDOW: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: 23}
# Large bodies that are decompressed at the same time; each takes a thread, and up to a window of memory.
AT_ONCE: Final = 4
# Compressed bytes per step, and parts that a body may have: an empty part takes 20 bytes.
SLICE: Final = 16_384
MOST_PARTS: Final = 10_000
# Steps in a turn.
STEPS: Final = 200


class _Parts(ABC):
    """A compressed body of one or more parts (members of gzip, frames of zstd), decompressed piece by piece."""

    name: ClassVar[str]
    error: ClassVar[type[Exception]]

    def __init__(self, packed: bytes):
        self._packed = memoryview(packed)
        self._at = 0
        self._parts = 1
        self._part = self._begin()

    def piece(self) -> bytes | None:
        """Returns about PIECE bytes, or fewer after STEPS steps or at the end of the body; None after the end.

        Raises:
            ValueError: the body is damaged, or truncated, or has too many parts.
        """
        found: list[bytes] = []
        size = 0
        for _ in range(STEPS):
            if (step := self._step()) is None:
                return b"".join(found) if found else None
            found.append(step)
            size += len(step)
            if size >= PIECE:
                break
        return b"".join(found)

    def _step(self) -> bytes | None:
        if self._part.eof:
            if self._at >= len(self._packed):
                return None
            self._parts += 1
            if self._parts > MOST_PARTS:
                raise ValueError(f"it has more than {MOST_PARTS} parts")
            self._part = self._begin()
        # In slices, because each part returns a copy of its unused input.
        data = self._packed[self._at : self._at + SLICE] if self._hungry() else self._packed[:0]
        try:
            found: bytes = self._part.decompress(self._left() or data, PIECE)
        except self.error as error:
            raise ValueError(str(error)) from None
        self._at += len(data)
        if self._part.eof:
            self._at -= len(self._part.unused_data)
        elif not found and not len(data) and self._hungry():
            raise ValueError("it ends early")
        return found

    @abstractmethod
    def _begin(self) -> Any:
        """Returns a decompressor for the next part."""

    @abstractmethod
    def _hungry(self) -> bool:
        """Returns whether the part needs more compressed bytes before it returns more."""

    def _left(self) -> bytes:
        return b""


class Gzip(_Parts):
    """A body in gzip."""

    name = "gzip"
    error = zlib.error

    def _begin(self) -> Any:
        return zlib.decompressobj(16 + zlib.MAX_WBITS)

    def _hungry(self) -> bool:
        return not self._part.unconsumed_tail

    def _left(self) -> bytes:
        tail: bytes = self._part.unconsumed_tail
        return tail


class Zstd(_Parts):
    """A body in zstd."""

    name = "zstd"
    error = zstd.ZstdError

    def _begin(self) -> Any:
        return zstd.ZstdDecompressor(options=WINDOW)

    def _hungry(self) -> bool:
        return bool(self._part.needs_input)


KINDS: Final[dict[str, type[Gzip] | type[Zstd]]] = {"gzip": Gzip, "x-gzip": Gzip, "zstd": Zstd}


def encoding_of(headers: Iterable[tuple[bytes, bytes]]) -> type[Gzip] | type[Zstd] | None:
    """Returns the class that decompresses the body, by the request's headers; None if the body is not compressed.

    Raises:
        UnsupportedEncoding: the encoding is not supported, or there are several.
    """
    named = [value for name, value in headers if name == b"content-encoding"]
    if not named:
        return None
    words = [word.strip().lower() for word in b",".join(named).decode("latin-1").split(",")]
    packed = [word for word in words if word not in ("", "identity")]
    if not packed:
        return None
    if len(packed) == 1 and packed[0] in KINDS:
        return KINDS[packed[0]]
    raise errors.UnsupportedEncoding(
        f"A body may be compressed with one of {TAKEN}, or not at all.", headers={"Accept-Encoding": TAKEN}
    )


class Unpacker:
    """Decompresses bodies; large ones in threads, a few at a time."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def unpack(self, body: Body, packed: bytes, kind: type[Gzip] | type[Zstd], most: int) -> bytes:
        """Returns the decompressed body.

        Args:
            body: its entry among the bodies that this process holds; it grows with the decompressed bytes.
            packed: the compressed bytes.
            kind: the class of the encoding.
            most: the number of decompressed bytes that it may have.

        Raises:
            NotJson: the body can't be decompressed.
            TooLarge: the body has more bytes.
            Overloaded: this process has no free capacity for the body.
        """
        reader = kind(packed)
        pieces: list[bytes] = []
        size = 0
        # The first piece of a small body needs no thread; its decompressed size is known only afterwards.
        large = len(packed) > SMALL
        try:
            while (piece := await self._piece(reader, large=large)) is not None:
                size += len(piece)
                if size > most:
                    raise errors.TooLarge(f"A request may hold at most {most} bytes, also when decompressed.")
                body.grow(len(piece))
                pieces.append(piece)
                # Further pieces of a small body need a thread too: many parts take long, however little they hold.
                large = True
        except ValueError as error:
            raise errors.NotJson(f"The body is not {kind.name}, as Content-Encoding says: {error}.") from None
        return b"".join(pieces)

    async def _piece(self, reader: Gzip | Zstd, *, large: bool) -> bytes | None:
        if not large:
            return reader.piece()
        async with self._turns:
            return await asyncio.to_thread(reader.piece)
