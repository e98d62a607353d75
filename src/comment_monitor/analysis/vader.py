"""VADER's compound score in time linear in the text.

The library looks at every word and, at each that it knows, copies the whole text several times over. Here it is shown
only the words that it knows, each with the three before it and the two after it, which is all that its rules read.
The scores are the library's own, to the last digit: a test compares them.
"""

import functools
import re
import string
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from vaderSentiment.vaderSentiment import (
    BOOSTER_DICT,
    C_INCR,
    N_SCALAR,
    NEGATE,
    SPECIAL_CASES,
    SentimentIntensityAnalyzer,
    allcap_differential,
    normalize,
)

BEFORE: Final = 3
AFTER: Final = 2
NOT: Final = "n't"
NEGATIONS: Final = frozenset(NEGATE)
EMPHASIS: Final = frozenset(("so", "this"))
NEVER_SO: Final = 1.25
# What punctuation leaves of a word that is so short may be an emoticon, and stays whole.
EMOTICON: Final = 2
RAISED: Final[float] = C_INCR
# Where none of these is near, a word has the weight that the lexicon gives it: of a phrase one word stands for all.
CONTEXT: Final = frozenset(
    max(phrase.split(), key=len)
    for phrase in (*NEGATE, *BOOSTER_DICT, *SPECIAL_CASES, "no", "least", "never", "so", "this", "without")
)
# What the library rounds its score to.
DIGITS: Final = 4
BUT: Final = "but"
# Ranges of a pattern cost time at each character, a character in them that is none costs a look into the dictionary.
GAP: Final = 512


class Window(NamedTuple):
    """The part of a text that decides the weight of one word, under the names that the library reads."""

    words_and_emoticons: Sequence[str]
    is_cap_diff: bool


def _near(characters: Iterable[str]) -> re.Pattern[str]:
    """What these lie in, by few ranges."""
    ranges: list[list[str]] = []
    for one in sorted(characters):
        if ranges and ord(one) - ord(ranges[-1][1]) <= GAP:
            ranges[-1][1] = one
        else:
            ranges.append([one, one])
    return re.compile("[" + "".join(f"{re.escape(first)}-{re.escape(last)}" for first, last in ranges) + "]")


def _is_kind_of(lower: Sequence[str], index: int) -> bool:
    return lower[index] == "kind" and lower[index + 1 : index + 2] == ["of"]


class Vader(SentimentIntensityAnalyzer):  # type: ignore[misc]
    """The library's analyser; of its scores `compound` only."""

    def __init__(self) -> None:
        super().__init__()
        self._candidates = _near(one for one in self.emojis if len(one) == 1)
        # Words that only strengthen others have no weight of their own.
        self._weights: dict[str, float] = {
            word: weight for word, weight in self.lexicon.items() if word not in BOOSTER_DICT
        }

    def compound(self, text: str) -> float:
        """The score, from -1 to 1."""
        text = self._in_words(text)
        words = [one if len(bare := one.strip(string.punctuation)) <= EMOTICON else bare for one in text.split()]
        lower = [one.lower() for one in words]
        weights = self._weights
        known = [index for index, word in enumerate(lower) if word in weights and not _is_kind_of(lower, index)]
        if not known:
            return 0.0
        sentiments: list[float] = [0] * len(words)
        capitals = allcap_differential(words)
        contracted = NOT in text or NOT in text.lower()
        for index in known:
            start = max(0, index - BEFORE)
            around = slice(start, index + AFTER + 1)
            if contracted or not CONTEXT.isdisjoint(lower[around]):
                window = Window(words[around], capitals)
                [sentiments[index]] = self.sentiment_valence(0, window, words[index], index - start, [])
            else:
                sentiments[index] = self._alone(lower[index], loud=capitals and words[index].isupper())
        if BUT in lower:
            sentiments = self._but_check(words, sentiments)
        total = float(sum(sentiments))
        emphasis = self._punctuation_emphasis(text)
        if total > 0:
            total += emphasis
        elif total < 0:
            total -= emphasis
        return float(round(normalize(total), DIGITS))

    def _alone(self, word: str, *, loud: bool) -> float:
        """The weight of a word around which nothing changes it."""
        weight = self._weights[word]
        if not loud:
            return weight
        return weight + RAISED if weight > 0 else weight - RAISED

    def _in_words(self, text: str) -> str:
        """Emoji as the words that describe them."""
        return (text if text.isascii() else self._candidates.sub(self._described, text)).strip()

    def _described(self, found: re.Match[str]) -> str:
        at = found.start()
        description: str | None = self.emojis.get(found[0])
        if description is None:
            return found[0]
        return description if at == 0 or found.string[at - 1] == " " else f" {description}"

    def emoji(self, text: str) -> list[int]:
        """Where the text holds emoji."""
        return [one.start() for one in self._candidates.finditer(text) if one[0] in self.emojis]

    @staticmethod
    def _negation_check(valence: float, words_and_emoticons: Sequence[str], start_i: int, i: int) -> float:
        """The library's rule for the word `start_i` + 1 words before the one at `i`, with one look where it has 59."""
        words = words_and_emoticons
        farther = words[i - start_i - 1].lower()
        if start_i > 0:
            nearer = words[i - start_i].lower(), words[i - 1].lower()
            if (farther == "never" and not EMPHASIS.isdisjoint(nearer)) or (start_i > 1 and nearer[-1] in EMPHASIS):
                return valence * NEVER_SO
            if farther == "without" and "doubt" in nearer:
                return valence
        return valence * N_SCALAR if farther in NEGATIONS or NOT in farther else valence


@functools.cache
def analyser() -> Vader:
    """The one of this process."""
    return Vader()
