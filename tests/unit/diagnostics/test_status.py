"""Rates and percentiles between two scrapes of the metrics, computed as PromQL does."""

import pytest

from comment_monitor.diagnostics.status import LOAD, Labels, ProcessMetrics, Scrape, ScrapeDelta
from comment_monitor.storage import outbox

ERRORS = "comment_processing_errors_total"
DURATION = "comment_processing_duration_seconds"


def scrape_of(moment: float, *processes: dict[tuple[str, Labels], float]) -> Scrape:
    return Scrape(moment, tuple(map(ProcessMetrics.classify, processes)))


def sample(name: str, value: float, **labels: str) -> dict[tuple[str, Labels], float]:
    return {(name, frozenset(labels.items())): value}


def histogram(counts: dict[str, float], **labels: str) -> dict[tuple[str, Labels], float]:
    found: dict[tuple[str, Labels], float] = {}
    for edge, count in counts.items():
        found |= sample(f"{DURATION}_bucket", count, le=edge, **labels)
    return found


def test_a_rate_is_the_increase_per_second_over_all_processes() -> None:
    before = scrape_of(10, sample("x_total", 100), sample("x_total", 50))
    after = scrape_of(14, sample("x_total", 108), sample("x_total", 70))
    assert ScrapeDelta(before, after).rate("x_total") == pytest.approx((8 + 20) / 4)


def test_a_restart_does_not_make_a_rate_negative() -> None:
    delta = ScrapeDelta(scrape_of(0, sample("x_total", 100)), scrape_of(2, sample("x_total", 6)))
    assert delta.rate("x_total") == pytest.approx(3)


def test_rates_are_filtered_or_grouped_by_label() -> None:
    before = scrape_of(0, sample(ERRORS, 1, reason="cache") | sample(ERRORS, 5, reason="broker"))
    after = scrape_of(2, sample(ERRORS, 3, reason="cache") | sample(ERRORS, 5, reason="broker"))
    delta = ScrapeDelta(before, after)
    assert delta.rate(ERRORS, reason="cache") == pytest.approx(1)
    assert delta.by(ERRORS, "reason") == {"cache": (1.0, 3.0), "broker": (0.0, 5.0)}


def test_gauges_are_summed_or_read_once_if_every_process_exports_the_same() -> None:
    scrape = scrape_of(1, sample("queue", 3) | sample("backlog", 70), sample("queue", 4) | sample("backlog", 80))
    delta = ScrapeDelta(scrape, scrape)
    assert delta.now("queue") == 7
    assert delta.most("backlog") == 80


def test_a_missing_metric_is_none_and_not_zero() -> None:
    delta = ScrapeDelta(scrape_of(0, sample("x_total", 1)), scrape_of(1, sample("x_total", 1)))
    assert delta.most("nothing") is None
    assert delta.now("nothing") is None
    assert delta.rate("nothing") is None
    assert delta.total("nothing") is None
    assert (delta.rate("x_total"), delta.total("x_total")) == (0, 1)


COUNTED = sample("comment_analysis_total", 0, outcome="done")
INTAKE = COUNTED | sample("comment_processing_queue_length", 0)
LOADED = sample("comment_db_query_duration_seconds_count", 3, query="load_batches")


@pytest.mark.parametrize(
    ("series", "parts"),
    [
        (INTAKE, {"orchestrator"}),
        (COUNTED, {"worker"}),
        (INTAKE | LOADED, {"orchestrator", "worker"}),
        (COUNTED | LOADED, {"worker"}),
        (sample("celery_task_sent_total", 1), set()),
    ],
)
def test_a_process_is_classified_by_the_metrics_of_its_part(
    series: dict[tuple[str, Labels], float], parts: set[str]
) -> None:
    assert ProcessMetrics.classify(series).parts == parts


def test_the_statement_that_identifies_a_worker_is_load_batches() -> None:
    assert ("query", outbox.LOAD_BATCHES.name) == LOAD


def test_whole_marks_both_parts_before_any_comment_was_analysed() -> None:
    assert ProcessMetrics.classify(INTAKE, whole=True).parts == {"orchestrator", "worker"}


def test_the_delta_of_a_part_excludes_the_other_part() -> None:
    before = scrape_of(0, INTAKE, COUNTED)
    after = scrape_of(2, INTAKE, sample("comment_analysis_total", 8, outcome="done"))
    assert ScrapeDelta(before, after).of("worker").rate("comment_analysis_total", outcome="done") == 4
    alone = ScrapeDelta(scrape_of(0, INTAKE), scrape_of(2, INTAKE))
    assert alone.of("worker").rate("comment_analysis_total", outcome="done") is None
    assert alone.of("orchestrator").total("comment_analysis_total", outcome="done") == 0


def test_a_process_without_an_earlier_scrape_does_not_count_for_rates() -> None:
    unanswered = Scrape(0, (None, ProcessMetrics.classify(sample("x_total", 5))))
    delta = ScrapeDelta(unanswered, scrape_of(1, sample("x_total", 1000), sample("x_total", 7)))
    assert delta.rate("x_total") == 2
    assert delta.total("x_total") == 1007
    assert delta.by("x_total", "reason") == {}


def test_the_largest_value_of_each_label_is_used() -> None:
    name = "comment_invariant_violations"
    scrape = scrape_of(
        1,
        sample(name, 0, invariant="identity") | sample(name, 2, invariant="results"),
        sample(name, 1, invariant="results"),
    )
    assert ScrapeDelta(scrape, scrape).most_by(name, "invariant") == {"identity": 0, "results": 2}


# 10 observations up to 0.1 and 10 up to 0.5, in two processes. An observation before the first scrape does not count.
Series = dict[tuple[str, Labels], float]
BEFORE: tuple[Series, ...] = (histogram({"0.1": 1, "0.5": 1, "+Inf": 1}), {})
AFTER: tuple[Series, ...] = (
    histogram({"0.1": 11, "0.5": 11, "+Inf": 11}),
    histogram({"0.1": 0, "0.5": 10, "+Inf": 10}),
)


def test_percentiles_cover_the_time_between_the_scrapes() -> None:
    delta = ScrapeDelta(scrape_of(0, *BEFORE), scrape_of(1, *AFTER))
    # As in PromQL's histogram_quantile: linear within the bucket.
    assert delta.quantiles(DURATION) == pytest.approx([0.1, 0.1 + 0.4 * 9 / 10, 0.1 + 0.4 * 9.8 / 10])


def test_percentiles_beyond_the_last_finite_bound_are_that_bound() -> None:
    delta = ScrapeDelta(scrape_of(0, {}), scrape_of(1, histogram({"0.1": 0, "60": 0, "+Inf": 4})))
    assert delta.quantiles(DURATION) == [60, 60, 60]


def test_percentiles_without_observations_are_none() -> None:
    unchanged = scrape_of(0, *AFTER)
    assert ScrapeDelta(unchanged, unchanged).quantiles(DURATION) is None
    assert ScrapeDelta(unchanged, unchanged).slowest() is None
