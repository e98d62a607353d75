"""Reads JSON documents of any size, value by value, in constant memory.

`json_scanner.Reader` does the same for a document in memory. Here the document arrives in pieces, and the scanner keeps
its state between two pieces, so it scans every byte once. It checks only the structure; the decoder checks whether each
value is well formed.
"""

import io
import re
from collections.abc import Iterator
from typing import Final, NoReturn

PIECE: Final = 256 * 1024
# A byte order mark between two documents comes from a file that was joined to another.
_BLANK: Final = re.compile(rb"(?:[ \t\n\r]++|\xef\xbb\xbf)*+")
_IN_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_PLAIN: Final = re.compile(rb'[^ \t\n\r,:"\[\]{}]*+')
# Matches complete strings and other text up to a bracket, an incomplete string, or the end.
_BETWEEN: Final = re.compile(rb'[^\[\]{}"]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^\[\]{}"]*+)*+', re.DOTALL)

_RUN: Final = re.compile(rb"[\[{]++|[\]}]++")


class BrokenJsonError(ValueError):
    """The document is not JSON; the message names the expected token."""


class JsonStream:
    """Reads the documents of a stream value by value; skips values of more than `limit` bytes.

    Raises:
        BrokenJsonError: from any method, if the document does not continue as the method requires.
    """

    def __init__(self, stream: io.BufferedIOBase, limit: int):
        self._stream = stream
        self._limit = limit
        self._data = b""
        self._at = 0
        self._counted = 0
        self._line = 1
        self._ended = False

    @property
    def line(self) -> int:
        """The line number of the next value, from 1."""
        self._count_lines()
        return self._line

    def peek(self) -> bytes:
        """Returns the next byte that is not blank, without consuming it; empty at the end."""
        while True:
            found = _BLANK.match(self._data, self._at)
            self._at = found.end() if found else self._at
            # The byte order mark's three bytes may arrive in two pieces.
            if len(self._data) - self._at >= len(b"\xef\xbb\xbf") or not self._more():
                return self._data[self._at : self._at + 1]

    def members(self) -> Iterator[bytes]:
        """Yields the keys of an object as JSON; the caller must read the value after each key."""
        self._pass(b"{")
        more = self.peek() != b"}"
        while more:
            if self.peek() != b'"':
                raise BrokenJsonError("expected a string")
            key = self.value()
            self._pass(b":")
            yield key or b'""'
            if more := self.peek() == b",":
                self._pass(b",")
        self._pass(b"}")

    def elements(self) -> Iterator[None]:
        """Yields once before each value of an array; the caller must read that value."""
        self._pass(b"[")
        more = self.peek() != b"]"
        while more:
            # Skip blanks, so that `line` is that of the value.
            self.peek()
            yield
            if more := self.peek() == b",":
                self._pass(b",")
        self._pass(b"]")

    def value(self) -> bytes | None:
        """Returns the next value as written; None if it is too long."""
        first = self.peek()
        if first in (b"", b",", b":", b"]", b"}"):
            raise BrokenJsonError("expected a value" if first else "it ends within a value")
        scan = _Scan(self._data, self._at)
        too_long = False
        while not scan.step(self._data, ended=self._ended):
            if scan.at - self._at > self._limit:
                too_long = True
                self._at = scan.at
            kept = scan.at - self._at
            if not self._more():
                if scan.whole_at_the_end:
                    break
                raise BrokenJsonError("it ends within a value")
            scan.at = self._at + kept
        found = self._data[self._at : scan.at]
        self._at = scan.at
        return None if too_long or len(found) > self._limit else found

    def fail(self, message: str) -> NoReturn:
        """Raises BrokenJsonError with this message."""
        raise BrokenJsonError(message)

    def _more(self) -> bool:
        """Appends the next piece to the unread data; returns False at the end."""
        self._count_lines()
        if not self._ended:
            piece = self._stream.read1(PIECE)
            self._ended = not piece
            self._data = self._data[self._at :] + piece
            self._at = self._counted = 0
        return not self._ended

    def _count_lines(self) -> None:
        self._line += self._data.count(b"\n", self._counted, self._at)
        self._counted = self._at

    def _pass(self, character: bytes) -> None:
        if self.peek() != character:
            raise BrokenJsonError(f"expected '{character.decode()}'")
        self._at += 1


class _Scan:
    """The search for a value's end: the position, the open brackets, and whether it is within a string."""

    def __init__(self, data: bytes, at: int):
        self.at = at
        self._depth = 0
        self._in_string = False
        self._is_plain = data[at : at + 1] not in (b'"', b"[", b"{")

    @property
    def whole_at_the_end(self) -> bool:
        """Whether the value may end with the document, as a number may."""
        return self._is_plain

    def step(self, data: bytes, *, ended: bool) -> bool:
        """Scans as far as the data goes; returns whether it found the value's end."""
        if self._is_plain:
            self.at = _end(_PLAIN, data, self.at)
            return self.at < len(data) or ended
        while self.at < len(data):
            if not self._in_string:
                if self._depth:
                    self.at = _end(_BETWEEN, data, self.at)
                    if self.at == len(data):
                        return False
                self._open_or_close(data)
            else:
                self.at = _end(_IN_STRING, data, self.at)
                # There is no closing quote yet: the data ends, perhaps within an escape.
                if data[self.at : self.at + 1] != b'"':
                    return False
                self._in_string = False
                self.at += 1
            if not self._depth and not self._in_string:
                return True
        return False

    def _open_or_close(self, data: bytes) -> None:
        run = _end(_RUN, data, self.at) - self.at
        if not run:
            self._in_string = True
            self.at += 1
        elif data[self.at] in b"[{":
            self._depth += run
            self.at += run
        else:
            # The rest of the run may close the enclosing arrays or objects.
            run = min(run, self._depth)
            self._depth -= run
            self.at += run


def _end(pattern: "re.Pattern[bytes]", data: bytes, at: int) -> int:
    found = pattern.match(data, at)
    return found.end() if found else at
