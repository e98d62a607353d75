"""How much the end of a name with dots says about its being an address.

`end.in my opinion` and `example.in` are written alike. The Public Suffix List says which ends exist. The tables here
say which of them are words too, so that a full stop without a space behind it looks the same.
"""

import enum
import functools
from typing import Final

from publicsuffixlist import PublicSuffixList

from comment_monitor.analysis.findings.language import UNKNOWN


class Doubt(enum.Enum):
    """What else a suffix may be than the end of an address."""

    NONE = "nothing else"
    GENERIC = "a word that is mostly the end of an address where it is in small letters behind a dot"
    WORD = "a word that continues a sentence"
    REPLY = "a word that also makes a sentence on its own"
    FILE = "the end of a file's name"


# Country codes that are words (or chat's short forms of words), by language. Where no language is known: the union.
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
# Words of few languages, and the end of many addresses: without a language they count as the latter.
SELDOM: Final = frozenset("ai co".split())
UNION: Final = frozenset[str]().union(*WORDS.values()) - SELDOM
# English words stand in texts of every language; but where these are the country's own suffix, they are taken for it.
# (Not `es` of Spanish: "bonita.es verdad" is far more frequent than a shop's address.)
HOME: Final = {
    language: frozenset(suffixes.split())
    for language, suffixes in {
        "cs": "cz", "da": "dk", "de": "de at", "fr": "fr be", "hi": "in", "id": "id", "is": "is",
        "it": "it", "ms": "my", "nb": "no", "nl": "nl be", "nn": "no", "no": "no",
    }.items()
}  # fmt: skip

# Generic suffixes that are no words. All other generic ones are: hundreds of English words can be registered.
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
# A dot and these end the name of a program or of a document as well.
FILES: Final = frozenset("cc md mov ps py rs sh zip".split())
# Names under a country code, where a state's own pages stand on the suffix itself: `gov.uk`.
AUTHORITIES: Final = frozenset("gob gouv gov govt nhs".split())
# Suffixes in other scripts that are no words.
OTHER_SCRIPTS: Final = frozenset("рф укр бел срб мкд мон қаз бг ελ ευ ею рус онлайн сайт орг ком".split())


@functools.cache
def public_suffixes() -> PublicSuffixList:
    """The list in the package, and no other: the package asks no network."""
    return PublicSuffixList(accept_unknown=False, only_icann=True)


@functools.lru_cache(maxsize=4096)
def registrable(host: str) -> str | None:
    """The name and the suffix that a person can register: `example.co.uk` of `www.example.co.uk`."""
    found = public_suffixes().privatesuffix(host)
    return found if isinstance(found, str) else None


def is_second_level(host: str) -> bool:
    """Whether nobody can register it, because it is a suffix of two labels, such as `gov.uk`."""
    return host.count(".") == 1 and public_suffixes().is_public(host) and registrable(f"x.{host}") == f"x.{host}"


def is_authority(host: str) -> bool:
    """Whether it is such a suffix under which a country's own pages stand by themselves."""
    return host.partition(".")[0] in AUTHORITIES and is_second_level(host)


@functools.lru_cache(maxsize=4096)
def doubt(suffix: str, language: str) -> Doubt:
    """What else a suffix may be in a text of this language."""
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
