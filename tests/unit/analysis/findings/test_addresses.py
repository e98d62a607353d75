"""How many web addresses of a set made by hand are found, and how much is taken for one that is none."""

import json
from pathlib import Path
from typing import Final

import pytest

from comment_monitor.analysis.engine import analyse
from comment_monitor.core.model import Analysis

SET: Final = Path(__file__).parent.parent / "data" / "links.jsonl"
# Held, not chosen: docs/adr/0031-what-is-read-out-of-a-text.md has what was measured.
PRECISION: Final = 0.97
RECALL: Final = 0.99


def is_link(text: str) -> bool:
    result = analyse(text)
    assert isinstance(result, Analysis), result
    return "link" in result.labels


def test_links_are_found_and_their_look_alikes_are_not() -> None:
    rows = [json.loads(line) for line in SET.read_text().splitlines()]
    assert len(rows) >= 300
    found = {row["text"] for row in rows if is_link(row["text"])}
    right = {row["text"] for row in rows if row["link"]}
    assert len(found & right) / len(found) >= PRECISION, sorted(found - right)
    assert len(found & right) / len(right) >= RECALL, sorted(right - found)


@pytest.mark.parametrize(
    "text", ["niet.in mijn", "video.me too", "good.fr fr", "thanks.be safe", "fixed.in the end", "ana@example.com"]
)
def test_a_missing_space_behind_a_full_stop_makes_no_link(text: str) -> None:
    assert not is_link(text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece",
    ["a.", "a.com", "http://", "www.", "a-", "<a href=", "&#", "[.]", " dot ", "(.)", "@a.", "a\u3002", "<", "a@b."],
)
def test_ten_thousand_characters_of_anything_are_read_at_once(piece: str) -> None:
    text = (piece * 10_000)[:10_000]
    assert isinstance(analyse(text), Analysis)
    assert isinstance(analyse(text[:-1] + "\u00e9"), Analysis)
