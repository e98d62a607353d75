"""Readable ids of parametrized cases, made of characters that no shell interprets."""

import re
import unicodedata
from typing import Final

LONGEST: Final = 40
_SAFE: Final = re.compile(r"[A-Za-z0-9.,:=+@/%_-]")


def case_id(value: object) -> str | None:
    """Returns the id of a text: its beginning, in which `-` replaces unsafe characters; None: pytest chooses the id.

    Characters beyond ASCII, and a text of punctuation only, are written as Unicode names. Pytest numbers equal ids.
    """
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        return None
    beginning = value[:LONGEST]
    return _join(beginning, names=False) or _join(beginning, names=True) or "empty"


def _join(text: str, *, names: bool) -> str:
    words = "".join(_word(character, name=names or not character.isascii()) for character in text)
    shortened = re.sub("-{2,}", "-", words).strip("-")[:LONGEST].strip("-")
    return shortened if re.search("[A-Za-z0-9]", shortened) else ""


def _word(character: str, *, name: bool) -> str:
    if _SAFE.match(character) and not name:
        return character
    if not name:
        return "-"
    words = unicodedata.name(character, f"u{ord(character):x}").lower()
    return f"-{re.sub('[^a-z0-9]+', '-', words)}-"
