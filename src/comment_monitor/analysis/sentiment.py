"""Whether an English text sounds positive or negative (VADER)."""

import itertools
from collections.abc import Mapping
from typing import Any, Final

from comment_monitor.analysis.vader import analyser

# VADER's authors' own thresholds of its compound score.
POSITIVE: Final = 0.05
NEGATIVE: Final = -0.05
# It knows English words and emoji. A text too short for its language to be told is mostly those.
LANGUAGES: Final = ("en", "und")
# A row of them says no more than some do.
MAX_EMOJI: Final = 50
MAX_LENGTH: Final = 2000


def find(text: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """`sentiment` and `sentiment_score`; None where VADER has nothing to say."""
    nothing = {"sentiment": None, "sentiment_score": None}
    if found["language"] not in LANGUAGES:
        return nothing
    vader = analyser()
    start = text[:MAX_LENGTH]
    emoji = [] if start.isascii() else vader.emoji(start)
    if not (emoji or any(map(str.isalpha, start))):
        return nothing
    if len(emoji) > MAX_EMOJI:
        surplus = set(itertools.islice(emoji, MAX_EMOJI, None))
        start = "".join(character for index, character in enumerate(start) if index not in surplus)
    score = vader.compound(start)
    sentiment = "positive" if score >= POSITIVE else "negative" if score <= NEGATIVE else "neutral"
    return {"sentiment": sentiment, "sentiment_score": score}
