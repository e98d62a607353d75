"""A file's bytes as UTF-8, without its gzip and its own encoding, and with its beginning checked first.

The beginning is no more than what the input has given by the time of its first line: a pipe that pauses is not waited
for any longer.
"""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Callable
from typing import IO, Final, NamedTuple

from comment_monitor.intake.files.file_kind import GZIP_MAGIC, FileError, check_encoding, encoding_of, refused

# What reading a compressed file raises where it is damaged.
DAMAGE: Final = (EOFError, gzip.BadGzipFile, zlib.error, OSError)
HEAD: Final = 64 * 1024
BUFFER: Final = 1 << 20
BOM: Final = codecs.BOM_UTF8
_A_LINE: Final = re.compile(rb"[^\s\0\xef\xbb\xbf\xfe\xff][^\n]*+\n")


class Text(NamedTuple):
    """A text file: its UTF-8, from the beginning, and the first bytes of it."""

    stream: io.BufferedReader
    head: bytes


def open_text(raw: IO[bytes], encoding: str | None = None) -> Text:
    """The text of a file that may be gzip; `encoding` is what the user says that it is in.

    Raises:
        FileError: it is empty, no text, or in an encoding that has to be named.
    """
    start, plain = _plain(raw)
    if kind := refused(start.head):
        raise FileError(f"{kind.what}: {kind.do}")
    start.fill(lambda head: bool(_A_LINE.search(head)))
    if not start.head.replace(BOM, b"").strip(b"\xff\xfe\0 \t\r\n\v\f"):
        raise _nothing_in(start)
    if kind := refused(start.head):
        raise FileError(f"{kind.what}: {kind.do}")
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
    """The bytes of a file that may be gzip (by its first bytes, not by its name).

    Raises:
        FileError: it is compressed in another way.
    """
    start, plain = _plain(raw)
    if kind := refused(start.head):
        raise FileError(f"{kind.what}: {kind.do}")
    return io.BufferedReader(plain, BUFFER)


def _plain(raw: IO[bytes]) -> "tuple[_Start, _Rewound]":
    start = _Start(raw)
    # The longest beginning that tells two kinds apart; a pipe may give it byte by byte.
    start.fill(lambda head: len(head) >= len(GZIP_MAGIC))
    if start.head.startswith(GZIP_MAGIC):
        unpacked: IO[bytes] = gzip.GzipFile(fileobj=io.BufferedReader(_Rewound(start), BUFFER))  # type: ignore[assignment]
        start = _Start(unpacked)
        start.fill(bool)
        if start.head.startswith(GZIP_MAGIC):
            raise FileError("compressed with gzip twice: zcat FILE | comment-monitor ingest -")
    return start, _Rewound(start)


def _nothing_in(start: "_Start") -> FileError:
    if start.failure:
        return FileError(f"damaged or cut short after line 0 ({start.failure})")
    return FileError("empty: there is no comment in it")


class _Start:
    """The first bytes of an input, which are read once, and what comes after them."""

    def __init__(self, source: IO[bytes]):
        self.source = source
        self.head = b""
        self.failure: BaseException | None = None
        self._read: Callable[[int], bytes | None] = getattr(source, "read1", source.read)

    def fill(self, enough: Callable[[bytes], bool]) -> None:
        """Reads until it is enough, up to the limit or the end."""
        while self.failure is None and len(self.head) < HEAD and not enough(self.head):
            if not (data := self.more(HEAD)):
                return
            self.head += data

    def more(self, size: int) -> bytes:
        """The next bytes; what came before damage is given first."""
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        try:
            return self._read(size) or b""
        except DAMAGE as error:
            self.failure = error
            return b""


class _Rewound(io.RawIOBase):
    """The whole input again, from its first byte."""

    def __init__(self, start: _Start):
        self._start = start
        self._given = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Bytes read into the buffer."""
        data = self._start.head[self._given : self._given + len(buffer)]
        self._given += len(data)
        if not data:
            data = self._start.more(len(buffer))
            if not data and self._start.failure is not None:
                raise self._start.failure.with_traceback(None)
        buffer[: len(data)] = data
        return len(data)


class _Recoded(io.RawIOBase):
    """UTF-8 of a text in another encoding; bytes that mean nothing in it become bytes that are no UTF-8."""

    def __init__(self, source: io.BufferedReader, encoding: str):
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding)("comment-monitor-invalid")
        self._ready = b""
        self._at_end = False

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Bytes read into the buffer."""
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
