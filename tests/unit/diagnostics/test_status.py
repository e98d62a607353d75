"""What happened between two looks at the metrics: the arithmetic is PromQL's."""

import pytest

from comment_monitor.diagnostics.status import LOAD, Labels, ProcessMetrics, Scrape, ScrapeDelta
from comment_monitor.storage import outbox

ERRORS = "comment_processing_errors_total"
DURATION = "comment_processing_duration_seconds"


def look(moment: float, *processes: dict[tuple[str, Labels], float]) -> Scrape:
    return Scrape(moment, tuple(map(ProcessMetrics.classify, processes)))


def one(name: str, value: float, **labels: str) -> dict[tuple[str, Labels], float]:
    return {(name, frozenset(labels.items())): value}


def histogram(counts: dict[str, float], **labels: str) -> dict[tuple[str, Labels], float]:
    found: dict[tuple[str, Labels], float] = {}
    for edge, count in counts.items():
        found |= one(f"{DURATION}_bucket", count, le=edge, **labels)
    return found


def test_a_rate_is_the_rise_a_second_over_all_processes() -> None:
    before = look(10, one("x_total", 100), one("x_total", 50))
    after = look(14, one("x_total", 108), one("x_total", 70))
    assert ScrapeDelta(before, after).rate("x_total") == pytest.approx((8 + 20) / 4)


def test_a_process_that_began_anew_has_not_counted_backwards() -> None:
    between = ScrapeDelta(look(0, one("x_total", 100)), look(2, one("x_total", 6)))
    assert between.rate("x_total") == pytest.approx(3)


def test_a_rate_can_be_of_some_labels_and_a_counter_told_by_them() -> None:
    before = look(0, one(ERRORS, 1, reason="cache") | one(ERRORS, 5, reason="broker"))
    after = look(2, one(ERRORS, 3, reason="cache") | one(ERRORS, 5, reason="broker"))
    between = ScrapeDelta(before, after)
    assert between.rate(ERRORS, reason="cache") == pytest.approx(1)
    assert between.by(ERRORS, "reason") == {"cache": (1.0, 3.0), "broker": (0.0, 5.0)}


def test_gauges_of_processes_are_summed_and_what_all_of_them_tell_is_taken_once() -> None:
    now = look(1, one("queue", 3) | one("backlog", 70), one("queue", 4) | one("backlog", 80))
    between = ScrapeDelta(now, now)
    assert between.now("queue") == 7
    assert between.most("backlog") == 80


def test_what_nobody_tells_is_not_zero() -> None:
    between = ScrapeDelta(look(0, one("x_total", 1)), look(1, one("x_total", 1)))
    assert between.most("nothing") is None
    assert between.now("nothing") is None
    assert between.rate("nothing") is None
    assert between.total("nothing") is None
    assert (between.rate("x_total"), between.total("x_total")) == (0, 1)


COUNTED = one("comment_analysis_total", 0, outcome="done")
INTAKE = COUNTED | one("comment_processing_queue_length", 0)
LOADED = one("comment_db_query_duration_seconds_count", 3, query="load_batches")


@pytest.mark.parametrize(
    ("series", "parts"),
    [
        (INTAKE, {"orchestrator"}),
        (COUNTED, {"worker"}),
        (INTAKE | LOADED, {"orchestrator", "worker"}),
        (COUNTED | LOADED, {"worker"}),
        (one("celery_task_sent_total", 1), set()),
    ],
)
def test_a_process_is_known_by_what_only_its_part_tells(
    series: dict[tuple[str, Labels], float], parts: set[str]
) -> None:
    assert ProcessMetrics.classify(series).parts == parts


def test_the_statement_by_which_a_worker_is_known_is_that_of_the_code() -> None:
    assert ("query", outbox.LOAD_BATCHES.name) == LOAD


def test_a_sum_that_is_known_to_hold_both_is_believed_before_anything_was_analysed() -> None:
    assert ProcessMetrics.classify(INTAKE, whole=True).parts == {"orchestrator", "worker"}


def test_of_one_part_nothing_of_the_other_is_told() -> None:
    before = look(0, INTAKE, COUNTED)
    after = look(2, INTAKE, one("comment_analysis_total", 8, outcome="done"))
    assert ScrapeDelta(before, after).of("worker").rate("comment_analysis_total", outcome="done") == 4
    alone = ScrapeDelta(look(0, INTAKE), look(2, INTAKE))
    assert alone.of("worker").rate("comment_analysis_total", outcome="done") is None
    assert alone.of("orchestrator").total("comment_analysis_total", outcome="done") == 0


def test_one_that_answers_again_has_not_counted_all_of_it_meanwhile() -> None:
    silent = Scrape(0, (None, ProcessMetrics.classify(one("x_total", 5))))
    between = ScrapeDelta(silent, look(1, one("x_total", 1000), one("x_total", 7)))
    assert between.rate("x_total") == 2
    assert between.total("x_total") == 1007
    assert between.by("x_total", "reason") == {}


def test_of_what_all_tell_by_a_label_the_largest_counts() -> None:
    name = "comment_invariant_violations"
    now = look(
        1, one(name, 0, invariant="identity") | one(name, 2, invariant="results"), one(name, 1, invariant="results")
    )
    assert ScrapeDelta(now, now).most_by(name, "invariant") == {"identity": 0, "results": 2}


# 10 observations up to 0.1 and 10 up to 0.5, in two processes; before that one that does not count.
Told = dict[tuple[str, Labels], float]
BEFORE: tuple[Told, ...] = (histogram({"0.1": 1, "0.5": 1, "+Inf": 1}), {})
AFTER: tuple[Told, ...] = (
    histogram({"0.1": 11, "0.5": 11, "+Inf": 11}),
    histogram({"0.1": 0, "0.5": 10, "+Inf": 10}),
)


def test_percentiles_are_those_of_the_time_between() -> None:
    between = ScrapeDelta(look(0, *BEFORE), look(1, *AFTER))
    # As histogram_quantile has it: linear within the bucket.
    assert between.quantiles(DURATION) == pytest.approx([0.1, 0.1 + 0.4 * 9 / 10, 0.1 + 0.4 * 9.8 / 10])


def test_what_is_beyond_the_last_edge_is_told_as_that_edge() -> None:
    between = ScrapeDelta(look(0, {}), look(1, histogram({"0.1": 0, "60": 0, "+Inf": 4})))
    assert between.quantiles(DURATION) == [60, 60, 60]


def test_where_nothing_was_seen_there_is_no_percentile() -> None:
    still = look(0, *AFTER)
    assert ScrapeDelta(still, still).quantiles(DURATION) is None
    assert ScrapeDelta(still, still).slowest() is None
