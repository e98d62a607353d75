"""Whether an English text sounds positive or negative (VADER)."""

import functools
import itertools
from collections.abc import Mapping
from typing import Any, Final

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

# VADER's authors' own thresholds of its compound score.
POSITIVE: Final = 0.05
NEGATIVE: Final = -0.05
# It knows English words and emoji. A text too short for its language to be told is mostly those.
LANGUAGES: Final = ("en", "und")
# Its time grows with the square of the number of emoji: 100 take 6 ms, 10,000 half a minute.
MAX_EMOJI: Final = 50
MAX_LENGTH: Final = 2000


@functools.cache
def _analyser() -> Any:
    return SentimentIntensityAnalyzer()


def find(text: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """`sentiment` and `sentiment_score`; None where VADER has nothing to say."""
    emojis = _analyser().emojis
    start = text[:MAX_LENGTH]
    emoji = [index for index, character in enumerate(start) if character in emojis]
    if found["language"] not in LANGUAGES or not (emoji or any(map(str.isalpha, start))):
        return {"sentiment": None, "sentiment_score": None}
    if len(emoji) > MAX_EMOJI:
        surplus = set(itertools.islice(emoji, MAX_EMOJI, None))
        start = "".join(character for index, character in enumerate(start) if index not in surplus)
    score = float(_analyser().polarity_scores(start)["compound"])
    sentiment = "positive" if score >= POSITIVE else "negative" if score <= NEGATIVE else "neutral"
    return {"sentiment": sentiment, "sentiment_score": score}
