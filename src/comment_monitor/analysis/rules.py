"""Labels by rule. The rules are data: a label, what it means, and the pattern or numbers that decide."""

import re
import string
from collections.abc import Mapping
from typing import Any, Final

import msgspec


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Gives its label to texts in which `pattern` occurs, or whose capitals reach `upper_share`.

    `needs`: texts without any of these can't match the pattern, which is found out much sooner; `needs_pattern` is
    asked where none of them is there.
    """

    label: str
    description: str
    pattern: re.Pattern[str] | None = None
    needs: tuple[str, ...] = ()
    needs_pattern: re.Pattern[str] | None = None
    min_letters: int = 0
    upper_share: float | None = None
    across_comments: bool = False  # decided where the other comments are: by the statement that stores results


# Linear in the text: no quantifier over another one that could match the same characters.
LINK: Final = re.compile(
    r"(?i)https?://\S"
    r"|\bwww\.[a-z0-9-]"
    r"|(?<![\w@.-])[a-z0-9][a-z0-9-]{0,62}\."
    r"(?:com|net|org|info|biz|io|co|me|ly|tv|be|gl|gg|app|dev|xyz|shop|online|site|club|link|ru|de|uk|fr|in|br)"
    r"(?![\w-]|\.\w)(?:/\S)?"
)
# A name after an @ that does not stand in an e-mail address.
MENTION: Final = re.compile(r"(?<![\w@./+-])@\w[\w.]{0,63}")
# Question marks of several scripts, not those of an address's query. (The Greek one is by its number: it looks like a
# semicolon, and many an editor makes it one.)
QUESTION: Final = re.compile(r"[?？؟\u037e⁇⁈⁉](?![\w=&%])|¿")

LOWER: Final = string.ascii_lowercase.encode()
# A dot that ends no sentence.
DOTTED: Final = re.compile(r"\.[\w-]")
ASCII: Final = re.compile(r"[\0-\x7f]+")
NO_LETTERS: Final = bytes(set(range(128)) - set(string.ascii_letters.encode()))

REPEATED_MIN_LENGTH: Final = 14

RULES: Final = (
    Rule(label="link", description="Holds a web address.", pattern=LINK, needs=("://",), needs_pattern=DOTTED),
    Rule(label="mention", description="Names someone with @.", pattern=MENTION, needs=("@",)),
    Rule(label="question", description="Asks something.", pattern=QUESTION, needs=tuple("?？؟\u037e⁇⁈⁉¿")),
    Rule(
        label="repeated",
        description=(
            f"The same text stands in another comment too (from {REPEATED_MIN_LENGTH} characters on: short answers "
            "repeat naturally)."
        ),
        across_comments=True,
    ),
    Rule(
        label="shouting",
        description="Mostly capitals: at least 8 letters with case, 70 % of them upper.",
        min_letters=8,
        upper_share=0.7,
    ),
)


def find(text: str, _: Mapping[str, Any]) -> dict[str, Any]:
    """`labels`: those of all rules that hold, sorted."""
    return {"labels": tuple(rule.label for rule in RULES if _holds(rule, text))}


def _holds(rule: Rule, text: str) -> bool:
    if rule.pattern:
        return _may_hold(rule, text) and rule.pattern.search(text) is not None
    if rule.upper_share is None:
        return False
    upper, letters = _count(text)
    return letters >= rule.min_letters and upper / letters >= rule.upper_share


def _may_hold(rule: Rule, text: str) -> bool:
    for one in rule.needs:
        if one in text:
            return True
    return rule.needs_pattern.search(text) is not None if rule.needs_pattern else not rule.needs


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
