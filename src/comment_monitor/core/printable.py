"""Escapes foreign text for a terminal: characters that move the cursor, set colours, reverse text or begin a line."""

from collections.abc import Mapping
from typing import Any, Final

# Joiners and spaces that emoji and several scripts need: they only join or separate characters.
HARMLESS: Final = frozenset("\u200c\u200d\u00a0\u3000")


def printable(text: str) -> str:
    r"""Returns the text as one line without control characters: ESC becomes `\x1b`, the end of a line `\n`."""
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    if character.isprintable() or character in HARMLESS:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()


def all_printable(value: Any) -> Any:
    """Returns the structure with `printable` applied to every text, including the keys of mappings."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {all_printable(key): all_printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [all_printable(item) for item in value]
    return value
