"""Questions, mentions and repeated texts in many scripts, and similar texts that are none."""

import sys
import unicodedata

import pytest
from tests.unit.case_ids import case_id

from comment_monitor.analysis.engine import analyse
from comment_monitor.core.model import Analysis


def analysis_of(text: str) -> Analysis:
    result = analyse(text)
    assert isinstance(result, Analysis), result
    return result


def labels(text: str) -> set[str]:
    return set(analysis_of(text).labels)


@pytest.mark.parametrize(
    "text",
    [
        *("这是什么？我不知道", "在哪里买？谢谢", "なに？教えて", "ما هذا؟شكرا", "why?because", "What?!", "really??"),
        *(
            "Is it https://example.com/a?b=c?",
            "see https://example.com ok?",
            "¿Dónde",
            "τι είναι;",
            "What is this\u2753",
        ),
        *(
            "What is this\u2754",
            "كيف؟",
            "Ի՞նչ է սա",
            "ምንድን ነው፧",
            "Where&#63;",
            "Where\ufe56",
            "who\u203d",
            "ok \u2049\ufe0f",
        ),
        *("is example.com/page?id=1 down?", "(why?)", '"why?"', "why?\u200b", "Warum?Weil", "Ana?Ben?"),
    ],
    ids=case_id,
)
def test_a_question_mark_of_any_script_makes_a_question(text: str) -> None:
    assert "question" in labels(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "https://example.com/?#top",
            "https://example.com/watch?",
            "https://example.com/?v=1&b=2",
            "www.example.com/?q",
        ),
        *("see https://example.com/a?b thanks", "example.com/search?q=x", "<https://example.com/?a>", "I came; I saw"),
        *(
            "https://example.com/?a=b&amp;c=d",
            '<a href="https://example.com/?x=1">here</a>',
            "Tom &amp; Jerry",
            "http://x.y/?",
        ),
        *("HTTPS://EXAMPLE.COM/?", "see index.php?id=3", "https://пример.рф/?тест"),
    ],
    ids=case_id,
)
def test_a_question_mark_within_an_address_makes_no_question(text: str) -> None:
    assert "question" not in labels(text)


MASTODON = (
    '<p><span class="h-card"><a href="https://mastodon.social/@ana" class="u-url mention">'
    "@<span>ana</span></a></span> hi</p>"
)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "@ana look",
            ".@ana look",
            "cc/@ana",
            "-@ana",
            "你好@小明 看",
            "これ@hanako見て",
            "@\u200bana",
            "\u2068@ana\u2069",
        ),
        *(
            "(@ana)",
            '"@ana"',
            "\uff20ana",
            "thanks @ana!",
            "hi,@ana",
            "@ana@mastodon.social hi",
        ),
        *(
            "@ana.bsky.social",
            "привет@аня",
            "@ana_b",
            "@ana.",
            "@50cent",
            "@12345",
            "RT:@ana",
            "👍@ana",
            "@ana\u2019s",
            MASTODON,
        ),
    ],
    ids=case_id,
)
def test_a_name_after_an_at_sign_is_a_mention(text: str) -> None:
    found = labels(text)
    assert "mention" in found
    assert "link" not in found


@pytest.mark.parametrize(
    "text",
    [
        *(
            "mail me at ana@example.invalid",
            "ana.b+c@example.com",
            "@ alone",
            "@@",
            "https://x.com/@ana",
            "a @ b",
            "5@3",
        ),
        *("ana(at)example.com", "ana[at]example.com", "price @5", "only @25 each", "@1.99 now", "@10k views"),
        *("mailto:ana@example.com", "ana@\u200bexample.com", "<ana@example.com>", "user_1@example.co.uk wrote"),
    ],
    ids=case_id,
)
def test_an_e_mail_address_or_a_price_is_no_mention(text: str) -> None:
    assert "mention" not in labels(text)


CAMPAIGN = "Check out my new channel now"
# The ranges of Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt), and the blank letters.
IGNORABLE = (
    *(0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), *range(0x200B, 0x2010)),
    *(*range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x3164, *range(0xFE00, 0xFE10), 0xFEFF, 0xFFA0),
    *(*range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B), *range(0xE0000, 0xE1000), 0x2800),
)


@pytest.mark.parametrize("place", [0, 3, 5, len(CAMPAIGN)])
def test_invisible_characters_do_not_change_the_digest(place: int) -> None:
    """At the start, within a word, between two words and at the end."""
    digest = analysis_of(CAMPAIGN).text_digest
    differing = [
        hex(code)
        for code in IGNORABLE
        if analysis_of(CAMPAIGN[:place] + chr(code) + CAMPAIGN[place:]).text_digest != digest
    ]
    assert differing == []


def test_every_format_character_of_unicode_is_ignored() -> None:
    """All characters of the general category Cf in Python's tables, without those that are visible."""
    visible = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}
    digest = analysis_of(CAMPAIGN).text_digest
    for number in range(sys.maxunicode + 1):
        if unicodedata.category(chr(number)) == "Cf" and number not in visible:
            assert analysis_of(CAMPAIGN[:3] + chr(number) + CAMPAIGN[3:]).text_digest == digest, hex(number)


@pytest.mark.parametrize(
    "text",
    [
        *("Ｃｈｅｃｋ　ｏｕｔ my new channel now", "CHECK OUT MY NEW CHANNEL NOW", "Check  out\nmy\tnew channel now"),
        *(
            "\U0001d402\U0001d421\U0001d41e\U0001d41c\U0001d424 out my new channel now",
            "Check out my new channel now\u3000",
        ),
        *(
            "<p>Check out my <b>new</b> channel now</p>",
            "Check&nbsp;out my new channel now",
            "C\u200bh\u200be\u200bck out my new channel now",
        ),
    ],
    ids=case_id,
)
def test_width_case_markup_and_blanks_do_not_change_the_digest(text: str) -> None:
    assert analysis_of(text).text_digest == analysis_of(CAMPAIGN).text_digest


def test_another_word_changes_the_digest() -> None:
    assert analysis_of(CAMPAIGN + "!").text_digest != analysis_of(CAMPAIGN).text_digest
    assert analysis_of(CAMPAIGN.replace("new", "old")).text_digest != analysis_of(CAMPAIGN).text_digest


def test_an_empty_text_has_no_findings() -> None:
    """A removed comment is analysed with an empty text."""
    found = analysis_of("")
    assert (found.language, found.sentiment, found.labels, found.text_digest) == ("und", None, (), None)
