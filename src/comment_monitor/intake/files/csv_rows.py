"""Reads rows of CSV, and continues after a malformed line: reports that line and resumes at the next readable one.

Python's reader splits the rows. This module adds two things that it lacks: it stops at the first quote that is not
closed, and it searches for the closing quote without a limit.
"""

import csv
import io
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, Self

# The most bytes of one row, and so the most that is read in search of a closing quote.
MAX_ROW: Final = 4 * 1024 * 1024
# How often, on average, a byte may be read again because of quotes that are never closed.
REREADS: Final = 4
BOM: Final = "\ufeff"
_LONE_CR: Final = re.compile(r"\r++(?![\r\n]|\Z)")
_CR_ENDS: Final = re.compile(rb"[^\r\n]*+\r(?![\r\n])")
_FREE: Final = tuple(map(chr, range(0xE000, 0xE010)))

UNCLOSED: Final = "not CSV: a quote is opened here and never closed"
CLOSED_WITHIN: Final = "not CSV: a quote is opened here, and the next one does not end a value"
OPEN_FOR_LONG: Final = f"not CSV: a quote is opened here and not closed within {MAX_ROW} bytes"
AFTER_QUOTE: Final = 'not CSV: text after a closing quote; within a value a quote is written twice ("")'
TOO_LONG: Final = f"the row is longer than {MAX_ROW} bytes"
LONE_CR: Final = "a carriage return in a value without quotes"


class Row(NamedTuple):
    """The values of a row, the line on which it ends (`line`), and the line on which it begins (`first`)."""

    line: int
    values: list[str]
    first: int


class BadRow(NamedTuple):
    """A line that is skipped."""

    line: int
    reason: str


class _RowTooLongError(Exception):
    """The row is longer than allowed."""


def ends_in_cr(head: bytes) -> bool:
    """Returns whether the lines of a file with this beginning end in CR alone, as those of old Macs do."""
    return _CR_ENDS.match(head) is not None


class Rows:
    """The rows of a file, without blank ones. `width`, once set, is the required number of values of a row.

    Surplus empty values at a row's end are removed. Bytes that are not UTF-8 become lone surrogates.
    """

    def __init__(self, stream: io.BufferedIOBase, delimiter: str, *, cr_only: bool = False):
        csv.field_size_limit(MAX_ROW)
        self._delimiter = delimiter
        self._skip_blanks = False
        self._lines = _Lines(stream, cr_only=cr_only)
        self._reader = self._new_reader(self._lines)
        self.width: int | None = None

    def keep_marks(self, *, keep: bool) -> None:
        """Sets whether a byte order mark at a row's beginning belongs to its first value: a text may begin with it."""
        self._lines.keep_marks = keep

    def __iter__(self) -> Iterator[Row | BadRow]:
        while (item := self._next()) is not None:
            if isinstance(item, BadRow) or any(map(str.strip, item.values)):
                yield item

    def _next(self) -> Row | BadRow | None:
        lines = self._lines
        lines.begin_row()
        try:
            values = next(self._reader)
        except StopIteration:
            return None
        except (csv.Error, _RowTooLongError) as error:
            return self._after_fault(error)
        if (width := self.width) is not None and len(values) != width:
            while len(values) > width and not values[-1].strip():
                values.pop()
        return Row(lines.number, values, lines.first)

    def _after_fault(self, error: Exception) -> Row | BadRow:
        lines = self._lines
        if not lines.taken:
            return lines.leave_out_first(TOO_LONG)
        if _LONE_CR.search(lines.taken[0]) and (values := self._with_lone_cr(lines.taken[0])):
            lines.give_back()
            return Row(lines.number, values, lines.number)
        if isinstance(error, _RowTooLongError) or "field limit" in str(error):
            return lines.leave_out_first(OPEN_FOR_LONG if len(lines.taken) > 1 else TOO_LONG)
        if "new-line" in str(error):
            return lines.leave_out_first(LONE_CR)
        if "unexpected end" in str(error):
            return lines.leave_out_first(UNCLOSED)
        return lines.leave_out_first(CLOSED_WITHIN if len(lines.taken) > 1 else AFTER_QUOTE)

    def _with_lone_cr(self, line: str) -> list[str] | None:
        """Returns the values of a line in which a value contains CR, at which the reader would end the row."""
        free = next((character for character in _FREE if character not in line), None)
        values = self._alone(_LONE_CR.sub(lambda found: (free or "") * len(found[0]), line)) if free else None
        return [value.replace(free, "\r") for value in values] if free and values else None

    def within(self) -> Iterator[list[str]]:
        """Yields the values of those further lines of the last row that would be complete rows on their own."""
        for line in self._lines.taken[1:]:
            values = self._alone(line)
            if values and len(values) == self.width:
                yield values

    def follow(self, width: int) -> None:
        """Takes `width`, and whether a blank follows each delimiter as in `"a", "b"`, from the last row, a header."""
        self.width = width
        ends = re.findall(f"{re.escape(self._delimiter)}(.?)", "".join(self._lines.taken))
        self._skip_blanks = " " in ends and all(end in (" ", "") for end in ends)
        self._reader = self._new_reader(self._lines)

    def _new_reader(self, lines: Iterable[str]) -> "Iterator[list[str]]":
        return csv.reader(lines, strict=True, delimiter=self._delimiter, skipinitialspace=self._skip_blanks)

    def _alone(self, line: str) -> list[str] | None:
        try:
            return next(self._new_reader([line]), None)
        except csv.Error:
            return None


class _Lines:
    """The lines for the reader. The lines of the current row can be pushed back, to be read again."""

    def __init__(self, stream: io.BufferedIOBase, *, cr_only: bool):
        self._stream = stream
        self._read = self._cr_line if cr_only else self._lf_line
        self._buffer = bytearray()
        self._waiting: deque[str | None] = deque()
        self._credit = REREADS * MAX_ROW
        self._size = 0
        self._ended_at = 0
        self.number = 0
        self.taken: list[str] = []
        self.keep_marks = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if self._waiting:
            line = self._waiting.popleft()
        else:
            line = self._read()
            self._credit += REREADS * len(line or "")
        if line is None or (self.taken and self._size + len(line) > min(MAX_ROW, self._credit)):
            # A line that is too long for this row is kept for the next one.
            if line is not None or self.taken:
                self._waiting.appendleft(line)
            else:
                self.number += 1
            raise _RowTooLongError
        self.number += 1
        if line[:1] == BOM and not self.taken and not self.keep_marks:
            line = line.lstrip(BOM)
        self._size += len(line)
        self.taken.append(line)
        return line

    @property
    def first(self) -> int:
        """The number of the line on which the row begins."""
        return self._ended_at + 1

    def begin_row(self) -> None:
        """Starts a new row after the lines taken so far."""
        self.taken.clear()
        self._size = 0
        self._ended_at = self.number

    def give_back(self) -> None:
        """Pushes back all lines of the row except its first."""
        again = self.taken[1:]
        self._credit -= sum(map(len, again))
        self._waiting.extendleft(reversed(again))
        self.number -= len(again)
        del self.taken[1:]

    def leave_out_first(self, reason: str) -> BadRow:
        """Reports the row's first line as bad; the others are read again."""
        self.give_back()
        return BadRow(self.number, reason)

    def _lf_line(self) -> str | None:
        """Returns the next line; None if it is too long."""
        line = self._stream.readline(MAX_ROW + 2)
        if not line:
            raise StopIteration
        if len(line) > MAX_ROW:
            while line and not line.endswith(b"\n"):
                line = self._stream.readline(MAX_ROW)
            return None
        return line.decode("utf-8", "surrogateescape")

    def _cr_line(self) -> str | None:
        searched, skipped = 0, False
        while (at := self._buffer.find(b"\r", searched)) < 0:
            if len(self._buffer) > MAX_ROW:
                skipped = True
                self._buffer.clear()
            searched = len(self._buffer)
            piece = self._stream.read1(MAX_ROW)
            if not piece:
                if not self._buffer and not skipped:
                    raise StopIteration
                at = len(self._buffer)
                break
            self._buffer += piece
        line = bytes(self._buffer[: at + 1])
        del self._buffer[: at + 1]
        return None if skipped or len(line) > MAX_ROW else line.decode("utf-8", "surrogateescape")
