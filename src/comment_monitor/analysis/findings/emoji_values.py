"""Rates emoji and emoticons in texts of any language. The `emoji` package parses emoji; a table here has values."""

import functools
import re
from collections import Counter
from typing import Final, NamedTuple

import emoji

# The scale is that of VADER's words: 3 is "love", 1 is "fine". Other emoji have no value, including those that express
# laughter as often as grief: U+1F62D, U+1F480, U+1F979.
VALUES: Final = {
    3.0: "❤ 🧡 💛 💚 💙 💜 🖤 🤍 🤎 🩷 🩵 🩶 💖 💗 💓 💞 💕 💘 💝 💟 ❣ 💌 😍 🥰 🤩 😻 🫶 ♥ 💑 💏 ❤‍🔥",
    2.5: "😘 😊 ☺ 😁 😄 😃 😀 😚 😙 😗 🤗 🥳 🎉 🎊 🏆 💯 🙌 😂 🤣 😹 😸 😺 😽 ❤‍🩹",
    2.0: "👍 👏 🙏 🔥 💪 😎 😇 😋 😆 🌹 💐 🥇 👌 🤌 ✨ 🌟 💋 🫂 🤟 🎂 🥂 🍾 ⭐ 👑 🐐 ✅ 🫡 😌 🤝",
    1.5: "🙂 😉 😝 😜 🤪 😛 ✌ 🤞 🤙 🌸 🌺 🌷 🌻 🌈 ☀ 🌞 🎁 🥈 🥉 🏅 🎖 🎈 🍻 🍀 💎 💃 🕺 🤘 👼 😅 🚀 🫰 ✔ 💅 🙂‍↕",
    -1.0: "😐 😑 😒 🙄 😕 🫤 😬 😟 🙁 ☹ 😮‍💨 😥 😓 😰 😧 🤨 😤 😵 🤕 🤒 🙈 ⚠ 🥱 🙂‍↔ 😵‍💫",
    -1.5: "😔 😞 😣 😖 😩 😫 😨 😦 🥀 🤦 😠 🚩 ❌ 🤥 😿 🙀 😾 ⛔ 🚫 🙅 🤡 🐍",
    -2.0: "😢 👎 😱 💩 🤢 🗑 😪 🖕",
    -3.0: "💔 😡 🤬 🤮 👿 ☠ 🪦 ⚰",
}
WEIGHTS: Final = {sign: value for value, signs in VALUES.items() for sign in signs.split()}
# The most repetitions of an emoji, or emoticons of one kind, that count.
MOST: Final = 3

# Text or emoji presentation, and the five skin tones: they change an emoji's appearance, not its meaning.
SHOWN: Final = "\ufe0e\ufe0f\U0001f3fb-\U0001f3ff"
JOINER: Final = "\u200d"
# Parts of flags, keycaps and tags, which are not emoji on their own.
NO_EMOJI: Final = re.compile(f"[\\x00-\\x7f{SHOWN}{JOINER}\u20e3\U000e0000-\U000e0fff]")

# A lookahead with few ranges that contain all emoji: testing the class of all emoji at each letter would be slower.
NEAR: Final = "(?=[\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff])"

# Emoticons also belong to every language. Each must be surrounded by white space: inside a word it is punctuation.
EMOTICON: Final = re.compile(
    r"(?<!\S)(?:"
    r"(?P<good>[:;=8xX][-'^o]?[)\]}D]+|\([-']?[:;=]|<3+|\^[_.-]?\^|[xX]D+|:-?\*|:-?3|\\o/)"
    r"|(?P<bad>[:=]['-]{0,2}[(\[{]+|\)[-']?[:=]|</3+|>:-?[(\[]+|D:|T[_.]T|;[_.];|:-?[cC\\])"
    r")(?!\S)"
)
EMOTICON_VALUE: Final = 2.0


class Signs(NamedTuple):
    """The number of emoji or emoticons in a text, and the sum of their values."""

    amount: int
    value: float


class Patterns(NamedTuple):
    """Patterns built from the emoji that the package knows."""

    sequence: re.Pattern[str]  # one emoji with its selectors, tones and joined parts
    parts: re.Pattern[str]  # runs of the characters that emoji consist of


@functools.cache
def patterns() -> Patterns:
    """Builds both patterns on first use; an ASCII text does not need them."""
    shown_as_text = {sign for sign, data in emoji.EMOJI_DATA.items() if data["status"] == emoji.STATUS["unqualified"]}
    every = {character for sign in emoji.EMOJI_DATA for character in sign if not NO_EMOJI.match(character)}
    # Characters such as U+00A9 are emoji only with a selector.
    plain = {character for character in every if character not in shown_as_text or character in WEIGHTS}
    part = f"{NEAR}(?:{_class(plain)}|{_class(every - plain)}(?=\ufe0f))[{SHOWN}]*+"
    return Patterns(
        re.compile(f"{part}(?:{JOINER}{_class(every)}[{SHOWN}]*+)*+"),
        re.compile(f"(?:{NEAR}{_class(every)}[{SHOWN}{JOINER}]*+)++"),
    )


def _class(characters: set[str]) -> str:
    """Returns a character class of these characters, written as ranges."""
    ranges: list[list[int]] = []
    for number in sorted(map(ord, characters)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return "[" + "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in ranges) + "]"


def find_emoji(typed: str) -> Signs:
    """Finds all emoji of a text as typed, with or without spaces around them."""
    if typed.isascii():
        return Signs(0, 0.0)
    found = Counter(patterns().sequence.findall(typed))
    return Signs(found.total(), sum(value(sign) * min(times, MOST) for sign, times in found.items()) if found else 0.0)


def find_emoticons(plain: str) -> Signs:
    """Finds all emoticons of a text."""
    found = Counter(match.lastgroup for match in EMOTICON.finditer(plain))
    return Signs(found.total(), EMOTICON_VALUE * (min(found["good"], MOST) - min(found["bad"], MOST)))


@functools.lru_cache(maxsize=4096)
def value(sign: str) -> float:
    """Returns the value of an emoji: that of the whole sequence, or else the sum of its joined parts."""
    bare = re.sub(f"[{SHOWN}]", "", sign)
    return WEIGHTS[bare] if bare in WEIGHTS else sum(WEIGHTS.get(part, 0.0) for part in bare.split(JOINER))


def without_emoji(plain: str) -> str:
    """Replaces emoji with spaces, so that they do not join words."""
    return patterns().parts.sub(" ", plain)
