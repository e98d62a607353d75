"""The sentiment of emoji, emoticons and negations, in every way of writing them."""

import re

import emoji
import pytest
from tests.unit.case_ids import case_id

from comment_monitor.analysis.engine import analyse
from comment_monitor.analysis.findings.emoji_values import NEAR, NO_EMOJI, WEIGHTS, value
from comment_monitor.core.model import Analysis

SELECTORS = ("", "\ufe0f", "\ufe0e")
TONES = ("", *(chr(number) for number in range(0x1F3FB, 0x1F400)))


def analysis_of(text: str) -> Analysis:
    result = analyse(text)
    assert isinstance(result, Analysis), result
    return result


def sentiment(text: str) -> str | None:
    return analysis_of(text).sentiment


@pytest.mark.parametrize("selector", SELECTORS, ids=case_id)
@pytest.mark.parametrize(
    "character", ["\u2764", "\U0001f525", "\U0001f44d", "\U0001f44f", "\U0001f64f", "\U0001f4af"], ids=case_id
)
def test_approving_emoji_are_positive_in_any_number_and_with_any_selector(character: str, selector: str) -> None:
    for times in (1, 2, 3, 10, 5000):
        assert sentiment((character + selector) * times) == "positive"


@pytest.mark.parametrize("tone", TONES, ids=case_id)
@pytest.mark.parametrize(
    "hand", ["\U0001f44d", "\U0001f44f", "\U0001f64f", "\U0001f64c", "\U0001f44c", "\U0001f4aa"], ids=case_id
)
def test_a_skin_tone_changes_nothing(hand: str, tone: str) -> None:
    assert analysis_of(hand + tone).sentiment_score == analysis_of(hand).sentiment_score
    assert sentiment(f"you did great{hand}{tone}") == "positive"
    assert sentiment("\U0001f44e" + tone) == "negative"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u2764\ufe0f\u200d\U0001f525", "positive"),
        ("\u2764\u200d\U0001f525", "positive"),
        ("\u2764\ufe0f\u200d\U0001fa79", "positive"),
        ("\U0001f469\U0001f3fd\u200d\u2764\ufe0f\u200d\U0001f468\U0001f3ff", "positive"),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", "neutral"),
        ("\U0001f926\U0001f3fd\u200d\u2640\ufe0f", "negative"),
        ("\U0001f1eb\U0001f1f7", "neutral"),
        ("\U0001f494", "negative"),
        ("\U0001f621\U0001f92c", "negative"),
        ("\u2620\ufe0f", "negative"),
        ("\u00a9", None),
        ("1\ufe0f\u20e3", None),
    ],
    ids=case_id,
)
def test_joined_emoji_have_the_sentiment_of_their_parts(text: str, expected: str | None) -> None:
    assert sentiment(text) in ({expected, None} if expected == "neutral" else {expected})


@pytest.mark.parametrize(
    "sign", ["\U0001f525", "\u2764", "\u2764\ufe0f", "\U0001f44d\U0001f3fd", "\U0001f60d"], ids=case_id
)
@pytest.mark.parametrize(
    "words", ["I really love this song", "What a wonderful and amazing day", "Thank you so much"], ids=case_id
)
def test_an_emoji_next_to_a_word_counts_and_so_does_the_word(words: str, sign: str) -> None:
    alone = analysis_of(words).sentiment_score
    apart = analysis_of(f"{words} {sign}").sentiment_score
    assert alone is not None
    assert apart is not None
    assert apart > alone
    for text in (f"{words}{sign}", f"{sign}{words}", f"{sign} {words}"):
        assert analysis_of(text).sentiment_score == apart
    assert sentiment(words.replace(" ", f" {sign}")) == "positive"


@pytest.mark.parametrize("sign", ["\U0001f525", "\U0001f525" * 3, "\U0001f62d" * 2], ids=case_id)
def test_ambiguous_emoji_do_not_make_praise_negative(sign: str) -> None:
    for text in (f"this is so good {sign}", f"{sign} so good", f"{sign}so good"):
        assert sentiment(text) in {"positive", "neutral", None}


def test_emoji_count_beside_words_of_an_unknown_language() -> None:
    assert analysis_of("Die Beste \U0001f60d").language == "und"
    assert sentiment("Die Beste \U0001f60d") == "positive"
    assert sentiment("war so gut \U0001f494") == "negative"


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Das geht ja mal gar nicht, liebe Leute \U0001f621\U0001f621", "de", "negative"),
        ("Félicitations à toute l\u2019équipe \U0001f44f\U0001f3fe\U0001f525", "fr", "positive"),
        ("とてもきれいな写真ですね\u2764\ufe0f", "ja", "positive"),
        ("这个东西真的太恶心了\U0001f92e", "zh", "negative"),
        ("Das Paket kam gestern an, danke für die Antwort", "de", None),
    ],
    ids=case_id,
)
def test_emoji_count_beside_words_of_any_language(text: str, language: str, expected: str | None) -> None:
    found = analysis_of(text)
    assert (found.language, found.sentiment) == (language, expected)


def test_every_key_of_the_table_is_an_emoji() -> None:
    """No other test would find a wrong character in the table."""
    for key in WEIGHTS:
        with_selector = {key, key + "\ufe0f", key[0] + "\ufe0f" + key[1:]}
        assert with_selector & emoji.EMOJI_DATA.keys(), key
        assert value(key) == WEIGHTS[key]


def test_every_emoji_is_within_the_searched_range() -> None:
    near = re.compile(NEAR)
    for sequence in emoji.EMOJI_DATA:
        for character in sequence:
            assert near.match(character) or NO_EMOJI.match(character), hex(ord(character))


@pytest.mark.parametrize(
    "text",
    [
        *("Die Beste!!", "war so gut", "sin palabras", "no", "trop grave", "gift", "hell yeah", "super!!"),
        *("Mist", "bad", "war", "fast", "die", "Art", "Hit", "Rat", "grave", "fatal", "pain", "sale bete", "mal"),
    ],
    ids=case_id,
)
def test_words_of_an_unknown_language_are_not_read_as_english(text: str) -> None:
    found = analysis_of(text)
    assert (found.language, found.sentiment, found.sentiment_score) == ("und", None, None)


APOSTROPHES = (
    *("\u2019", "\u2018", "\u02bc", "\u02b9", "\u2032", "\uff07", "\u00b4", "`", "\u201b"),
    *("&#39;", "&#039;", "&#x27;", "&#X27;", "&apos;", "&rsquo;", "&#8217;", "&#x2019;", "&amp;#39;"),
    *("\u200b'", "'\u2060", "\u2019\u200d"),
)


@pytest.mark.parametrize("apostrophe", APOSTROPHES, ids=case_id)
@pytest.mark.parametrize(
    "text",
    [
        *("I don't like this", "It isn't good at all", "I can't recommend this to anybody", "This doesn't work well"),
        *("We weren't happy with it", "You shouldn't trust these people"),
    ],
    ids=case_id,
)
def test_a_negation_is_recognised_with_any_apostrophe(text: str, apostrophe: str) -> None:
    plain = analysis_of(text)
    assert (plain.language, plain.sentiment) == ("en", "negative")
    assert analysis_of(text.replace("'", apostrophe)).sentiment_score == plain.sentiment_score


@pytest.mark.parametrize(
    ("text", "expected"), [(":)", "positive"), (":(", "negative"), ("<3", "positive"), ("!!!", None)], ids=case_id
)
def test_emoticons_count_in_every_language_and_punctuation_does_not(text: str, expected: str | None) -> None:
    assert sentiment(text) == expected
    assert sentiment("https://example.com/):") != "negative"
