"""Which texts say that a comment is gone."""

import pytest

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
)
@pytest.mark.parametrize("source", ["threads", "reddit", "a source of nobody"])
def test_a_notice_in_brackets_is_one_on_every_platform(source: str, text: str) -> None:
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
)
def test_other_notices_are_their_platform_s(source: str, text: str) -> None:
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
)
def test_a_text_that_says_anything_else_is_a_comment(text: str) -> None:
    """Nor can a sender hide an address in the brackets of a notice, where nobody would look for it."""
    assert not is_removed("reddit", text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text", ["[removed by " + "a " * 5_000, "[" * 10_000, "*" * 10_000, "[removed by" + " " * 9_000]
)
def test_a_hostile_text_is_no_notice(text: str) -> None:
    assert not is_removed("reddit", text)
