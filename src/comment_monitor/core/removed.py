"""Texts by which platforms say that a comment was removed, such as "[removed]"; removed.toml lists them per source."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Final, NamedTuple

# The table in removed.toml that applies to every source.
ANY_SOURCE: Final = "*"
# `*` in a notice matches a name or a few words. It matches no dot, slash, @ or bracket: otherwise a sender could hide
# an address from the analysis between the brackets of a notice.
SOMEBODY: Final = r"[\w '’-]{1,60}"
# Characters of Markdown's emphasis and escapes around a notice.
MARKDOWN: Final = str.maketrans("", "", "\\*_")


class Notices(NamedTuple):
    """The notices of one source: a pattern of all, their possible first characters, and the longest possible length."""

    pattern: re.Pattern[str]
    first: frozenset[str]
    longest: int


def _compile(texts: Iterable[str]) -> Notices:
    known = [" ".join(text.casefold().split()) for text in texts]
    patterns = [SOMEBODY.join(map(re.escape, text.split("*"))) for text in known]
    first = {text[0] for text in known}
    return Notices(
        pattern=re.compile("|".join(patterns)),
        first=frozenset(first | {character.upper() for character in first} | set("\\*_ \n\r\t\u00a0")),
        # Leaves space for the words of `*`, emphasis and blanks.
        longest=2 * max(map(len, known)) + 60,
    )


def _load() -> Mapping[str, Notices]:
    document = tomllib.loads(files(__package__).joinpath("removed.toml").read_text(encoding="utf-8"))
    everywhere = document[ANY_SOURCE]["notices"]
    return {source: _compile([*everywhere, *table["notices"]]) for source, table in document.items()}


NOTICES: Final = _load()


def is_removed(source: str, text: str) -> bool:
    """Whether the whole text is a removal notice of this source, which is given in its canonical spelling."""
    notices = NOTICES.get(source) or NOTICES[ANY_SOURCE]
    if text[:1] not in notices.first or len(text) > notices.longest:
        return False
    return notices.pattern.fullmatch(" ".join(text.translate(MARKDOWN).casefold().split())) is not None
