"""Reads a file's bytes as UTF-8: checks its beginning, then decompresses gzip and converts the encoding.

The beginning ends at the latest with the read that contains the first line: a pipe that pauses after it delays nothing.
"""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Callable
from typing import IO, Final, NamedTuple

from comment_monitor.intake.files.file_kind import GZIP_MAGIC, FileError, check_encoding, encoding_of, refused

# The exceptions from reading a damaged compressed file.
DAMAGE: Final = (EOFError, gzip.BadGzipFile, zlib.error, OSError)
HEAD: Final = 64 * 1024
BUFFER: Final = 1 << 20
BOM: Final = codecs.BOM_UTF8
_A_LINE: Final = re.compile(rb"[^\s\0\xef\xbb\xbf\xfe\xff][^\n]*+\n")


class Text(NamedTuple):
    """A text file: a stream of its UTF-8 from the beginning, and its first bytes."""

    stream: io.BufferedReader
    head: bytes


def open_text(raw: IO[bytes], encoding: str | None = None) -> Text:
    """Opens a text file that may be compressed with gzip; `encoding` is the one that the user named.

    Raises:
        FileError: the file is empty, is not text, or has an encoding that the user must name.
    """
    start, plain = _plain(raw)
    if kind := refused(start.head):
        raise FileError(f"{kind.description}: {kind.advice}")
    start.fill(lambda head: bool(_A_LINE.search(head)))
    if not start.head.replace(BOM, b"").strip(b"\xff\xfe\0 \t\r\n\v\f"):
        raise _empty(start)
    if kind := refused(start.head):
        raise FileError(f"{kind.description}: {kind.advice}")
    if encoding:
        check_encoding(start.head, encoding)
    else:
        encoding = encoding_of(start.head)
    if codecs.lookup(encoding).name == "utf-8":
        return Text(io.BufferedReader(plain, BUFFER), start.head)
    recoded = io.BufferedReader(_Recoded(io.BufferedReader(plain, BUFFER), encoding), BUFFER)
    second = _Start(recoded)
    second.fill(lambda head: bool(_A_LINE.search(head)))
    return Text(io.BufferedReader(_Rewound(second), BUFFER), second.head)


def open_stream(raw: IO[bytes]) -> IO[bytes]:
    """Opens a file as bytes, decompressed if its first bytes (not its name) are those of gzip.

    Raises:
        FileError: the file is of a kind that can't be read, such as another compression.
    """
    start, plain = _plain(raw)
    if kind := refused(start.head):
        raise FileError(f"{kind.description}: {kind.advice}")
    return io.BufferedReader(plain, BUFFER)


def _plain(raw: IO[bytes]) -> "tuple[_Start, _Rewound]":
    start = _Start(raw)
    # Enough bytes to recognise gzip; a pipe may deliver them one by one.
    start.fill(lambda head: len(head) >= len(GZIP_MAGIC))
    if start.head.startswith(GZIP_MAGIC):
        unpacked: IO[bytes] = gzip.GzipFile(fileobj=io.BufferedReader(_Rewound(start), BUFFER))  # type: ignore[assignment]
        start = _Start(unpacked)
        start.fill(bool)
        if start.head.startswith(GZIP_MAGIC):
            raise FileError("compressed with gzip twice: zcat FILE | comment-monitor ingest -")
    return start, _Rewound(start)


def _empty(start: "_Start") -> FileError:
    if start.failure:
        return FileError(f"damaged or cut short after line 0 ({start.failure})")
    return FileError("empty: there is no comment in it")


class _Start:
    """Buffers the first bytes of an input, and reads the bytes after them."""

    def __init__(self, source: IO[bytes]):
        self.source = source
        self.head = b""
        self.failure: BaseException | None = None
        self._read: Callable[[int], bytes | None] = getattr(source, "read1", source.read)

    def fill(self, enough: Callable[[bytes], bool]) -> None:
        """Reads until `enough` accepts the first bytes, or the limit `HEAD` or the end is reached."""
        while self.failure is None and len(self.head) < HEAD and not enough(self.head):
            if not (data := self.more(HEAD)):
                return
            self.head += data

    def more(self, size: int) -> bytes:
        """Returns the next bytes; raises the error of a damaged file only at the read after it was found."""
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        try:
            return self._read(size) or b""
        except DAMAGE as error:
            self.failure = error
            return b""


class _Rewound(io.RawIOBase):
    """The whole input from its first byte, including the buffered ones."""

    def __init__(self, start: _Start):
        self._start = start
        self._given = 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Reads into the buffer; returns the number of bytes, 0 at the end."""
        data = self._start.head[self._given : self._given + len(buffer)]
        self._given += len(data)
        if not data:
            data = self._start.more(len(buffer))
            if not data and self._start.failure is not None:
                raise self._start.failure.with_traceback(None)
        buffer[: len(data)] = data
        return len(data)


class _Recoded(io.RawIOBase):
    """A text converted to UTF-8 from another encoding; undecodable bytes become bytes that are not valid UTF-8."""

    def __init__(self, source: io.BufferedReader, encoding: str):
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding)("comment-monitor-invalid")
        self._ready = b""
        self._at_end = False

    def readable(self) -> bool:
        """Returns True."""
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Reads into the buffer; returns the number of bytes, 0 at the end."""
        while not self._ready and not self._at_end:
            data = self._source.read1(HEAD)
            self._at_end = not data
            self._ready = self._decoder.decode(data, final=self._at_end).encode("utf-8", "surrogateescape")
        data, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _invalid(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff", error.end


codecs.register_error("comment-monitor-invalid", _invalid)
