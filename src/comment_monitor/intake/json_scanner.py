"""Finds where the values of a JSON document begin and end: splits one level and leaves the rest undecoded.

The decoder creates an object for every element, and fails on a document nested deeper than its recursion limit. This
scanner uses no memory for a list of ten million numbers, its caller can stop at any element, and depth is a counter. It
checks only the structure; the decoder checks whether each value is well formed. Each run of brackets is a step of
Python and takes about a hundred times as long as in the decoder, so their number is limited.
"""

import re
from collections.abc import Iterator
from typing import Final

_BLANK: Final = re.compile(rb"[ \t\n\r]*+")
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_PLAIN: Final = re.compile(rb'[^ \t\n\r,:"\[\]{}]++')
# Runs of opening or of closing brackets that a reader accepts: about one second of work. A request with 10,000
# comments, each with 25 sibling arrays or objects, has half as many.
MOST_RUNS: Final = 1_000_000
# Matches up to the next run of opening or of closing brackets outside strings.
_BRACKETS: Final = re.compile(
    rb'[^\[\]{}"]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^\[\]{}"]*+)*+([\[{]++|[\]}]++)',
    re.DOTALL,
)


class StructureError(ValueError):
    """The document is not JSON; the message names the expected token and the byte."""

    def __init__(self, expected: str, at: int):
        super().__init__(f"JSON is malformed: expected {expected} (byte {at})")


class IntricateError(ValueError):
    """The document has more runs of brackets than a reader accepts."""


class Reader:
    """Reads a document value by value.

    Raises:
        StructureError: from any method, if the document does not continue as the method requires.
        IntricateError: from any method, after `MOST_RUNS` runs of brackets.
    """

    def __init__(self, document: bytes):
        self._document = document
        self._at = 0
        self._runs = 0
        self._pass_blank()

    def next_is(self, character: bytes) -> bool:
        """Returns whether the next value begins with this character."""
        return self._document.startswith(character, self._at)

    def members(self) -> Iterator[slice]:
        """Yields the keys of an object; the caller must read the value after each key."""
        self._pass(b"{")
        more = not self.next_is(b"}")
        while more:
            if not self.next_is(b'"'):
                raise StructureError("a string", self._at)
            key = self.value()
            self._pass(b":")
            yield key
            more = not self.next_is(b"}")
            if more:
                self._pass(b",")
        self._pass(b"}")

    def elements(self) -> Iterator[slice]:
        """Yields the values of an array."""
        self._pass(b"[")
        more = not self.next_is(b"]")
        while more:
            yield self.value()
            more = not self.next_is(b"]")
            if more:
                self._pass(b",")
        self._pass(b"]")

    def value(self) -> slice:
        """Returns the next value, of any type."""
        start = self._at
        self._at = self._end(start)
        found = slice(start, self._at)
        self._pass_blank()
        return found

    def end(self) -> None:
        """Raises unless the whole document has been read."""
        if self._at < len(self._document):
            raise StructureError("nothing more", self._at)

    def _pass_blank(self) -> None:
        if found := _BLANK.match(self._document, self._at):
            self._at = found.end()

    def _pass(self, character: bytes) -> None:
        if not self.next_is(character):
            raise StructureError(f"'{character.decode()}'", self._at)
        self._at += 1
        self._pass_blank()

    def _end(self, at: int) -> int:
        if not self.next_is(b"[") and not self.next_is(b"{"):
            pattern = _STRING if self.next_is(b'"') else _PLAIN
            if found := pattern.match(self._document, at):
                return found.end()
            raise StructureError("a value", at)
        depth = 0
        while found := _BRACKETS.match(self._document, at):
            at, run = found.end(), found.end() - found.start(1)
            self._runs += 1
            if self._runs > MOST_RUNS:
                raise IntricateError
            if found[1][0] in b"[{":
                depth += run
                continue
            if run >= depth:
                # The rest of the run may close the enclosing arrays or objects.
                return at - run + depth
            depth -= run
        raise StructureError("as many closing brackets as opening ones", len(self._document))
