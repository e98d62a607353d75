"""Reduces a platform's HTML to the text that readers see. The parsing is strict: `<3` and `a < b` remain."""

import html
import re
from typing import Final, NamedTuple
from urllib.parse import unquote

# Only well-formed tags with these names are tags; everything else is text that an author typed.
NAMES: Final = """
    a abbr article b bdi bdo big blockquote body br caption center cite code dd del details div dl dt em
    figcaption  figure font footer h1 h2 h3 h4 h5 h6 header hr html i img ins kbd li main mark nav ol p picture
    pre q rp rt ruby s  samp section small span strike strong sub summary sup table tbody td tfoot th thead time
    tr tt u ul var video wbr
"""
# All quantifiers are possessive, and no value contains a `<`, so the time is linear in the text.
TAG: Final = re.compile(
    rf"(?i)<(?P<end>/?)(?P<name>{'|'.join(NAMES.split())})(?![\w:-])"
    r"(?P<attributes>(?:[\s/]++[\w:@.-]++(?:\s*+=\s*+(?:\"[^\"<]*+\"|'[^'<]*+'|[^\s\"'<>]++))?+)*+)[\s/]*+>"
)
HREF: Final = re.compile(r"(?i)(?<![\w:-])href\s*+=\s*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\s\"']++))")
INLINE: Final = frozenset(
    "a abbr b bdi bdo big cite code del em font i ins kbd mark q s samp small span strong u wbr".split()
)
# The length of numbers is limited, because Python refuses to convert very long ones.
ENTITY: Final = re.compile(r"&(?:#0{0,8}\d{1,7};?|#[xX]0{0,8}[\da-fA-F]{1,6};?|[a-zA-Z][a-zA-Z\d]{1,31};)")
# The most passes: an export of an export escapes twice.
ROUNDS: Final = 3

ABSOLUTE: Final = re.compile(r"(?i)\s*+(?:https?:)?//[^\s/?#]")
# Texts that platforms turn into anchors automatically: a name, a tag, a time in a video.
NAMED: Final = re.compile(r"\s*+@([\w.-]++)(?:@[\w.-]++)?\s*+")
TAGGED: Final = re.compile(r"\s*+[#＃](\w++)\s*+")
TIMED: Final = re.compile(r"\s*+\d{1,3}(?::\d\d){1,2}\s*+")
YOUTUBE: Final = re.compile(r"(?i)\s*+(?:https?:)?//(?:www\.|m\.)?(?:youtube\.com|youtu\.be)(?=[/?#]|$)")


class Reduced(NamedTuple):
    """The text without its markup, and whether it contains an anchor to an address that the author gave."""

    text: str
    linked: bool


def reduce(text: str) -> Reduced:
    """Removes tags and decodes entities; a tag that begins a new line becomes a line break."""
    linked = False
    for _ in range(ROUNDS):
        before = text
        if "<" in text:
            text, anchored = _without_tags(text)
            linked = linked or anchored
        if "&" in text:
            text = ENTITY.sub(_character, text)
        if text == before:
            break
    return Reduced(text, linked)


def _character(found: re.Match[str]) -> str:
    return html.unescape(found[0])


def _without_tags(text: str) -> tuple[str, bool]:
    """Returns the text between the tags, and whether one of the anchors is a link."""
    pieces: list[str] = []
    href, begin, linked, last = "", 0, False, 0
    for tag in TAG.finditer(text):
        pieces.append(text[last : tag.start()])
        last = tag.end()
        name = tag["name"].lower()
        if name == "a":
            linked = linked or _is_link(href, "".join(pieces[begin:]))
            href, begin = ("" if tag["end"] else _href(tag["attributes"])), len(pieces)
        elif name not in INLINE:
            pieces.append("\n")
    pieces.append(text[last:])
    linked = linked or _is_link(href, "".join(pieces[begin:]))
    return "".join(pieces), linked


def _href(attributes: str) -> str:
    found = HREF.search(attributes)
    return html.unescape(next(filter(None, found.groups()), "")) if found and len(found[0]) < len(attributes) else ""


def _is_link(href: str, words: str) -> bool:
    """Returns whether the author made an anchor: the anchors that platforms add repeat their words in the href."""
    if not ABSOLUTE.match(href):
        return False
    here = YOUTUBE.match(href) is not None
    if TIMED.fullmatch(words):
        return not here
    words = html.unescape(words)
    if found := NAMED.fullmatch(words) or TAGGED.fullmatch(words):
        last = unquote(href.rstrip("/")).replace("=", "/").rsplit("/", 1)[-1]
        return not (here or last.lstrip("@#").casefold() == found[1].casefold())
    return True
