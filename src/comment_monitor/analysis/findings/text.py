"""The text that all findings read: what a reader sees, in one spelling. What is stored stays as it came."""

import re
import unicodedata
from typing import Final, NamedTuple

from comment_monitor.analysis.findings import markup

# Characters that show nothing: Unicode's Default_Ignorable_Code_Point, the annotation signs, and the controls that are
# no white space. U+FFFC is an image that is not in the text.
INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff0-\ufffc\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Letters that show an empty place: a reader sees a space.
BLANK: Final = "\u115f\u1160\u2800\u3164\uffa0"
# Before NFKC, which would make two characters of U+00B4.
SPELLED: Final = {
    **dict.fromkeys(map(ord, BLANK), " "),
    **dict.fromkeys(
        map(ord, "\u00b4\u02b9\u02bb\u02bc\u02bd\u02c8\u055a\u05f3\u2018\u2019\u201b\u2032\ua78c\uff07"), "'"
    ),
    **dict.fromkeys(map(ord, "\u00ab\u00bb\u201c\u201d\u201e\u201f\u2033\uff02"), '"'),
}
RESPELLED: Final = re.compile("[" + "".join(map(chr, SPELLED)) + "]")
BACKTICK: Final = re.compile(r"(?<=[^\W\d_])`(?=[^\W\d_])")
# Marks on one letter that are looked at, as Unicode's Stream-Safe Text Format has it (UAX #15): to bring a run of them
# into order takes the square of its length.
MARKS: Final = 30
NO_LETTERS: Final = re.compile(rf"[^\w\s]{{{MARKS + 1},}}")
# UTF-8 that somebody read as Windows-1252.
MISREAD: Final = ("\u00e2\u20ac\u2122", "\u00e2\u20ac\u02dc")


class Text(NamedTuple):
    """A comment's text for analysis."""

    typed: str  # without markup, otherwise as it came
    plain: str  # in compatibility forms, without what is invisible, with one apostrophe and one quotation mark
    linked: bool = False  # the markup held a link


def read(text: str) -> Text:
    """Reads a comment's text; once a text."""
    linked = False
    if "<" in text or "&" in text:
        text, linked = markup.reduce(text)
    plain = text
    if not text.isascii():
        plain = INVISIBLE.sub("", _respelled(text))
        # Taken apart, some characters show another that is invisible or an apostrophe: none is left.
        plain = unicodedata.normalize("NFKC", NO_LETTERS.sub(_with_few_marks, plain))
    elif not text.isprintable():
        plain = INVISIBLE.sub("", text)
    if "`" in plain:
        plain = BACKTICK.sub("'", plain)
    return Text(text, plain, linked)


def _with_few_marks(found: re.Match[str]) -> str:
    """The same without the marks that are too many on one letter or sign."""
    kept = []
    marks = 0
    for sign in found[0]:
        marks = marks + 1 if unicodedata.category(sign).startswith("M") else 0
        if marks <= MARKS:
            kept.append(sign)
    return "".join(kept)


def _respelled(text: str) -> str:
    if MISREAD[0][:2] in text:
        for one in MISREAD:
            text = text.replace(one, "'")
    return text.translate(SPELLED) if RESPELLED.search(text) else text
