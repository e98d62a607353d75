"""Which texts are notices that a platform removed the comment."""

import pytest
from tests.unit.case_ids import case_id

from comment_monitor.core.removed import is_removed


@pytest.mark.parametrize(
    "text",
    [
        "[removed]",
        "[deleted]",
        "[Removed]",
        " [deleted]\n",
        "[ Removed by Reddit ]",
        "[removed by moderator]",
        "[deleted by user]",
        "[ Removed by the mod team ]",
        "\\[removed\\]",
        "*[deleted]*",
        "[comment deleted by Ana's sister]",
        "<removed>",
    ],
    ids=case_id,
)
@pytest.mark.parametrize("source", ["threads", "reddit", "unknown-source"])
def test_a_notice_in_brackets_applies_to_every_source(source: str, text: str) -> None:
    assert is_removed(source, text)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("reddit", "[ Removed by reddit in response to a copyright notice. ]"),
        ("hackernews", "[flagged]"),
        ("disqus", "This comment was deleted."),
        ("discourse", "(post deleted by author)"),
        ("lemmy", "*Permanently Deleted*"),
    ],
    ids=case_id,
)
def test_other_notices_apply_to_their_source_only(source: str, text: str) -> None:
    assert is_removed(source, text)
    assert not is_removed("threads", text)


@pytest.mark.parametrize(
    "text",
    [
        "removed",
        "why was this [removed]?",
        "[removed] it myself",
        "[removed][deleted]",
        "[]",
        "[",
        "[ Removed by spam.example ]",
        "[ Removed by https://spam.example/x ]",
        "[removed by @ana]",
        "[removed by " + "x" * 61 + "]",
        "[removed by ]",
        "[deleted]\u200b see my profile",
        "*",
        "\\",
        "I removed mine",
    ],
    ids=case_id,
)
def test_a_text_with_other_words_is_a_comment(text: str) -> None:
    """So a sender cannot hide an address from the analysis between the brackets of a notice."""
    assert not is_removed("reddit", text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text", ["[removed by " + "a " * 5_000, "[" * 10_000, "*" * 10_000, "[removed by" + " " * 9_000]
)
def test_a_hostile_text_is_no_notice(text: str) -> None:
    assert not is_removed("reddit", text)
