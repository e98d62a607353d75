"""The measured rate of the workers, and the bounds that follow from it for the queue before them."""

import pytest

from comment_monitor.messaging.analysis_rate import LEAST_ROWS, ROWS_AT_FIRST, AnalysisRate, Bounds, Outstanding, bounds

MOST = 10_000


class Looks:
    """Looks at a system, a second after the other."""

    def __init__(self) -> None:
        self.rate = AnalysisRate()
        self.moment = 0.0
        self.inserted = 0
        self.updated = 0

    def take(self, seconds: int, *, inserted: float = 0, updated: float = 0, rows: int = 100) -> float | None:
        """So many seconds, with so many results in each."""
        for _ in range(seconds):
            self.moment += 1
            self.inserted += int(inserted)
            self.updated += int(updated)
            self.rate.observe(self.moment, Outstanding(rows, rows * 10, self.inserted, self.updated))
        return self.rate.per_second


def test_nothing_is_known_of_workers_that_had_nothing_to_do() -> None:
    looks = Looks()
    assert looks.take(120, rows=0) is None
    assert looks.take(1) is None


def test_the_rate_is_that_of_the_last_seconds() -> None:
    looks = Looks()
    assert looks.take(30, inserted=5000) == 5000
    assert 2500 < (looks.take(5, inserted=2500) or 0) < 5000
    assert looks.take(7, inserted=2500) == 2500


def test_workers_that_run_out_of_work_are_as_fast_as_they_were() -> None:
    looks = Looks()
    looks.take(20, inserted=5000)
    assert looks.take(60, inserted=3, rows=0) == 5000


def test_a_few_comments_now_and_then_say_what_workers_can_do_at_least() -> None:
    looks = Looks()
    looks.take(20, rows=0)
    assert looks.take(5, inserted=40, rows=0) == 40


def test_with_work_that_nobody_does_the_rate_falls_to_zero() -> None:
    looks = Looks()
    looks.take(20, inserted=5000)
    rates = [looks.take(1) or 0 for _ in range(70)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0
    assert looks.take(20, inserted=1000) == 1000


def test_workers_that_never_were_there_are_known_to_do_nothing() -> None:
    assert Looks().take(10) == 0


@pytest.mark.parametrize("every", [10, 2])
def test_a_slow_analyser_is_measured_over_a_longer_time(every: int) -> None:
    looks = Looks()
    for _ in range(60):
        looks.take(every - 1)
        looks.take(1, inserted=1)
    assert looks.rate.per_second == pytest.approx(1 / every, rel=0.3)


@pytest.mark.parametrize(
    ("inserted", "updated", "rate"),
    [(1000, 0, 1000), (0, 1000, 500), (1000, 1000, 1000), (500, 2000, 1250)],
)
def test_an_updated_result_may_be_an_edit_or_a_label_and_the_rate_is_what_is_certain(
    inserted: int, updated: int, rate: int
) -> None:
    assert Looks().take(20, inserted=inserted, updated=updated) == rate


def test_statistics_that_begin_again_are_no_rate() -> None:
    looks = Looks()
    looks.take(20, inserted=5000)
    looks.inserted = 7
    assert looks.take(1) == 5000
    assert looks.take(20, inserted=400) == 400


def bounds_of(rate: float | None, rows: int, *, comments: int | None = None, waiting: bool = True) -> Bounds:
    now = Outstanding(rows, rows * 10 if comments is None else comments, 0, 0)
    return bounds(rate, now, resend_after=60, batch_size=10, most_rows=MOST, waiting=waiting)


def test_the_queue_holds_the_work_of_half_the_time_after_which_it_is_sent_again() -> None:
    assert bounds_of(1000, 0).rows == 3000
    assert bounds_of(1000, 2999).rows == 1
    assert bounds_of(1000, 5000).rows == 0
    # Rows of two comments.
    assert bounds_of(1000, 1000, comments=2000).rows == MOST - 1000
    assert bounds_of(1e9, 0).rows == MOST


def test_a_long_time_for_sending_again_does_not_make_a_long_queue() -> None:
    now = Outstanding(0, 0, 0, 0)
    assert bounds(10, now, resend_after=3600, batch_size=10, most_rows=MOST, waiting=True).rows == 120


@pytest.mark.parametrize("rate", [0, 0.001, 3])
def test_slow_workers_have_something_to_take_whatever_was_measured(rate: float) -> None:
    assert bounds_of(rate, 0).rows == LEAST_ROWS
    assert bounds_of(rate, LEAST_ROWS).rows == 0


def test_without_a_rate_there_is_a_fixed_bound_and_nothing_is_put_off() -> None:
    assert bounds_of(None, 0) == Bounds(ROWS_AT_FIRST, MOST, None)
    assert bounds_of(None, 5000) == Bounds(0, MOST, None)


@pytest.mark.parametrize(("rate", "rows"), [(0, 1), (3.5, 1), (100, 5), (5000, 250)])
def test_a_message_names_no_more_than_workers_do_in_a_moment(rate: float, rows: int) -> None:
    assert bounds_of(rate, 100).rows_a_message == rows


@pytest.mark.parametrize(
    ("rate", "rows", "waiting", "postpone"),
    [
        (1000, 3000, True, None),
        # Half as fast: it may be that none of it was taken yet.
        (500, 3000, True, 75),
        (100, 3000, True, 375),
        # Nobody is there.
        (0, 100, True, 60),
        (0.0001, 100, True, 3600),
        # All of it is in the workers' hands, or lost.
        (100, 3000, False, None),
        (0, 100, False, None),
        (0, 0, True, None),
    ],
)
def test_what_waits_in_a_queue_longer_than_that_is_not_sent_again(
    rate: float, rows: int, waiting: bool, postpone: float | None
) -> None:
    assert bounds_of(rate, rows, waiting=waiting).postpone == postpone
