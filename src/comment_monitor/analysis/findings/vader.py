"""Computes VADER's compound score in time linear in the text.

The library processes every word, and for each known word it copies the whole text several times. This module passes it
only the known words, each with the three words before and the two words after it, which is all that its rules read.
The scores equal the library's to the last digit: a test compares them. Emoji are not passed to it: it scores them by
their English names, misses those without a space before them, and rates three fires as a disaster.
"""

import functools
import string
from collections.abc import Sequence
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
# A word with at most this number of characters besides punctuation may be an emoticon, and keeps its punctuation.
EMOTICON: Final = 2
RAISED: Final[float] = C_INCR
# Without one of these words nearby, a word has its weight from the lexicon. The longest word represents a phrase.
CONTEXT: Final = frozenset(
    max(phrase.split(), key=len)
    for phrase in (*NEGATE, *BOOSTER_DICT, *SPECIAL_CASES, "no", "least", "never", "so", "this", "without")
)
# Digits to which the library rounds its score.
DIGITS: Final = 4
BUT: Final = "but"


class Window(NamedTuple):
    """The part of a text that determines the weight of one word, with the attribute names that the library reads."""

    words_and_emoticons: Sequence[str]
    is_cap_diff: bool


def _is_kind_of(lower: Sequence[str], index: int) -> bool:
    return lower[index] == "kind" and lower[index + 1 : index + 2] == ["of"]


class Vader(SentimentIntensityAnalyzer):  # type: ignore[misc]
    """The library's analyser, for its score `compound` only."""

    def __init__(self) -> None:
        super().__init__()
        # Words that only strengthen others have no weight.
        self._weights: dict[str, float] = {
            word: weight for word, weight in self.lexicon.items() if word not in BOOSTER_DICT
        }

    def compound(self, text: str, signs: float = 0.0) -> float:
        """Returns the score of a text without emoji, from -1 to 1; `signs` is added to the weights of its words."""
        words = [word if len(bare := word.strip(string.punctuation)) <= EMOTICON else bare for word in text.split()]
        lower = [word.lower() for word in words]
        weights = self._weights
        known = [index for index, word in enumerate(lower) if word in weights and not _is_kind_of(lower, index)]
        total = signs
        if known:
            total += self._weigh(text, words, lower, known)
        if not total:
            return 0.0
        emphasis = self._punctuation_emphasis(text)
        return float(round(normalize(total + emphasis if total > 0 else total - emphasis), DIGITS))

    def _weigh(self, text: str, words: list[str], lower: list[str], known: list[int]) -> float:
        """Returns the sum of the words' weights, each in its context."""
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
        return float(sum(sentiments))

    def _alone(self, word: str, *, loud: bool) -> float:
        """Returns the weight of a word whose context does not change it."""
        weight = self._weights[word]
        if not loud:
            return weight
        return weight + RAISED if weight > 0 else weight - RAISED

    @staticmethod
    def _negation_check(valence: float, words_and_emoticons: Sequence[str], start_i: int, i: int) -> float:
        """The library's rule for the word `start_i` + 1 words before that at `i`, with one lookup instead of 59."""
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
    """Returns the analyser of this process."""
    return Vader()
