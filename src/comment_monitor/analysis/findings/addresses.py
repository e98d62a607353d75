"""Finds web addresses in a text: with a scheme, with `www.`, or as a bare host name."""

import re
from collections.abc import Iterator
from typing import Final

from comment_monitor.analysis.findings import suffixes
from comment_monitor.analysis.findings.suffixes import Doubt

# Replaces an address in a text. `text.read` removes this character from texts.
PLACE: Final = "\ufffc"

# All quantifiers are possessive (`++`) or bounded, so the time is linear in the text.
SLASHES: Final = re.compile(r"//(?=[\w\[])[^\s<>\"]*+")
SCHEME: Final = re.compile(r"(?i)(?<![a-z])[a-z][a-z\d+]{1,11}(?:\[:\]|:)\Z")
MAX_SCHEME: Final = 15
WWW: Final = re.compile(r"(?i)(?<![a-z\d@.-])www\d?\.[^\W_][^\s<>\"]*+")
_LATIN: Final = r"a-z\d\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff"
_TAIL: Final = r"(?P<port>:\d{2,5}(?!\w))?+(?P<path>/(?=[^\s/<>\"])[^\s<>\"]*+|[?#]\w[^\s<>\"=]*+=[^\s<>\"]*+)?+"
# An ASCII host, also next to a script that is written without spaces; and a host with letters of other scripts.
HOST: Final = re.compile(
    rf"(?i)(?<![{_LATIN}@.%+-])(?P<host>[a-z\d][a-z\d-]*+(?:\.[a-z\d-]++)++)(?![{_LATIN}@]){_TAIL}"
)
OTHER_HOST: Final = re.compile(rf"(?<![\w@.%+-])(?P<host>[^\W_][\w-]*+(?:\.[\w-]++)++)(?!@){_TAIL}")
# An address obfuscated by its author, such as `example[dot]com`.
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
# After an address these belong to the sentence, except a `?` after a `/`: an empty query.
TRAILING: Final = ".,;:!?)]}'*_~\u2026"
WORDLESS: Final = re.compile(r"[^\S\n]*+(?![^\W_])")
# "the dot com boom" contains no host.
ARTICLES: Final = frozenset("a an all any every in of old that the this".split())
AT: Final = re.compile(r"(?i)(?:[\[({]\s?at\s?[\])}]|@)\s?\Z")

# Hosts so frequent without a path that they count as addresses, although their suffix is a word.
KNOWN: Final = frozenset(
    """
    about.me archive.is bio.link buy.me cutt.ly discord.gg fb.me g.co gofund.me goo.gl heylink.me is.gd j.mp
    line.me m.me me2.do op.gg p.me paypal.me play.gg s.id t.co t.ly t.me telegram.me tinyurl.is u.gg v.gd wa.me
    wp.me x.com youtu.be beacons.ai campsite.bio linkin.bio linktr.ee lnk.to smarturl.it solo.to spoti.fi ffm.to
    fanlink.to hypeddit.com
    """.split()
)
# Product names that look like a host.
PRODUCTS: Final = frozenset("ado.net asp.net vb.net ml.net".split())


def find(text: str, language: str) -> list[tuple[int, int]]:
    """Returns begin and end of each address in a plain text; addresses of the same kind are in order."""
    found: list[tuple[int, int]] = []
    if "//" in text:
        found += _with_scheme(text)
    bracketed = "(" in text or "[" in text or "{" in text
    if " dot " in text or " DOT " in text or (bracketed and BRACKETED.search(text)):
        found += [match.span() for match in HIDDEN.finditer(text) if _is_hidden(match)]
    if "\u3002" in text:
        text = IDEOGRAPHIC.sub(".", text)
    if "." in text and DOTTED.search(text):
        if "www" in text.lower():
            found += [_span(match) for match in WWW.finditer(text)]
        found += [_span(match) for match in _named(text) if _is_address(match, language)]
    return found


def without(text: str, spans: list[tuple[int, int]]) -> str:
    """Replaces the addresses in a text with a placeholder."""
    pieces, last = [], 0
    for begin, end in sorted(spans):
        if begin >= last:
            pieces += [text[last:begin], PLACE]
        last = max(last, end)
    return "".join((*pieces, text[last:]))


def _with_scheme(text: str) -> Iterator[tuple[int, int]]:
    """Yields addresses with a scheme. Searches backwards from the slashes, many times faster than from each letter."""
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
            yield from (match for match in OTHER_HOST.finditer(text, begin, end) if not match["host"].isascii())


def _dotted_words(text: str) -> Iterator[tuple[int, int]]:
    """Yields words that contain a dot before a letter or digit: only they can match the host patterns."""
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
    """Returns begin and end of an address without the punctuation after it; a final `/?` is kept."""
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
        return (path or found["port"] is not None) and all(int(number) < 256 for number in host.split("."))  # noqa: PLR2004
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
    """Returns whether the spelling is that of a host: not initials, a number, or a new sentence with a capital."""
    doubt = suffixes.doubt(suffix, language)
    if doubt is Doubt.NONE:
        return len(name) > 1 and name != suffix and (not _begins_a_sentence(raw) or len(suffix) > 2)  # noqa: PLR2004
    return len(name) > 1 and not name.isdecimal() and not _begins_a_sentence(raw)


def _begins_a_sentence(raw: str) -> bool:
    """Returns whether a new sentence begins after the last dot: in `end.In` and `end.IN`, but not in `EXAMPLE.IN`."""
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
    # A word that continues a sentence is not followed by its end; a suffix may be.
    return doubt is Doubt.WORD and WORDLESS.match(found.string, found.end()) is not None


def _is_hidden(found: re.Match[str]) -> bool:
    """Returns whether a match is an address, not an obfuscated e-mail address or "the dot com boom"."""
    if found["name"].lower() in ARTICLES or AT.search(found.string, max(0, found.start() - 8), found.start()):
        return False
    return suffixes.registrable(f"{found['name']}.{found['suffix']}".lower()) is not None
