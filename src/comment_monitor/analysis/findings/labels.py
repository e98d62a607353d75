"""Labels by rule. The rules are data: a label, what it means, and the function that decides."""

import re
import string
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from comment_monitor.analysis.findings import addresses, repetition
from comment_monitor.analysis.findings.text import Text


class Sight(NamedTuple):
    """A text as the rules see it."""

    text: Text
    linked: bool  # holds an address
    words: str  # the plain text, an `addresses.PLACE` where an address was


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Gives its label to texts for which `holds` is true."""

    label: str
    description: str
    # None: decided where the other comments are, by the statement that stores results.
    holds: Callable[[Sight], bool] | None


# A name after an @ that does not stand in an e-mail address: those are written in Latin letters and digits. What begins
# with a small number is a price: `@5`, `@1.99 each`, `@10k`.
_LATIN: Final = r"A-Za-z0-9\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff"
MENTION: Final = re.compile(
    rf"(?<![{_LATIN}@])(?<![{_LATIN}][_%+-])@(?!\d{{1,4}}(?:[.,]\d{{1,9}})?[km%]?(?!\w))(?:\w|\[\d)"
)
# Question marks of all scripts but ASCII's. None is used in an address, but for the full-width one of a query.
MARKS: Final = (
    "\u00bf\u037e\u055e\u061f\u1367\u1945\u203d\u2047\u2048\u2049\u2753\u2754\u2cfa\u2cfb\u2e18\u2e2e\u2e54\ua60f\ua6f7"
    "\ufe16\ufe56\U00011143\U0001e95f\U0001f679\U0001f67a\U0001f67b\U0001fbc4"
)
# Greek keyboards have a semicolon for it.
FOREIGN_QUESTION: Final = re.compile(rf"[{MARKS}]|\uff1f(?!\w+[=\uff1d])|[\u0370-\u03ff\u1f00-\u1fff];(?![)(DP*-])")
# One class is looked for in a fraction of the time that the pattern takes.
ANY_FOREIGN: Final = re.compile(f"[{MARKS}\uff1f;]")
# ASCII's, but not that of a query whose address is cut off: `index.php?id`, `?page=2`.
QUESTION: Final = re.compile(r"(?<!\.php)(?<!\.asp)(?<!\.aspx)(?<!\.jsp)(?<!\.html)\?(?![\w.%\[\]-]{1,64}=)")
# An encoded word of a mail.
ENCODED: Final = re.compile(r"=\?[\w-]{1,40}\?[bBqQ]\?[^?\s]*+\?=")
# Nothing but addresses: the last one's `?` is its own.
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
            f"The same text stands in another comment too (from {repetition.MIN_LENGTH} characters on: short answers "
            "repeat naturally)."
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
    """`labels`: those of all rules that hold, sorted."""
    spans = addresses.find(text.plain, found["language"])
    words = addresses.without(text.plain, spans) if spans else text.plain
    sight = Sight(text, bool(spans) or text.linked, words)
    return {"labels": tuple(rule.label for rule in RULES if rule.holds and rule.holds(sight))}


def _count(text: str) -> tuple[int, int]:
    """How many capitals, and how many letters that have case."""
    upper, letters = _count_ascii(text)
    if not text.isascii():
        others = ASCII.sub("", text)
        capitals = sum(map(str.isupper, others))
        upper, letters = upper + capitals, letters + capitals + sum(map(str.islower, others))
    return upper, letters


def _count_ascii(text: str) -> tuple[int, int]:
    """The same of what is ASCII in it, which needs no look at each character."""
    letters = text.encode("ascii", "ignore").translate(None, NO_LETTERS)
    return len(letters.translate(None, LOWER)), len(letters)
