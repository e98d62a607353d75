"""Made-up comments: the same for the same seed, like real ones, and with one outcome whatever overtakes what."""

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


def promised(loads: Iterable[Load]) -> Counter[str]:
    total: Counter[str] = Counter()
    for load in loads:
        assert load.expected
        total.update(load.expected._asdict())
    return total


def stored_by(rows: Iterable[dict[str, Any]]) -> Counter[str]:
    """What the contract makes of these comments, in this order."""
    texts: dict[str, str] = {}
    fates: Counter[str] = Counter()
    for row in rows:
        known = texts.get(row["id"])
        fates["stored" if known is None else "duplicates" if known == row["text"] else "updated"] += 1
        texts[row["id"]] = row["text"]
    return fates


def test_the_same_seed_makes_the_same_requests() -> None:
    """And another seed makes others."""
    first = list(made_up(MIXED, batch=25, total=1000))

    assert list(made_up(MIXED, batch=25, total=1000)) == first
    assert list(made_up(MIXED._replace(seed=2), batch=25, total=1000)) != first


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize(("duplicates", "edits"), [(0.3, 0.2), (0.9, 0.05), (0.0, 0.8), (0.5, 0.5), (1.0, 0.0)])
def test_the_promise_holds_in_whatever_order_comments_arrive(order: int, duplicates: float, edits: float) -> None:
    """Requests overtake each other, and the counts must not depend on it."""
    loads = list(made_up(MIXED._replace(duplicates=duplicates, edits=edits), batch=10, total=3000))
    rows = comments(loads)
    random.Random(order).shuffle(rows)

    assert stored_by(rows) == promised(loads)


def test_shares_are_what_was_asked_for() -> None:
    """Of many comments, so many repeat or edit an earlier one."""
    total = promised(made_up(MIXED, batch=25, total=20_000))

    assert total.total() == 20_000
    assert total["duplicates"] == pytest.approx(6000, rel=0.05)
    assert total["updated"] == pytest.approx(4000, rel=0.05)


def test_requests_have_the_size_asked_for_and_the_last_one_the_rest() -> None:
    """60 comments in requests of 25."""
    assert [load.size for load in made_up(PLAIN, batch=25, total=60)] == [25, 25, 10]
    assert sum(load.size for load in itertools.islice(made_up(PLAIN, batch=25, total=None), 100)) == 2500


def test_every_comment_is_one_that_the_service_takes() -> None:
    """Nothing made up is rejected."""
    for load in made_up(MIXED, batch=25, total=5000):
        parsed = parse_request(load.body, max_comments=25)
        assert len(parsed.comments) == load.size
        assert not parsed.rejected


def test_ids_of_two_runs_do_not_meet() -> None:
    """The run's name begins every id."""
    other = PLAIN._replace(run_id="other")
    first, second = ({row["id"] for row in comments(made_up(mix, batch=25, total=500))} for mix in (PLAIN, other))

    assert len(first) == len(second) == 500
    assert not first & second


def test_all_of_one_id_goes_to_one_post() -> None:
    """A repeat sent under another post would be another question."""
    posts: dict[str, set[str]] = {}
    for row in comments(made_up(MIXED, batch=25, total=5000)):
        posts.setdefault(row["id"], set()).add(row["post_id"])

    assert all(len(of_one) == 1 for of_one in posts.values())
    assert len(set.union(*posts.values())) == MIXED.posts


def test_texts_are_like_real_ones() -> None:
    """About 50 characters in the median, some long, several scripts, questions, links, mentions, replies."""
    rows = comments(made_up(PLAIN, batch=25, total=5000))
    texts = [row["text"] for row in rows]

    assert 35 <= statistics.median(map(len, texts)) <= 70
    assert max(map(len, texts)) > 500
    for sign in ("?", "https://", "@", "Очень", "素", "💪", "merci"):
        assert any(sign in text for text in texts), sign
    assert any("parent_id" in row for row in rows)
    assert len(set(texts)) > 2000
