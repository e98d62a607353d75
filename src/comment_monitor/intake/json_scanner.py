"""Where the values of a JSON document begin and end: one level is split, the rest is left undecoded.

The decoder makes an object for every element and gives up on a document nested deeper than its recursion goes. Here a
list of ten million numbers costs no memory, its reader may stop at any element, and depth is a counter. Only structure
is looked at: whether each value is well formed is for the decoder to say. Each run of brackets is a step of Python, and
takes some hundred times as long as in the decoder: a document has a bound on them.
"""

import re
from collections.abc import Iterator
from typing import Final

_BLANK: Final = re.compile(rb"[ \t\n\r]*+")
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_PLAIN: Final = re.compile(rb'[^ \t\n\r,:"\[\]{}]++')
# Runs of opening or of closing brackets that a reader passes: about a second of them. A request with 10,000
# comments, each with 25 arrays or objects beside one another, has half as many.
MOST_RUNS: Final = 1_000_000
# Up to the next run of opening or of closing brackets outside of strings.
_BRACKETS: Final = re.compile(
    rb'[^\[\]{}"]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^\[\]{}"]*+)*+([\[{]++|[\]}]++)',
    re.DOTALL,
)


class StructureError(ValueError):
    """The document is no JSON here; the message says what was expected at which byte."""

    def __init__(self, expected: str, at: int):
        super().__init__(f"JSON is malformed: expected {expected} (byte {at})")


class IntricateError(ValueError):
    """The document has more arrays and objects beside one another than a reader passes."""


class Reader:
    """Goes through a document value by value.

    Raises:
        StructureError: by each of its methods, where something else stands than has to.
        IntricateError: by each of its methods, where it has passed `MOST_RUNS` runs of brackets.
    """

    def __init__(self, document: bytes):
        self._document = document
        self._at = 0
        self._runs = 0
        self._pass_blank()

    def next_is(self, character: bytes) -> bool:
        """What the value begins with that comes next."""
        return self._document.startswith(character, self._at)

    def members(self) -> Iterator[slice]:
        """The keys of an object; its consumer has to read the value after each key."""
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
        """The values of an array."""
        self._pass(b"[")
        more = not self.next_is(b"]")
        while more:
            yield self.value()
            more = not self.next_is(b"]")
            if more:
                self._pass(b",")
        self._pass(b"]")

    def value(self) -> slice:
        """The value that comes next, whatever it is."""
        start = self._at
        self._at = self._end(start)
        found = slice(start, self._at)
        self._pass_blank()
        return found

    def end(self) -> None:
        """Nothing may follow."""
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
                # The run may go on with what closes the array or object around it.
                return at - run + depth
            depth -= run
        raise StructureError("as many closing brackets as opening ones", len(self._document))
