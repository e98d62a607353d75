"""Rates whether a text is positive or negative: by words in English (VADER), by emoji in all other languages."""

from collections.abc import Mapping
from typing import Any, Final

from vaderSentiment.vaderSentiment import normalize

from comment_monitor.analysis.findings import emoji_values
from comment_monitor.analysis.findings.text import Text
from comment_monitor.analysis.findings.vader import DIGITS, analyser

# The thresholds of the compound score that VADER's authors recommend.
POSITIVE: Final = 0.05
NEGATIVE: Final = -0.05
ENGLISH: Final = "en"
MAX_LENGTH: Final = 2000


def find(text: Text, found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `sentiment` and `sentiment_score`; both None if they can't be determined."""
    score = _of_english(text) if found["language"] == ENGLISH else _of_signs(text)
    if score is None:
        return {"sentiment": None, "sentiment_score": None}
    sentiment = "positive" if score >= POSITIVE else "negative" if score <= NEGATIVE else "neutral"
    return {"sentiment": sentiment, "sentiment_score": score}


def _of_english(text: Text) -> float:
    """Returns the score of an English text. VADER itself scores emoticons."""
    signs = emoji_values.find_emoji(text.typed[:MAX_LENGTH])
    words = text.plain[:MAX_LENGTH]
    return analyser().compound(emoji_values.without_emoji(words) if signs.amount else words, signs.value)


def _of_signs(text: Text) -> float | None:
    """Returns the score of emoji and emoticons, which belong to every language, unlike words: German "die" is "the"."""
    emoji = emoji_values.find_emoji(text.typed[:MAX_LENGTH])
    emoticons = emoji_values.find_emoticons(text.plain[:MAX_LENGTH])
    if not emoji.amount + emoticons.amount:
        return None
    return float(round(normalize(emoji.value + emoticons.value), DIGITS))
