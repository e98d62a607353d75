"""Rates how certain the suffix of a dotted name makes it that the name is an address.

`end.in my opinion` and `example.in` have the same form. The Public Suffix List contains the suffixes that exist. The
tables here list which of them are also words, because a full stop without a space after it looks like a dot.
"""

import enum
import functools
from typing import Final

from publicsuffixlist import PublicSuffixList

from comment_monitor.analysis.findings.language import UNKNOWN


class Doubt(enum.Enum):
    """What a suffix may be other than the end of an address."""

    NONE = "nothing else"
    GENERIC = "a word that is mostly the end of an address if it is in lower case after a dot"
    WORD = "a word that continues a sentence"
    REPLY = "a word that also makes a sentence on its own"
    FILE = "a file name extension"


# Country codes that are words (or chat abbreviations), by language. Without a known language, the union applies.
WORDS: Final = {
    language: frozenset(words.split())
    for language, words in {
        "en": "af al am as at be bf by do dm fr ga gf gg gm hm id im in is it ma me ms my ne no pa pm so st tf to us "
        "ye",
        "cs": "co do je ma me na ne no se si su to",
        "da": "af ad al de er jo nu om se vi ni hr",
        "de": "am er es im in na ne nu je so hm hr",
        "es": "al ca de do es la me ni no pa se si su va ve pe",
        "fi": "me ne no se jo",
        "fr": "au ca de et eu es il je la ma me ne ni sa se si va vu mr",
        "hr": "do je im me mu na ne ni no se si su to",
        "hu": "az be de ki ma ne no se",
        "id": "ga gw la ni mu si",
        "it": "ad al ci in io la li ma me ne no se si so su va vi sa il",
        "nb": "de er jo na no nu om se vi so",
        "nl": "al de er ga in is je me na nu om so hm",
        "pl": "ci co do im je ma mu na no to",
        "pt": "ai ao as de do eu la me mt na no se so vc",
        "ro": "ai am au de eu la ma mi ne no nu pe sa se si su va vi",
        "sk": "co do je ma me na no sa si su to",
        "sl": "do je in me mu na ne ni se si so to",
        "sv": "de er nu om se vi ni sa",
        "sw": "la na ni si",
        "tl": "at mo na ng pa sa si",
        "tr": "al az bi de ki la mu ne su ve",
    }.items()
}
# Words of few languages, but suffixes of many addresses: without a language they count as suffixes.
SELDOM: Final = frozenset("ai co".split())
UNION: Final = frozenset[str]().union(*WORDS.values()) - SELDOM
# Texts of every language contain English words; but a suffix of the language's own country counts as a suffix.
# (Except `es` in Spanish: "bonita.es verdad" is far more frequent than a shop's address.)
HOME: Final = {
    language: frozenset(suffixes.split())
    for language, suffixes in {
        "cs": "cz", "da": "dk", "de": "de at", "fr": "fr be", "hi": "in", "id": "id", "is": "is",
        "it": "it", "ms": "my", "nb": "no", "nl": "nl be", "nn": "no", "no": "no",
    }.items()
}  # fmt: skip

# Generic suffixes that are not words. All others count as words: hundreds of English words can be registered.
NO_WORDS: Final = frozenset(
    "com org net edu gov mil int biz xyz aero coop jobs mobi icu sbs ngo ong llc ltd vip wiki".split()
)
GENERIC: Final = frozenset(
    "app bio blog cloud club dev digital info ink ninja online pro shop site social store tech top website xn".split()
)
REPLIES: Final = frozenset(
    "me no so fr af gg ye hm us it st gm best bingo black blue boo cool dad fail fans fish forever free fun gay gift "
    "goo here how kim like lol love meet men moe mom new next now ooo one pink porn read red rip rocks sale sex sexy "
    "star sucks tips today total vote win wow wtf xxx you zero yes zip call song yoga team work works".split()
)
# These are also file name extensions.
FILES: Final = frozenset("cc md mov ps py rs sh zip".split())
# Second-level names of governments, whose pages are on the suffix itself: `gov.uk`.
AUTHORITIES: Final = frozenset("gob gouv gov govt nhs".split())
# Suffixes in other scripts that are not words.
OTHER_SCRIPTS: Final = frozenset("рф укр бел срб мкд мон қаз бг ελ ευ ею рус онлайн сайт орг ком".split())


@functools.cache
def public_suffixes() -> PublicSuffixList:
    """Returns the list bundled with the package, which uses no network."""
    return PublicSuffixList(accept_unknown=False, only_icann=True)


@functools.lru_cache(maxsize=4096)
def registrable(host: str) -> str | None:
    """Returns the part of a host that can be registered: `example.co.uk` of `www.example.co.uk`."""
    found = public_suffixes().privatesuffix(host)
    return found if isinstance(found, str) else None


def is_second_level(host: str) -> bool:
    """Returns whether the host is itself a suffix of two labels, such as `gov.uk`, which nobody can register."""
    return host.count(".") == 1 and public_suffixes().is_public(host) and registrable(f"x.{host}") == f"x.{host}"


def is_authority(host: str) -> bool:
    """Returns whether the host is a suffix of two labels that has pages of a government itself."""
    return host.partition(".")[0] in AUTHORITIES and is_second_level(host)


@functools.lru_cache(maxsize=4096)
def doubt(suffix: str, language: str) -> Doubt:
    """Returns what else a suffix may be in a text of this language."""
    if suffix in FILES:
        return Doubt.FILE
    if not suffix.isascii():
        return Doubt.NONE if suffix in OTHER_SCRIPTS else Doubt.REPLY
    a_country = len(suffix) == 2  # noqa: PLR2004 - as every country code
    if suffix in NO_WORDS or suffix.startswith("xn--") or (a_country and suffix not in _words(language)):
        return Doubt.NONE
    if suffix in GENERIC:
        return Doubt.GENERIC
    return Doubt.REPLY if suffix in REPLIES else Doubt.WORD


def _words(language: str) -> frozenset[str]:
    if language == UNKNOWN or language not in WORDS:
        return UNION - HOME.get(language, frozenset())
    return WORDS[language] | (WORDS["en"] - HOME.get(language, frozenset()))
