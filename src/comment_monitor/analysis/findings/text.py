"""Normalises a comment's text for all findings to the text that a reader sees. The stored text is unchanged."""

import re
import unicodedata
from typing import Final, NamedTuple

from comment_monitor.analysis.findings import markup

# Invisible characters: Unicode's Default_Ignorable_Code_Point, the annotation characters, and the control characters
# other than white space. U+FFFC replaces an object, such as an image.
INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff0-\ufffc\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Letters displayed as an empty space.
BLANK: Final = "\u115f\u1160\u2800\u3164\uffa0"
# Applied before NFKC, which would turn U+00B4 into two characters.
SPELLED: Final = {
    **dict.fromkeys(map(ord, BLANK), " "),
    **dict.fromkeys(
        map(ord, "\u00b4\u02b9\u02bb\u02bc\u02bd\u02c8\u055a\u05f3\u2018\u2019\u201b\u2032\ua78c\uff07"), "'"
    ),
    **dict.fromkeys(map(ord, "\u00ab\u00bb\u201c\u201d\u201e\u201f\u2033\uff02"), '"'),
}
RESPELLED: Final = re.compile("[" + "".join(map(chr, SPELLED)) + "]")
BACKTICK: Final = re.compile(r"(?<=[^\W\d_])`(?=[^\W\d_])")
# The most marks kept on one letter, as in Unicode's Stream-Safe Text Format (UAX #15): normalising a run of marks takes
# time quadratic in its length.
MARKS: Final = 30
NO_LETTERS: Final = re.compile(rf"[^\w\s]{{{MARKS + 1},}}")
# UTF-8 apostrophes decoded as Windows-1252.
MISREAD: Final = ("\u00e2\u20ac\u2122", "\u00e2\u20ac\u02dc")


class Text(NamedTuple):
    """A comment's text for analysis."""

    typed: str  # without markup, otherwise as sent
    plain: str  # in compatibility forms, without invisible characters, with one form of apostrophe and quotation mark
    linked: bool = False  # the markup contained a link


def read(text: str) -> Text:
    """Reads a comment's text for all findings."""
    linked = False
    if "<" in text or "&" in text:
        text, linked = markup.reduce(text)
    plain = text
    if not text.isascii():
        plain = INVISIBLE.sub("", _respelled(text))
        # NFKC comes last, because it decomposes some of the characters that are respelled above, such as U+00B4.
        plain = unicodedata.normalize("NFKC", NO_LETTERS.sub(_with_few_marks, plain))
    elif not text.isprintable():
        plain = INVISIBLE.sub("", text)
    if "`" in plain:
        plain = BACKTICK.sub("'", plain)
    return Text(text, plain, linked)


def _with_few_marks(found: re.Match[str]) -> str:
    """Returns the match with at most `MARKS` marks on each character."""
    kept = []
    marks = 0
    for sign in found[0]:
        marks = marks + 1 if unicodedata.category(sign).startswith("M") else 0
        if marks <= MARKS:
            kept.append(sign)
    return "".join(kept)


def _respelled(text: str) -> str:
    if MISREAD[0][:2] in text:
        for misread in MISREAD:
            text = text.replace(misread, "'")
    return text.translate(SPELLED) if RESPELLED.search(text) else text
