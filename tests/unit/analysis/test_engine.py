"""The analysis of a text: its findings, and a result for every text."""

import pytest
from tests.unit.case_ids import case_id

from comment_monitor.analysis import engine
from comment_monitor.analysis.engine import analyse
from comment_monitor.analysis.findings import labels, repetition
from comment_monitor.analysis.findings.text import Text, read
from comment_monitor.core.model import Analysis, Failure


def analysis_of(text: str) -> Analysis:
    """Returns the analysis of a text that must not fail."""
    result = analyse(text)
    assert isinstance(result, Analysis), result
    return result


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where can I buy this? It looks really good", "en"),
        ("Wo kann ich das kaufen? Das sieht gut aus", "de"),
        ("Où est-ce que je peux acheter cela ?", "fr"),
        ("Где можно купить эту вещь?", "ru"),
        ("これはどこで買えますか", "ja"),
        ("lol", "und"),
        ("😀😀😀", "und"),
        ("https://example.com/watch?v=1", "und"),
        ("1234 !!", "und"),
        ("www.example.jpを見てください、とてもきれいでした", "ja"),
        ("@anaさんの写真がとてもきれいでした", "ja"),
        ("@小明你快来看看这个视频太好笑了", "zh"),
        ("https://example.cn/a这个网站非常好用大家快来看", "zh"),
    ],
    ids=case_id,
)
def test_the_language_is_detected_or_unknown(text: str, language: str) -> None:
    """Short texts, emoji, addresses and names have no language; words directly after an address or a name have one."""
    assert analysis_of(text).language == language


@pytest.mark.parametrize(
    ("text", "sentiment"),
    [
        ("I love this, it is wonderful!", "positive"),
        ("This is horrible and I hate it.", "negative"),
        ("The video has a length of ten minutes.", "neutral"),
        ("Das ist ein schrecklicher Film, den ich nicht mag", None),
        ("12345", None),
        ("😍", "positive"),
    ],
    ids=case_id,
)
def test_words_have_a_sentiment_in_english_only(text: str, sentiment: str | None) -> None:
    """The lexicon is English. Emoji have a sentiment in any language."""
    result = analysis_of(text)

    assert result.sentiment == sentiment
    assert (result.sentiment_score is None) == (sentiment is None)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("What is this?", {"question"}),
        ("这是什么？", {"question"}),
        ("I came; I saw; I conquered", set()),
        ("Tom &amp; Jerry &quot;quoted&quot;", set()),
        ("\u03c4\u03b9 \u03b5\u03af\u03bd\u03b1\u03b9\u037e", {"question"}),
        ("ما هذا؟", {"question"}),
        ("see https://example.com/a?b=c", {"link"}),
        ("see https://example.com/a?b=c ok?", {"link", "question"}),
        ("www.example.org is mine", {"link"}),
        ("visit murdev.com", {"link"}),
        ("go to bit.ly/abc now", {"link"}),
        ("e.g. this or 3.5 or hello.World", set()),
        ("@ana look", {"mention"}),
        ("mail me at ana@example.invalid", set()),
        ("@ alone", set()),
        ("STOP SHOUTING", {"shouting"}),
        ("OK FINE", set()),
        ("WHO IS THIS @ANA?", {"shouting", "mention", "question"}),
        ("nothing special here", set()),
    ],
    ids=case_id,
)
def test_labels_are_those_that_a_person_would_assign(text: str, labels: set[str]) -> None:
    """Each rule matches its subject and not similar texts."""
    assert set(analysis_of(text).labels) == labels


def test_labels_are_declared_uniquely_and_in_sorted_order() -> None:
    """Labels are stored in the order of the rules."""
    declared = [rule.label for rule in labels.RULES]

    assert declared == sorted(set(declared))
    assert all(rule.description.endswith(".") or rule.description.endswith(").") for rule in labels.RULES)


def test_texts_with_the_same_words_have_the_same_digest() -> None:
    """Case, width, white space and invisible characters make no difference."""
    same = [
        "Check out my channel",
        "check  out MY channel\ufeff",
        "Check\u200b out my\nchannel ",
        "Ｃｈｅｃｋ out my channel",
    ]

    assert len({analysis_of(text).text_digest for text in same}) == 1
    assert analysis_of("Check out my channels").text_digest != analysis_of(same[0]).text_digest
    assert analysis_of("first").text_digest is None
    assert repetition.normalise(read("  \ufeff ")) == []


HOSTILE = {
    "one letter": "x" * 10_000,
    "emoji": "😀" * 10_000,
    "blank": " \ufeff" * 5_000,
    "right to left": "\u202e" + "שלום " * 2_000,
    "zalgo": "Z" + "\u0335\u0321" * 4_999,
    "at signs": "@" * 10_000,
    "dots": "." * 10_000,
    "schemes": "http://" * 1_428,
    "hyphens": "a-" * 5_000,
    "domains": "a.com" * 2_000,
    "questions": "?" * 10_000,
    "combining": "\u0301" * 10_000,
    "capitals": "ẞ" * 10_000,
    "ligatures": "ﷺ" * 10_000,
    "unassigned": "\U000e0fff\uffff" * 5_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=[name.replace(" ", "-") for name in HOSTILE])
@pytest.mark.timeout(20)
def test_hostile_texts_are_analysed(text: str) -> None:
    assert isinstance(analyse(text), Analysis)


def test_an_exception_in_a_finding_makes_a_failure_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(text: Text, found: engine.Found) -> engine.Found:
        raise ValueError("no such thing")

    broken = (engine.FINDINGS[0], engine.Finding("broken", fail))
    monkeypatch.setattr(engine, "FINDINGS", broken)

    assert analyse("hello") == Failure(reason="broken: ValueError: no such thing")


def test_the_version_contains_those_of_rules_and_libraries() -> None:
    """So an upgrade of any of them changes the version."""
    assert engine.VERSION.startswith(f"{engine.RULES_VERSION}+py3langid-")
    assert "vader-" in engine.VERSION
