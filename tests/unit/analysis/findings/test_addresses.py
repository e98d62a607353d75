"""Precision and recall of the label `link` on a set of texts that was written by hand."""

import json
from typing import Final

import pytest
from tests.conftest import project_root
from tests.unit.case_ids import case_id

from comment_monitor.analysis.engine import analyse
from comment_monitor.core.model import Analysis

SET: Final = project_root() / "tests" / "data" / "links.jsonl"
# From the measured values in docs/adr/0031-what-is-read-out-of-a-text.md.
PRECISION: Final = 0.97
RECALL: Final = 0.99


def is_link(text: str) -> bool:
    result = analyse(text)
    assert isinstance(result, Analysis), result
    return "link" in result.labels


def test_links_are_found_with_the_required_precision_and_recall() -> None:
    rows = [json.loads(line) for line in SET.read_text().splitlines()]
    assert len(rows) >= 300
    found = {row["text"] for row in rows if is_link(row["text"])}
    expected = {row["text"] for row in rows if row["link"]}
    assert len(found & expected) / len(found) >= PRECISION, sorted(found - expected)
    assert len(found & expected) / len(expected) >= RECALL, sorted(expected - found)


@pytest.mark.parametrize(
    "text",
    ["niet.in mijn", "video.me too", "good.fr fr", "thanks.be safe", "fixed.in the end", "ana@example.com"],
    ids=case_id,
)
def test_a_missing_space_after_a_full_stop_makes_no_link(text: str) -> None:
    assert not is_link(text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece",
    ["a.", "a.com", "http://", "www.", "a-", "<a href=", "&#", "[.]", " dot ", "(.)", "@a.", "a\u3002", "<", "a@b."],
    ids=case_id,
)
def test_long_hostile_texts_are_analysed_in_little_time(piece: str) -> None:
    text = (piece * 10_000)[:10_000]
    assert isinstance(analyse(text), Analysis)
    assert isinstance(analyse(text[:-1] + "\u00e9"), Analysis)
