"""What emoji and emoticons say, in any language. The `emoji` package parses them, a table here has their values."""

import functools
import re
from collections import Counter
from typing import Final, NamedTuple

import emoji

# The scale is that of VADER's words: 3 is "love", 1 "fine". An emoji that is not here says nothing either way, nor do
# those that stand for laughter as often as for grief: U+1F62D, U+1F480, U+1F979.
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
WEIGHTS: Final = {one: value for value, some in VALUES.items() for one in some.split()}
# A row of them says no more than some do.
MOST: Final = 3

# Text or emoji presentation, and the five skin tones: they change how an emoji is shown, not what it says.
SHOWN: Final = "\ufe0e\ufe0f\U0001f3fb-\U0001f3ff"
JOINER: Final = "\u200d"
# The begin of flags, keycaps and tags: no emoji on their own.
NO_EMOJI: Final = re.compile(f"[\\x00-\\x7f{SHOWN}{JOINER}\u20e3\U000e0000-\U000e0fff]")

# A look ahead by few ranges, in which all emoji lie: a class of all of them costs time at each letter of a text.
NEAR: Final = "(?=[\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff])"

# Emoticons are signs of every language too, each on its own between white space: inside a word they are punctuation.
EMOTICON: Final = re.compile(
    r"(?<!\S)(?:"
    r"(?P<good>[:;=8xX][-'^o]?[)\]}D]+|\([-']?[:;=]|<3+|\^[_.-]?\^|[xX]D+|:-?\*|:-?3|\\o/)"
    r"|(?P<bad>[:=]['-]{0,2}[(\[{]+|\)[-']?[:=]|</3+|>:-?[(\[]+|D:|T[_.]T|;[_.];|:-?[cC\\])"
    r")(?!\S)"
)
EMOTICON_VALUE: Final = 2.0


class Signs(NamedTuple):
    """What emoji and emoticons in a text amount to."""

    amount: int
    value: float


class Patterns(NamedTuple):
    """Built from the emoji that the package knows."""

    sequence: re.Pattern[str]  # one emoji with its selectors, tones and joined parts
    parts: re.Pattern[str]  # runs of the characters that emoji are made of


@functools.cache
def patterns() -> Patterns:
    """Both patterns; a text of ASCII needs none of them."""
    shown_as_text = {one for one, about in emoji.EMOJI_DATA.items() if about["status"] == emoji.STATUS["unqualified"]}
    every = {character for one in emoji.EMOJI_DATA for character in one if not NO_EMOJI.match(character)}
    # U+00A9 is an emoji only where a selector makes it one.
    plain = {one for one in every if one not in shown_as_text or one in WEIGHTS}
    part = f"{NEAR}(?:{_class(plain)}|{_class(every - plain)}(?=\ufe0f))[{SHOWN}]*+"
    return Patterns(
        re.compile(f"{part}(?:{JOINER}{_class(every)}[{SHOWN}]*+)*+"),
        re.compile(f"(?:{NEAR}{_class(every)}[{SHOWN}{JOINER}]*+)++"),
    )


def _class(characters: set[str]) -> str:
    """A pattern of one of these, by ranges."""
    ranges: list[list[int]] = []
    for number in sorted(map(ord, characters)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return "[" + "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in ranges) + "]"


def find_emoji(typed: str) -> Signs:
    """All emoji of a text as it was typed, glued to words or not."""
    if typed.isascii():
        return Signs(0, 0.0)
    found = Counter(patterns().sequence.findall(typed))
    return Signs(found.total(), sum(value(one) * min(times, MOST) for one, times in found.items()) if found else 0.0)


def find_emoticons(plain: str) -> Signs:
    """All emoticons of a text."""
    found = Counter(one.lastgroup for one in EMOTICON.finditer(plain))
    return Signs(found.total(), EMOTICON_VALUE * (min(found["good"], MOST) - min(found["bad"], MOST)))


@functools.lru_cache(maxsize=4096)
def value(one: str) -> float:
    """The value of an emoji: of the sequence, or of its joined parts."""
    bare = re.sub(f"[{SHOWN}]", "", one)
    return WEIGHTS[bare] if bare in WEIGHTS else sum(WEIGHTS.get(part, 0.0) for part in bare.split(JOINER))


def without_emoji(plain: str) -> str:
    """The text with a space in place of its emoji, so that words are words."""
    return patterns().parts.sub(" ", plain)
