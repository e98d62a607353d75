"""Text of others on a terminal: what would move its cursor, colour it, reverse it or begin a line is written out."""

from collections.abc import Mapping
from typing import Any, Final

# They only join signs or keep them apart; emoji and several scripts need them.
HARMLESS: Final = frozenset("\u200c\u200d\u00a0\u3000")


def printable(text: str) -> str:
    r"""The text as one line that a terminal shows as it is: ESC becomes `\x1b`, a line's end `\n`."""
    return text if text.isprintable() else "".join(map(_sign, text))


def _sign(sign: str) -> str:
    if sign.isprintable() or sign in HARMLESS:
        return sign
    return sign.encode("unicode_escape", "surrogatepass").decode()


def all_printable(value: Any) -> Any:
    """The same for every text of a structure, names of members as well."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {all_printable(key): all_printable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [all_printable(one) for one in value]
    return value
