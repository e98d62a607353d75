"""Generated comments: reproducible by seed, similar to real ones, and with the same outcomes in any order."""

import itertools
import json
import random
import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from comment_monitor.intake.request_parser import parse_request
from comment_monitor.loadtest.plan import Load, Mix, made_up

MIXED = Mix(run_id="run", seed=1, posts=5, duplicates=0.3, edits=0.2)
PLAIN = MIXED._replace(duplicates=0.0, edits=0.0)


def comments(loads: Iterable[Load]) -> list[dict[str, Any]]:
    return [
        {**comment, "post_id": body["post_id"]}
        for body in (json.loads(load.body) for load in loads)
        for comment in body["comments"]
    ]


def expected_counts(loads: Iterable[Load]) -> Counter[str]:
    total: Counter[str] = Counter()
    for load in loads:
        assert load.expected
        total.update(load.expected._asdict())
    return total


def outcomes_of(rows: Iterable[dict[str, Any]]) -> Counter[str]:
    """Returns the outcomes of these comments, in this order, under the contract."""
    texts: dict[str, str] = {}
    outcomes: Counter[str] = Counter()
    for row in rows:
        known = texts.get(row["id"])
        outcomes["stored" if known is None else "duplicates" if known == row["text"] else "updated"] += 1
        texts[row["id"]] = row["text"]
    return outcomes


def test_the_same_seed_makes_the_same_requests() -> None:
    """Another seed makes other requests."""
    first = list(made_up(MIXED, batch=25, total=1000))

    assert list(made_up(MIXED, batch=25, total=1000)) == first
    assert list(made_up(MIXED._replace(seed=2), batch=25, total=1000)) != first


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize(("duplicates", "edits"), [(0.3, 0.2), (0.9, 0.05), (0.0, 0.8), (0.5, 0.5), (1.0, 0.0)])
def test_the_expected_counts_hold_in_any_order_of_arrival(order: int, duplicates: float, edits: float) -> None:
    """Requests may overtake each other."""
    loads = list(made_up(MIXED._replace(duplicates=duplicates, edits=edits), batch=10, total=3000))
    rows = comments(loads)
    random.Random(order).shuffle(rows)

    assert outcomes_of(rows) == expected_counts(loads)


def test_the_shares_of_duplicates_and_edits_are_the_requested_ones() -> None:
    total = expected_counts(made_up(MIXED, batch=25, total=20_000))

    assert total.total() == 20_000
    assert total["duplicates"] == pytest.approx(6000, rel=0.05)
    assert total["updated"] == pytest.approx(4000, rel=0.05)


def test_requests_have_the_requested_size_and_the_last_has_the_rest() -> None:
    assert [load.size for load in made_up(PLAIN, batch=25, total=60)] == [25, 25, 10]
    assert sum(load.size for load in itertools.islice(made_up(PLAIN, batch=25, total=None), 100)) == 2500


def test_the_service_accepts_every_comment() -> None:
    for load in made_up(MIXED, batch=25, total=5000):
        parsed = parse_request(load.body, max_comments=25)
        assert len(parsed.comments) == load.size
        assert not parsed.rejected


def test_two_runs_share_no_id() -> None:
    """Every id begins with the run's name."""
    other = PLAIN._replace(run_id="other")
    first, second = ({row["id"] for row in comments(made_up(mix, batch=25, total=500))} for mix in (PLAIN, other))

    assert len(first) == len(second) == 500
    assert not first & second


def test_all_comments_with_an_id_go_to_the_same_post() -> None:
    """A comment that is repeated under another post would be a conflict, not a duplicate."""
    posts: dict[str, set[str]] = {}
    for row in comments(made_up(MIXED, batch=25, total=5000)):
        posts.setdefault(row["id"], set()).add(row["post_id"])

    assert all(len(posts_of_id) == 1 for posts_of_id in posts.values())
    assert len(set.union(*posts.values())) == MIXED.posts


def test_texts_resemble_real_comments() -> None:
    """A median of about 50 characters, some long texts, several scripts, questions, links, mentions and replies."""
    rows = comments(made_up(PLAIN, batch=25, total=5000))
    texts = [row["text"] for row in rows]

    assert 35 <= statistics.median(map(len, texts)) <= 70
    assert max(map(len, texts)) > 500
    for sign in ("?", "https://", "@", "Очень", "素", "💪", "merci"):
        assert any(sign in text for text in texts), sign
    assert any("parent_id" in row for row in rows)
    assert len(set(texts)) > 2000
