"""The analysers' quicker ways give what the libraries give."""

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vaderSentiment.vaderSentiment import BOOSTER_DICT, NEGATE, SPECIAL_CASES, SentimentIntensityAnalyzer

from comment_monitor.analysis.findings import labels, language, ngrams
from comment_monitor.analysis.findings.vader import analyser
from comment_monitor.loadtest.texts import SENTENCES

VADER: Final = SentimentIntensityAnalyzer()
PHRASES: Final = sorted({*NEGATE, *BOOSTER_DICT, *SPECIAL_CASES})
WORDS: Final = (
    *("good", "GREAT", "bad", "hate", "love", "kind of", "kind", "no", "or", "nor", "least", "at least", "very"),
    *("never", "so", "this", "without", "doubt", "but", "BUT", "isn't", "the", "THE", "phone", "shit", "bomb"),
    *(":)", ":D", "!!!", "??", "???????", "...", "'", "(good)", "no,"),
)
texts = st.one_of(
    st.lists(st.sampled_from((*WORDS, *PHRASES, *SENTENCES)), max_size=14).map(" ".join),
    st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join),
    st.text(st.characters(max_codepoint=0x2FF), max_size=60),
)


@settings(max_examples=400, deadline=None)
@given(texts)
def test_the_sentiment_of_words_is_the_library_s(text: str) -> None:
    """Emoji are not shown to it: what it makes of them is wrong (tests/unit/analysis/findings/test_sentiment_signs.py says what is right)."""
    assert analyser().compound(text) == VADER.polarity_scores(text)["compound"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(texts, st.sampled_from(SENTENCES)), min_size=1, max_size=30))
def test_the_language_is_the_library_s_whatever_is_asked_together(some: list[str]) -> None:
    classifier = language._classifier()
    for text, guess in zip(some, classifier.classify(some), strict=True):
        name, confidence = classifier._identifier.classify(text)
        assert guess.confidence == pytest.approx(confidence, abs=2e-5)
        # Of two that are as likely as each other either may be named.
        assert guess.language == name or confidence < 0.5


def test_a_text_is_judged_alike_in_any_company() -> None:
    classifier = language._classifier()
    together = classifier.classify(SENTENCES * 30)
    for number, text in enumerate(SENTENCES):
        assert classifier.classify([text]) == [together[number]] == [together[number + len(SENTENCES)]]


def test_words_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "WORDS", 10)
    classifier = language._classifier()
    fresh = ngrams.Classifier(classifier._identifier)
    many = [f"{text} {number}" for number in range(20) for text in SENTENCES]
    assert fresh.classify(many) == classifier.classify(many)
    assert len(fresh._words) <= 10


@given(st.one_of(st.text(max_size=40), st.text(st.sampled_from("aZ ÉéßЖж字😂1."), max_size=40)))
def test_capitals_are_counted_in_any_script(text: str) -> None:
    upper = sum(map(str.isupper, text))
    assert labels._count(text) == (upper, upper + sum(map(str.islower, text)))
