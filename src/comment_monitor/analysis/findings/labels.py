"""Assigns labels by rules. Each rule is data: a label, its description and its predicate."""

import re
import string
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from comment_monitor.analysis.findings import addresses, repetition
from comment_monitor.analysis.findings.text import Text


class Sight(NamedTuple):
    """The input of the rules: a text and its addresses."""

    text: Text
    linked: bool  # the text contains an address
    words: str  # the plain text, with `addresses.PLACE` in place of each address


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Assigns its label to texts for which `holds` returns True."""

    label: str
    description: str
    # None: the statement that stores results decides, because it can compare with the other comments.
    holds: Callable[[Sight], bool] | None


# A name after an @ that is not part of an e-mail address, which consists of Latin letters and digits. An @ before a
# small number is a price: `@5`, `@1.99 each`, `@10k`.
_LATIN: Final = r"A-Za-z0-9\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff"
MENTION: Final = re.compile(
    rf"(?<![{_LATIN}@])(?<![{_LATIN}][_%+-])@(?!\d{{1,4}}(?:[.,]\d{{1,9}})?[km%]?(?!\w))(?:\w|\[\d)"
)
# Question marks of all scripts except ASCII's. None occurs in addresses, except the full-width one before a query.
MARKS: Final = (
    "\u00bf\u037e\u055e\u061f\u1367\u1945\u203d\u2047\u2048\u2049\u2753\u2754\u2cfa\u2cfb\u2e18\u2e2e\u2e54\ua60f\ua6f7"
    "\ufe16\ufe56\U00011143\U0001e95f\U0001f679\U0001f67a\U0001f67b\U0001fbc4"
)
# Greek keyboards type a semicolon as the question mark.
FOREIGN_QUESTION: Final = re.compile(rf"[{MARKS}]|\uff1f(?!\w+[=\uff1d])|[\u0370-\u03ff\u1f00-\u1fff];(?![)(DP*-])")
# A first check: a search for one class takes a fraction of the pattern's time.
ANY_FOREIGN: Final = re.compile(f"[{MARKS}\uff1f;]")
# ASCII's question mark, except in a query that is not part of a found address: `index.php?id`, `?page=2`.
QUESTION: Final = re.compile(r"(?<!\.php)(?<!\.asp)(?<!\.aspx)(?<!\.jsp)(?<!\.html)\?(?![\w.%\[\]-]{1,64}=)")
# An encoded word of e-mail (RFC 2047).
ENCODED: Final = re.compile(r"=\?[\w-]{1,40}\?[bBqQ]\?[^?\s]*+\?=")
# A text of addresses alone: a `?` after the last one belongs to it.
ONLY_ADDRESSES: Final = re.compile(rf"[^\w?]*+(?<={addresses.PLACE})\?[^\w?]*+")

LOWER: Final = string.ascii_lowercase.encode()
ASCII: Final = re.compile(r"[\0-\x7f]+")
NO_LETTERS: Final = bytes(set(range(128)) - set(string.ascii_letters.encode()))
SHOUTING_LETTERS: Final = 8
SHOUTING_SHARE: Final = 0.7


def _links(sight: Sight) -> bool:
    return sight.linked


def _mentions(sight: Sight) -> bool:
    return "@" in sight.words and MENTION.search(sight.words) is not None


def _asks(sight: Sight) -> bool:
    typed, words = sight.text.typed, sight.words
    if not typed.isascii() and ANY_FOREIGN.search(typed) and FOREIGN_QUESTION.search(typed):
        return True
    if "?" not in words:
        return False
    if "=?" in words:
        words = ENCODED.sub(" ", words)
    return QUESTION.search(words) is not None and not (sight.linked and ONLY_ADDRESSES.fullmatch(words))


def _shouts(sight: Sight) -> bool:
    upper, letters = _count(sight.text.plain)
    return letters >= SHOUTING_LETTERS and upper / letters >= SHOUTING_SHARE


RULES: Final = (
    Rule(label="link", description="Holds a web address.", holds=_links),
    Rule(label="mention", description="Names someone with @.", holds=_mentions),
    Rule(label="question", description="Asks something.", holds=_asks),
    Rule(
        label="repeated",
        description=(
            f"Another comment has the same text (from {repetition.MIN_LENGTH} characters on: short answers repeat "
            "naturally)."
        ),
        holds=None,
    ),
    Rule(
        label="shouting",
        description=(
            f"Mostly capitals: at least {SHOUTING_LETTERS} letters with case, {SHOUTING_SHARE:.0%} of them upper."
        ),
        holds=_shouts,
    ),
)


def find(text: Text, found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `labels`: the labels of all rules that hold, sorted."""
    spans = addresses.find(text.plain, found["language"])
    words = addresses.without(text.plain, spans) if spans else text.plain
    sight = Sight(text, bool(spans) or text.linked, words)
    return {"labels": tuple(rule.label for rule in RULES if rule.holds and rule.holds(sight))}


def _count(text: str) -> tuple[int, int]:
    """Returns the number of capitals, and of letters with case."""
    upper, letters = _count_ascii(text)
    if not text.isascii():
        others = ASCII.sub("", text)
        capitals = sum(map(str.isupper, others))
        upper, letters = upper + capitals, letters + capitals + sum(map(str.islower, others))
    return upper, letters


def _count_ascii(text: str) -> tuple[int, int]:
    """Counts as `_count` does, but only ASCII characters, which needs no loop over the characters."""
    letters = text.encode("ascii", "ignore").translate(None, NO_LETTERS)
    return len(letters.translate(None, LOWER)), len(letters)
