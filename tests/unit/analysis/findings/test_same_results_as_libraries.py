"""The optimised analysers give the same results as the libraries that they replace."""

from typing import Final

import emoji
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
WITHOUT_EMOJI: Final = tuple(sentence for sentence in SENTENCES if not emoji.emoji_count(sentence))
texts = st.one_of(
    st.lists(st.sampled_from((*WORDS, *PHRASES, *WITHOUT_EMOJI)), max_size=14).map(" ".join),
    st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join),
    st.text(st.characters(max_codepoint=0x2FF), max_size=60),
)


@settings(max_examples=400, deadline=None)
@given(texts)
def test_the_sentiment_of_words_equals_that_of_vader(text: str) -> None:
    """Without emoji, which VADER misinterprets: test_sentiment_signs.py tests their values."""
    assert analyser().compound(text) == VADER.polarity_scores(text)["compound"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(texts, st.sampled_from(SENTENCES)), min_size=1, max_size=30))
def test_the_language_equals_that_of_py3langid_for_any_group_of_texts(group: list[str]) -> None:
    classifier = language._classifier()
    for text, guess in zip(group, classifier.classify(group), strict=True):
        name, confidence = classifier._identifier.classify(text)
        assert guess.confidence == pytest.approx(confidence, abs=2e-5)
        # If two languages are equally likely, either may be the result.
        assert guess.language == name or confidence < 0.5


def test_the_language_of_a_text_does_not_depend_on_other_texts() -> None:
    classifier = language._classifier()
    together = classifier.classify(SENTENCES * 30)
    for number, text in enumerate(SENTENCES):
        assert classifier.classify([text]) == [together[number]] == [together[number + len(SENTENCES)]]


def test_the_number_of_cached_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
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
