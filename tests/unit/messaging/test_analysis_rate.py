"""The measured analysis rate of the workers, and the bounds of their queue that are computed from it."""

import pytest

from comment_monitor.messaging.analysis_rate import LEAST_ROWS, ROWS_AT_FIRST, AnalysisRate, Bounds, Outstanding, bounds

MOST = 10_000


class Samples:
    """Samples of a system, one a second."""

    def __init__(self) -> None:
        self.rate = AnalysisRate()
        self.moment = 0.0
        self.inserted = 0
        self.updated = 0

    def take(self, seconds: int, *, inserted: float = 0, updated: float = 0, rows: int = 100) -> float | None:
        """Adds a sample for each second, with this number of results a second, and returns the rate."""
        for _ in range(seconds):
            self.moment += 1
            self.inserted += int(inserted)
            self.updated += int(updated)
            self.rate.observe(self.moment, Outstanding(rows, rows * 10, self.inserted, self.updated))
        return self.rate.per_second


def test_the_rate_of_idle_workers_is_unknown() -> None:
    samples = Samples()
    assert samples.take(120, rows=0) is None
    assert samples.take(1) is None


def test_the_rate_covers_the_last_seconds_only() -> None:
    samples = Samples()
    assert samples.take(30, inserted=5000) == 5000
    assert 2500 < (samples.take(5, inserted=2500) or 0) < 5000
    assert samples.take(7, inserted=2500) == 2500


def test_the_rate_is_kept_when_workers_run_out_of_work() -> None:
    samples = Samples()
    samples.take(20, inserted=5000)
    assert samples.take(60, inserted=3, rows=0) == 5000


def test_without_outstanding_rows_the_measured_rate_is_a_lower_bound() -> None:
    samples = Samples()
    samples.take(20, rows=0)
    assert samples.take(5, inserted=40, rows=0) == 40


def test_the_rate_falls_to_zero_while_outstanding_rows_are_not_analysed() -> None:
    samples = Samples()
    samples.take(20, inserted=5000)
    rates = [samples.take(1) or 0 for _ in range(70)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0
    assert samples.take(20, inserted=1000) == 1000


def test_the_rate_is_zero_if_no_worker_ever_ran() -> None:
    assert Samples().take(10) == 0


@pytest.mark.parametrize("every", [10, 2])
def test_a_slow_analyser_is_measured_over_a_longer_window(every: int) -> None:
    samples = Samples()
    for _ in range(60):
        samples.take(every - 1)
        samples.take(1, inserted=1)
    assert samples.rate.per_second == pytest.approx(1 / every, rel=0.3)


@pytest.mark.parametrize(
    ("inserted", "updated", "rate"),
    [(1000, 0, 1000), (0, 1000, 500), (1000, 1000, 1000), (500, 2000, 1250)],
)
def test_the_rate_counts_only_certain_analyses_among_updated_results(inserted: int, updated: int, rate: int) -> None:
    assert Samples().take(20, inserted=inserted, updated=updated) == rate


def test_a_reset_of_the_statistics_keeps_the_rate() -> None:
    samples = Samples()
    samples.take(20, inserted=5000)
    samples.inserted = 7
    assert samples.take(1) == 5000
    assert samples.take(20, inserted=400) == 400


def bounds_of(rate: float | None, rows: int, *, comments: int | None = None, waiting: bool = True) -> Bounds:
    outstanding = Outstanding(rows, rows * 10 if comments is None else comments, 0, 0)
    return bounds(rate, outstanding, resend_after=60, batch_size=10, most_rows=MOST, waiting=waiting)


def test_the_queue_is_bounded_by_half_of_resend_after() -> None:
    assert bounds_of(1000, 0).rows == 3000
    assert bounds_of(1000, 2999).rows == 1
    assert bounds_of(1000, 5000).rows == 0
    # Each row has two comments.
    assert bounds_of(1000, 1000, comments=2000).rows == MOST - 1000
    assert bounds_of(1e9, 0).rows == MOST


def test_a_long_resend_after_does_not_make_a_long_queue() -> None:
    outstanding = Outstanding(0, 0, 0, 0)
    assert bounds(10, outstanding, resend_after=3600, batch_size=10, most_rows=MOST, waiting=True).rows == 120


@pytest.mark.parametrize("rate", [0, 0.001, 3])
def test_the_queue_has_a_minimum_at_any_rate(rate: float) -> None:
    assert bounds_of(rate, 0).rows == LEAST_ROWS
    assert bounds_of(rate, LEAST_ROWS).rows == 0


def test_without_a_rate_the_bound_is_fixed_and_resending_is_not_postponed() -> None:
    assert bounds_of(None, 0) == Bounds(ROWS_AT_FIRST, MOST, None)
    assert bounds_of(None, 5000) == Bounds(0, MOST, None)


@pytest.mark.parametrize(("rate", "rows"), [(0, 1), (3.5, 1), (100, 5), (5000, 250)])
def test_a_message_names_at_most_half_a_second_of_work(rate: float, rows: int) -> None:
    assert bounds_of(rate, 100).rows_a_message == rows


@pytest.mark.parametrize(
    ("rate", "rows", "waiting", "postpone"),
    [
        (1000, 3000, True, None),
        # Half as fast: perhaps no worker has taken any of the rows yet.
        (500, 3000, True, 75),
        (100, 3000, True, 375),
        # No worker runs.
        (0, 100, True, 60),
        (0.0001, 100, True, 3600),
        # No message is waiting: all rows are being analysed, or their messages are lost.
        (100, 3000, False, None),
        (0, 100, False, None),
        (0, 0, True, None),
    ],
)
def test_resending_is_postponed_while_the_rows_may_still_be_queued(
    rate: float, rows: int, waiting: bool, postpone: float | None
) -> None:
    assert bounds_of(rate, rows, waiting=waiting).postpone == postpone
