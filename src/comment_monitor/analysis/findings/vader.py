"""VADER's compound score in time linear in the text.

The library looks at every word and, at each that it knows, copies the whole text several times over. Here it is shown
only the words that it knows, each with the three before it and the two after it, which is all that its rules read.
The scores are the library's own, to the last digit: a test compares them. Emoji are not shown to it at all: it knows
them by their English names, glued to words it does not see them, and three fires sound like a disaster to it.
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


class Window(NamedTuple):
    """The part of a text that decides the weight of one word, under the names that the library reads."""

    words_and_emoticons: Sequence[str]
    is_cap_diff: bool


def _is_kind_of(lower: Sequence[str], index: int) -> bool:
    return lower[index] == "kind" and lower[index + 1 : index + 2] == ["of"]


class Vader(SentimentIntensityAnalyzer):  # type: ignore[misc]
    """The library's analyser; of its scores `compound` only."""

    def __init__(self) -> None:
        super().__init__()
        # Words that only strengthen others have no weight of their own.
        self._weights: dict[str, float] = {
            word: weight for word, weight in self.lexicon.items() if word not in BOOSTER_DICT
        }

    def compound(self, text: str, signs: float = 0.0) -> float:
        """The score of a text without emoji, from -1 to 1; `signs` is added to what its words weigh."""
        words = [one if len(bare := one.strip(string.punctuation)) <= EMOTICON else bare for one in text.split()]
        lower = [one.lower() for one in words]
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
        """The sum of what the words weigh, each beside those around it."""
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
        """The weight of a word around which nothing changes it."""
        weight = self._weights[word]
        if not loud:
            return weight
        return weight + RAISED if weight > 0 else weight - RAISED

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
