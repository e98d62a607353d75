"""Where web addresses stand in a text: with a scheme, with `www.`, or a name alone."""

import re
from collections.abc import Iterator
from typing import Final

from comment_monitor.analysis.findings import suffixes
from comment_monitor.analysis.findings.suffixes import Doubt

# What stands in an address's place in a text without addresses. `text.read` lets none through.
PLACE: Final = "\ufffc"

# In all patterns a quantifier keeps what it has (`++`) or is bounded: the time is linear in the text.
SLASHES: Final = re.compile(r"//(?=[\w\[])[^\s<>\"]*+")
SCHEME: Final = re.compile(r"(?i)(?<![a-z])[a-z][a-z\d+]{1,11}(?:\[:\]|:)\Z")
MAX_SCHEME: Final = 15
WWW: Final = re.compile(r"(?i)(?<![a-z\d@.-])www\d?\.[^\W_][^\s<>\"]*+")
_LATIN: Final = r"a-z\d\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff"
_TAIL: Final = r"(?P<port>:\d{2,5}(?!\w))?+(?P<path>/(?=[^\s/<>\"])[^\s<>\"]*+|[?#]\w[^\s<>\"=]*+=[^\s<>\"]*+)?+"
# A name of ASCII beside any script that writes no spaces, and a name with letters of others.
HOST: Final = re.compile(
    rf"(?i)(?<![{_LATIN}@.%+-])(?P<host>[a-z\d][a-z\d-]*+(?:\.[a-z\d-]++)++)(?![{_LATIN}@]){_TAIL}"
)
OTHER_HOST: Final = re.compile(rf"(?<![\w@.%+-])(?P<host>[^\W_][\w-]*+(?:\.[\w-]++)++)(?!@){_TAIL}")
# Written so that no program takes it for an address: the writer says that it is one.
HIDDEN: Final = re.compile(
    r"(?i)(?<![\w@.-])(?P<name>[^\W_][\w-]*+)(?:\s?\[\s?(?:\.|dot|punkt|punto|point)\s?\]\s?"
    r"|\s?\(\s?(?:\.|dot|punkt|punto|point)\s?\)\s?|\s?\{\s?(?:\.|dot)\s?\}\s?"
    r"| dot (?=(?:com|net|org|io|ai|edu|gov|info|biz|xyz)\b))(?P<suffix>[^\W\d_]{2,24})(?!\w)(?:/[^\s<>\"]*+)?"
)
BRACKETED: Final = re.compile(r"(?i)[\[({]\s?(?:\.|dot|pun)")
REST_OF_WORD: Final = re.compile(r"\S*+")
DOTTED: Final = re.compile(r"\.[\w-]")
IDEOGRAPHIC: Final = re.compile(r"(?i)(?<=[a-z\d])\u3002(?=[a-z\d])")
NUMBERS: Final = re.compile(r"(?:\d{1,3}\.){3}\d{1,3}")
# Behind an address these end the sentence, unless they close a query that says nothing.
TRAILING: Final = ".,;:!?)]}'*_~\u2026"
WORDLESS: Final = re.compile(r"[^\S\n]*+(?![^\W_])")
# "the dot com boom" names no host.
ARTICLES: Final = frozenset("a an all any every in of old that the this".split())
AT: Final = re.compile(r"(?i)(?:[\[({]\s?at\s?[\])}]|@)\s?\Z")

# Hosts that are given by name so often that they need no path, though their suffix is a word.
KNOWN: Final = frozenset(
    """
    about.me archive.is bio.link buy.me cutt.ly discord.gg fb.me g.co gofund.me goo.gl heylink.me is.gd j.mp
    line.me m.me me2.do op.gg p.me paypal.me play.gg s.id t.co t.ly t.me telegram.me tinyurl.is u.gg v.gd wa.me
    wp.me x.com youtu.be beacons.ai campsite.bio linkin.bio linktr.ee lnk.to smarturl.it solo.to spoti.fi ffm.to
    fanlink.to hypeddit.com
    """.split()
)
# Products that are named like a host.
PRODUCTS: Final = frozenset("ado.net asp.net vb.net ml.net".split())


def find(text: str, language: str) -> list[tuple[int, int]]:
    """Begin and end of each address in a text in plain form; those of one kind in order."""
    found: list[tuple[int, int]] = []
    if "//" in text:
        found += _with_scheme(text)
    bracketed = "(" in text or "[" in text or "{" in text
    if " dot " in text or " DOT " in text or (bracketed and BRACKETED.search(text)):
        found += [one.span() for one in HIDDEN.finditer(text) if _is_hidden(one)]
    if "\u3002" in text:
        text = IDEOGRAPHIC.sub(".", text)
    if "." in text and DOTTED.search(text):
        if "www" in text.lower():
            found += [_span(one) for one in WWW.finditer(text)]
        found += [_span(one) for one in _named(text) if _is_address(one, language)]
    return found


def without(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with a placeholder where addresses were."""
    pieces, last = [], 0
    for begin, end in sorted(spans):
        if begin >= last:
            pieces += [text[last:begin], PLACE]
        last = max(last, end)
    return "".join((*pieces, text[last:]))


def _with_scheme(text: str) -> Iterator[tuple[int, int]]:
    """From the slashes back: to look for a scheme at each letter takes many times as long."""
    last = 0
    for found in SLASHES.finditer(text):
        scheme = SCHEME.search(text, max(last, found.start() - MAX_SCHEME), found.start())
        if scheme:
            _, last = _span(found)
            yield scheme.start(), last


def _named(text: str) -> Iterator[re.Match[str]]:
    for begin, end in _dotted_words(text):
        yield from HOST.finditer(text, begin, end)
        if not text[begin:end].isascii():
            yield from (one for one in OTHER_HOST.finditer(text, begin, end) if not one["host"].isascii())


def _dotted_words(text: str) -> Iterator[tuple[int, int]]:
    """What stands between white space and holds a dot before a letter; the patterns need look at no other."""
    end = 0
    for dot in DOTTED.finditer(text):
        if dot.start() < end:
            continue
        begin = dot.start()
        while begin > end and not text[begin - 1].isspace():
            begin -= 1
        rest = REST_OF_WORD.match(text, dot.end())
        end = rest.end() if rest else dot.end()
        yield begin, end


def _span(found: re.Match[str]) -> tuple[int, int]:
    """Without the punctuation behind it; but `/?` is an address's own."""
    whole = found[0]
    bare = whole.rstrip(TRAILING)
    if bare.endswith("/") and whole[len(bare) : len(bare) + 1] == "?":
        bare += "?"
    return found.start(), found.start() + len(bare)


def _is_address(found: re.Match[str], language: str) -> bool:
    raw = found["host"].rstrip("-")
    host = raw.lower()
    path = found["path"] is not None
    if NUMBERS.fullmatch(host):
        return (path or found["port"] is not None) and all(int(one) < 256 for one in host.split("."))  # noqa: PLR2004
    # `ana(at)example.com` is an e-mail address.
    if AT.search(found.string, max(0, found.start() - 8), found.start()):
        return False
    registrable = suffixes.registrable(host)
    if registrable is None:
        return suffixes.is_authority(host) or (path and suffixes.is_second_level(host))
    name, _, suffix = registrable.partition(".")
    if path and suffixes.doubt(suffix, language) is not Doubt.FILE:
        return True
    if registrable in KNOWN or registrable in PRODUCTS:
        return registrable in KNOWN
    return _is_name(raw, name, suffix, language) and _has_evidence(found, raw, suffix, language)


def _is_name(raw: str, name: str, suffix: str, language: str) -> bool:
    """Whether the spelling is one of a host: no initials, no number, no sentence that begins with a capital."""
    doubt = suffixes.doubt(suffix, language)
    if doubt is Doubt.NONE:
        return len(name) > 1 and name != suffix and (not _begins_a_sentence(raw) or len(suffix) > 2)  # noqa: PLR2004
    return len(name) > 1 and not name.isdecimal() and not _begins_a_sentence(raw)


def _begins_a_sentence(raw: str) -> bool:
    """`end.In` is two sentences, and so is `end.IN`; `EXAMPLE.IN` is a host."""
    return raw.rpartition(".")[2][0].isupper() and not raw.isupper()


def _has_evidence(found: re.Match[str], raw: str, suffix: str, language: str) -> bool:
    doubt = suffixes.doubt(suffix, language)
    if "." in suffix or doubt in {Doubt.NONE, Doubt.GENERIC}:
        return True
    if doubt is Doubt.FILE:
        return found["path"] is not None and found["port"] is None
    labels = raw.split(".")
    if found["port"] or (len(labels) > 2 and min(map(len, labels)) > 1):  # noqa: PLR2004
        return True
    # A word that continues a sentence does not end it.
    return doubt is Doubt.WORD and WORDLESS.match(found.string, found.end()) is not None


def _is_hidden(found: re.Match[str]) -> bool:
    """Not an e-mail address, whose `at` is hidden the same way; not "the dot com boom"."""
    if found["name"].lower() in ARTICLES or AT.search(found.string, max(0, found.start() - 8), found.start()):
        return False
    return suffixes.registrable(f"{found['name']}.{found['suffix']}".lower()) is not None
