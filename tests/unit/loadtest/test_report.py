"""The report of a run: percentiles, the names of errors, and bounds."""

import json
import random
import statistics

import pytest
from tests.unit.case_ids import case_id

from comment_monitor.loadtest.answers import (
    NO_ANSWER,
    UNREADABLE,
    WRONG_COUNTS,
    Reply,
    name_of,
    read_counts,
    retry_after,
)
from comment_monitor.loadtest.drive import Result
from comment_monitor.loadtest.histogram import Histogram
from comment_monitor.loadtest.report import Bounds, failures, in_words, summary

NO_BOUNDS = Bounds(None, None, None, 0.0)


def filled(*latencies: float) -> Histogram:
    histogram = Histogram()
    for latency in latencies:
        histogram.add(latency)
    return histogram


def run(**changes: object) -> Result:
    """Returns a run of ten requests with one comment each in one second, all stored as expected."""
    result = Result()
    result.requests = result.comments = result.answered = result.answered_comments = 10
    result.seconds = 1.0
    result.counts.update(stored=10)
    result.expected.update(stored=10)
    result.latency = filled(*(at / 100 for at in range(1, 11)))
    for name, value in changes.items():
        setattr(result, name, value)
    return result


def failed(result: Result, bounds: Bounds = NO_BOUNDS) -> list[str]:
    return failures(summary(result, skipped=None), bounds)


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_deviate_by_at_most_two_and_a_half_percent(seed: int) -> None:
    """Compared with the exact percentiles of the same latencies."""
    choice = random.Random(seed)
    values = [choice.lognormvariate(-4, 1.5) for _ in range(5000)]
    exact = statistics.quantiles(values, n=1000, method="inclusive")
    histogram = filled(*values)

    for share in (0.5, 0.9, 0.95, 0.99):
        assert histogram.percentile(share) == pytest.approx(exact[int(share * 1000) - 1], rel=0.025)
    assert histogram.percentile(1.0) == histogram.highest == max(values)


def test_latencies_outside_the_range_are_counted() -> None:
    """The percentile of an empty histogram is 0."""
    assert Histogram().percentile(0.99) == 0.0
    assert filled(0.0, 5000.0).count == 2
    assert filled(5000.0).percentile(0.5) <= 5000.0


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        (Reply(503, json.dumps({"type": "urn:comment-monitor:problem:queue-full"}).encode()), "503 queue-full"),
        (Reply(429, b'{"type": "about:blank", "title": "Slow down"}'), "429 Slow down"),
        (Reply(502, b"<html>"), "502"),
        (Reply(502, b"\xff"), "502"),
        (Reply(500, b"{}"), "500"),
        (Reply(200, b"[]"), UNREADABLE),
        (Reply(NO_ANSWER, failure="no answer within 60 s"), "no answer within 60 s"),
    ],
    ids=case_id,
)
def test_an_error_is_named_by_status_and_type(reply: Reply, name: str) -> None:
    """The body may be of any kind."""
    assert name_of(reply) == name


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, ""),
        ({"stored": 1, "queued": 2, "updated": 1}, ""),
        ({"stored": 1}, WRONG_COUNTS),
        ({"queued": 1}, WRONG_COUNTS),
        ({"received": 3, "stored": 3, "queued": 3}, WRONG_COUNTS),
        ({"rejected": [{"index": 0}]}, WRONG_COUNTS),
        ({"stored": 1, "queued": 1, "rejected": [{"index": 0}]}, ""),
    ],
    ids=case_id,
)
def test_the_sums_of_the_counts_are_checked(changes: dict[str, object], fault: str) -> None:
    """Each case is an answer to a request with two comments."""
    answer = {"received": 2, "stored": 2, "updated": 0, "duplicates": 0, "queued": 2, "rejected": [], **changes}
    counts = read_counts(json.dumps(answer).encode())

    assert counts is not None
    assert counts.fault(2) == fault


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-1", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), (None, 0.0)],
    ids=case_id,
)
def test_retry_after_is_read_if_it_is_a_number(header: str | None, seconds: float) -> None:
    """With a date, or without the header, the backoff determines the pause."""
    assert retry_after({} if header is None else {"Retry-After": header}) == seconds


@pytest.mark.parametrize(
    ("bounds", "word"),
    [
        (NO_BOUNDS._replace(max_p95_ms=50), "p95"),
        (NO_BOUNDS._replace(max_p99_ms=50), "p99"),
        (NO_BOUNDS._replace(min_throughput=11), "fewer"),
    ],
)
def test_a_number_beyond_its_bound_fails_the_run(bounds: Bounds, word: str) -> None:
    (line,) = failed(run(), bounds)

    assert word in line


def test_a_run_within_its_bounds_passes() -> None:
    """The bounds themselves are allowed."""
    assert failed(run(), Bounds(1000, 1000, 10, 0)) == []


def test_an_error_rate_above_its_bound_fails_the_run() -> None:
    """One request of ten fails: more than 5 %, but not more than 10 %."""
    result = run()
    result.errors["503 queue-full"] += 1

    assert "failed" in failed(result, NO_BOUNDS._replace(max_error_rate=0.05))[0]
    assert failed(result, NO_BOUNDS._replace(max_error_rate=0.1)) == []


def test_unexpected_counts_fail_the_run() -> None:
    """If every request was answered, the counts must be the expected ones."""
    result = run()
    result.counts.update(stored=1, duplicates=-1)

    (line,) = failed(result)

    assert line.startswith("expected 10 stored")
    assert "got 11 stored" in line


def test_repeated_requests_may_turn_only_their_comments_into_duplicates() -> None:
    """The first attempt of a repeated request may have been stored although it failed."""
    result = run(uncertain=2)
    result.counts.update(stored=-2, duplicates=2)
    assert failed(result) == []

    result.counts.update(stored=-1, duplicates=1)
    assert len(failed(result)) == 1


def test_refused_comments_do_not_count_as_throughput() -> None:
    found = summary(run(answered=0, answered_comments=0), skipped=None)

    assert found["comments_per_second"] == found["requests_per_second"] == 0
    assert found["comments"] == 10


def test_a_run_without_requests_fails() -> None:
    assert failed(Result()) == ["no request was sent"]


def test_the_report_lists_counts_percentiles_and_each_kind_of_error() -> None:
    result = run()
    result.errors["503 queue-full"] += 3
    text = in_words(summary(result, skipped=None))

    for word in ("3 x 503 queue-full", "10 stored", "10.0 comments/s", "p50", "p90", "p95", "p99", "max"):
        assert word in text
