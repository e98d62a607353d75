"""JSON documents of any size, read value by value in constant memory.

`spans.Reader` does the same for a document that is in memory. Here the document comes piece by piece, so that the state
between two pieces is kept: every byte is scanned once. Only structure is checked; whether a value is well formed is
for its decoder to say.
"""

import io
import re
from collections.abc import Iterator
from typing import Final, NoReturn

PIECE: Final = 256 * 1024
# A byte order mark between two documents is that of a file which was joined to another.
_BLANK: Final = re.compile(rb"(?:[ \t\n\r]++|\xef\xbb\xbf)*+")
_IN_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_PLAIN: Final = re.compile(rb'[^ \t\n\r,:"\[\]{}]*+')
# As many whole strings as there are, up to a bracket, to a string that is not whole, or to the end.
_BETWEEN: Final = re.compile(rb'[^\[\]{}"]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^\[\]{}"]*+)*+', re.DOTALL)

_RUN: Final = re.compile(rb"[\[{]++|[\]}]++")


class BrokenJsonError(ValueError):
    """The document is no JSON here; the message says what was expected."""


class JsonStream:
    """Goes through the documents of a stream value by value; a value of more than `limit` bytes is left out.

    Raises:
        BrokenJsonError: by each of its methods, where something else follows than has to.
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
        """The line of the next value, from 1."""
        self._count_lines()
        return self._line

    def peek(self) -> bytes:
        """The first byte of what comes next, without blanks; empty at the end."""
        while True:
            found = _BLANK.match(self._data, self._at)
            self._at = found.end() if found else self._at
            # The mark's three bytes may come in two pieces.
            if len(self._data) - self._at >= len(b"\xef\xbb\xbf") or not self._more():
                return self._data[self._at : self._at + 1]

    def members(self) -> Iterator[bytes]:
        """The keys of an object as JSON; its consumer has to take the value after each key."""
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
        """Once before each value of an array; its consumer has to take that value."""
        self._pass(b"[")
        more = self.peek() != b"]"
        while more:
            # Up to the value, whose line may be asked for.
            self.peek()
            yield
            if more := self.peek() == b",":
                self._pass(b",")
        self._pass(b"]")

    def value(self) -> bytes | None:
        """The value that comes next, as it was written; None where it is too long."""
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

    def fail(self, expected: str) -> NoReturn:
        """Something else was expected here."""
        raise BrokenJsonError(expected)

    def _more(self) -> bool:
        """One more piece behind what is not yet taken; False at the end."""
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
    """Where a value ends: a position, and what is open there."""

    def __init__(self, data: bytes, at: int):
        self.at = at
        self._depth = 0
        self._in_string = False
        self._is_plain = data[at : at + 1] not in (b'"', b"[", b"{")

    @property
    def whole_at_the_end(self) -> bool:
        """Whether the value may end with the document: a number does."""
        return self._is_plain

    def step(self, data: bytes, *, ended: bool) -> bool:
        """Goes on as far as the data goes; whether the value's end was found."""
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
                # Not the quote: an escape that is cut, or the end of the data.
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
            # The run may go on with what closes the array or object around the value.
            run = min(run, self._depth)
            self._depth -= run
            self.at += run


def _end(pattern: "re.Pattern[bytes]", data: bytes, at: int) -> int:
    found = pattern.match(data, at)
    return found.end() if found else at
