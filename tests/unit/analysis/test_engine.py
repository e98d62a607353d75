"""The findings in a text: what a person would say of it, and an answer for any text at all."""

import pytest

from comment_monitor.analysis import engine
from comment_monitor.analysis.engine import analyse
from comment_monitor.analysis.findings import labels, repetition
from comment_monitor.analysis.findings.text import Text, read
from comment_monitor.core.model import Analysis, Failure


def look(text: str) -> Analysis:
    """The analysis of a text that must not fail."""
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
)
def test_the_language_is_told_or_said_to_be_unknown(text: str, language: str) -> None:
    """Short texts, emoji, addresses and names have none; what is glued to an address or a name has."""
    assert look(text).language == language


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
)
def test_of_words_sentiment_is_said_of_english_only(text: str, sentiment: str | None) -> None:
    """Of another language it would be a guess."""
    result = look(text)

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
)
def test_labels_are_those_a_person_would_give(text: str, labels: set[str]) -> None:
    """Each rule hits what it says and not its look-alikes."""
    assert set(look(text).labels) == labels


def test_every_label_is_declared_and_sorted() -> None:
    """Rules are data, in the order in which labels are stored."""
    declared = [rule.label for rule in labels.RULES]

    assert declared == sorted(set(declared))
    assert all(rule.description.endswith(".") or rule.description.endswith(").") for rule in labels.RULES)


def test_texts_that_say_the_same_have_one_digest() -> None:
    """Case, width, white space and invisible characters make no difference; words do."""
    same = [
        "Check out my channel",
        "check  out MY channel\ufeff",
        "Check\u200b out my\nchannel ",
        "Ｃｈｅｃｋ out my channel",
    ]

    assert len({look(text).text_digest for text in same}) == 1
    assert look("Check out my channels").text_digest != look(same[0]).text_digest
    assert look("first").text_digest is None
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


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.timeout(20)
def test_any_text_gets_an_answer(text: str) -> None:
    """Ten thousand of anything are analysed like anything else."""
    assert isinstance(analyse(text), Analysis)


def test_a_finding_that_raises_makes_a_failure_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch goes on; the reason says which finding it was."""

    def fail(text: Text, found: engine.Found) -> engine.Found:
        raise ValueError("no such thing")

    broken = (engine.FINDINGS[0], engine.Finding("broken", fail))
    monkeypatch.setattr(engine, "FINDINGS", broken)

    assert analyse("hello") == Failure(reason="broken: ValueError: no such thing")


def test_the_version_names_rules_and_libraries() -> None:
    """An upgrade of any of them changes it."""
    assert engine.VERSION.startswith(f"{engine.RULES_VERSION}+py3langid-")
    assert "vader-" in engine.VERSION
