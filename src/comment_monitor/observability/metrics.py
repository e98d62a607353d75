"""Every metric, declared once. docs/metrics.md is generated from this file, and a test compares both.

No label has unbounded values: no ids, no addresses, no texts.
"""

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import Metric

from comment_monitor.observability import multiprocess_metrics

# Must run before any metric is created.
multiprocess_metrics.share()
# Omits the `_created` series of each counter: `process_start_time_seconds` already gives that time.
disable_created_metrics()  # type: ignore[no-untyped-call]

# Fine-grained for the durations of healthy batches (milliseconds), with a bucket limit at each threshold of alerts and
# settings (2, 10, 15 and 45 seconds).
DURATION_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 45, 60,
)  # fmt: skip


class OptionalGauge:
    """A gauge that is exported only after its first value is set.

    A process that has no value yet, or never has a value (a worker, for the schema), would otherwise export a wrong 0.
    `mode`: how prometheus_client combines the values of the live processes that share their metrics.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str] = (), *, mode: str = "livemostrecent"):
        self._name = name
        self._documentation = documentation
        self._labelnames = tuple(labels)
        self._mode = mode

    @cached_property
    def _gauge(self) -> Gauge:
        return Gauge(
            self._name,
            self._documentation,
            self._labelnames,
            multiprocess_mode=self._mode,  # type: ignore[arg-type]
        )

    def describe(self) -> Iterable[Metric]:
        """Returns the name, type and documentation without creating the gauge."""
        return [Metric(self._name, self._documentation, "gauge")]

    def set(self, value: float) -> None:
        """Sets the value."""
        self._gauge.set(value)

    def inc(self, amount: float) -> None:
        """Adds `amount`, which may be negative."""
        self._gauge.inc(amount)

    def labels(self, **labels: str) -> Gauge:
        """Returns the gauge with these labels."""
        return self._gauge.labels(**labels)

    def clear(self) -> None:
        """Marks the value as unknown: the series is omitted until set again, instead of exporting a stale value."""
        self._gauge.set(math.nan)


PROCESSING_DURATION: Final = Histogram(
    "comment_processing_duration_seconds",
    "Seconds from a batch's arrival to its commit, including its entry in Redis where Redis is used.",
    buckets=DURATION_BUCKETS,
)
QUEUE_LENGTH: Final = OptionalGauge(
    "comment_processing_queue_length",
    "Comments that this process has accepted and not yet committed. A worker accepts none and has no such series.",
    mode="livesum",
)
ERRORS: Final = Counter(
    "comment_processing_errors_total",
    "Errors by reason: a batch not committed, a comment rejected, a side path (cache, broker, rate limit) failed.",
    ["reason"],
)
DUPLICATES: Final = Counter(
    "comment_duplicates_detected_total",
    "Duplicates by the place where they were found: the same write, Redis, PostgreSQL, or the earlier versions.",
    ["tier"],
)
DB_QUERY_DURATION: Final = Histogram(
    "comment_db_query_duration_seconds",
    "Duration of a statement in seconds, by its name.",
    ["query"],
    buckets=DURATION_BUCKETS,
)
ATTEMPTS: Final = Counter("comment_processing_attempts_total", "Batches accepted for processing.")
SUCCESS: Final = Counter("comment_processing_success_total", "Batches committed.")
CACHE_HITS: Final = Counter(
    "comment_dedup_cache_hits_total", "Comments that Redis had as stored with the same content."
)
CACHE_MISSES: Final = Counter(
    "comment_dedup_cache_misses_total", "Comments that Redis did not have, so PostgreSQL was asked."
)
RATE_LIMITED: Final = Counter("comment_rate_limited_total", "Requests answered 429.")
STORED: Final = Counter("comment_stored_total", "Comments committed, by whether they were new or edited.", ["kind"])
BODY_BYTES: Final = OptionalGauge(
    "comment_body_bytes_in_flight",
    "Bytes of request bodies that this process holds; COMMENT_BODY_BYTES_IN_FLIGHT is the limit.",
    mode="livesum",
)
CONNECTIONS: Final = OptionalGauge(
    "comment_connections", "Client connections to this process's HTTP port.", mode="livesum"
)
BACKLOG: Final = OptionalGauge(
    "comment_analysis_backlog",
    "Comments stored and not yet analysed, in the whole system; no series while the database is unavailable.",
)
OLDEST: Final = OptionalGauge(
    "comment_analysis_oldest_seconds",
    "Seconds that the oldest batch has waited for its analysis, in the whole system; 0: no batch waits. "
    "No series while the database is unavailable.",
)
SCHEMA_USABLE: Final = OptionalGauge(
    "comment_schema_usable",
    "1: the database is available and migrated far enough for this process; else 0. Not exported by workers.",
    mode="livemin",
)
SCHEMA_AT_HEAD: Final = OptionalGauge(
    "comment_schema_at_head",
    "1: all migrations of this process's release have run; 0: a migration is missing, but work may go on "
    "(comment_schema_usable). No series while the database is unavailable. Not exported by workers.",
    mode="livemin",
)
HEALTH: Final = OptionalGauge(
    "comment_health_check",
    "1: this check of `/health` passes; 0: it fails, and `/health` gives the reason.",
    ["check"],
    mode="livemin",
)
RECENT_INDEX: Final = OptionalGauge(
    "comment_recent_index_age_seconds",
    "Seconds since the first day in the index of recent comments; `comment-monitor cleanup` resets it to seven days.",
)
BROKEN: Final = OptionalGauge(
    "comment_invariant_violations",
    "Violations of each of the data's invariants (`comment-monitor check`) at the last check.",
    ["invariant"],
)
CHECKED: Final = OptionalGauge(
    "comment_invariant_check_timestamp_seconds",
    "Time of the last completed check of all the data's invariants, in the whole system, in seconds since 1970. "
    "Before the first check: the time when the invariants were added.",
)
CHECK_INTERVAL: Final = OptionalGauge(
    "comment_invariant_check_interval_seconds", "COMMENT_CHECK_INTERVAL, for detecting an overdue check."
)
OUTBOX_RESENT: Final = Counter(
    "comment_outbox_resent_total", "Analysis batches sent again because no result came in time."
)
ANALYSIS_DURATION: Final = Histogram(
    "comment_analysis_duration_seconds",
    "Seconds from the start of a batch's analysis to its stored results.",
    buckets=DURATION_BUCKETS,
)
ANALYSIS: Final = Counter(
    "comment_analysis_total", "Comments by the outcome of their analysis: done, failed, retried.", ["outcome"]
)

ALL: Final = (
    PROCESSING_DURATION,
    QUEUE_LENGTH,
    ERRORS,
    DUPLICATES,
    DB_QUERY_DURATION,
    ATTEMPTS,
    SUCCESS,
    CACHE_HITS,
    CACHE_MISSES,
    RATE_LIMITED,
    STORED,
    BODY_BYTES,
    CONNECTIONS,
    BACKLOG,
    OLDEST,
    SCHEMA_USABLE,
    SCHEMA_AT_HEAD,
    HEALTH,
    RECENT_INDEX,
    BROKEN,
    CHECKED,
    CHECK_INTERVAL,
    OUTBOX_RESENT,
    ANALYSIS_DURATION,
    ANALYSIS,
)

# The possible label values. Their series are created at import, so that a rate starts from zero and no alert depends on
# an absent series.
TIERS: Final = ("request", "cache", "database", "version")
ERROR_REASONS: Final = (
    "all-rejected",
    "analysis",
    "bad-http",
    "body-too-slow",
    "broker",
    "cache",
    "conflict",
    "database-unavailable",
    "disabled",
    "draining",
    "foreign-message",
    "internal",
    "invalid-comment",
    "invalid-request",
    "not-json",
    "not-storable",
    "overloaded",
    "queue-full",
    "rate-limit-store",
    "rate-limited",
    "schema-behind",
    "timeout",
    "too-large",
    "unsupported-encoding",
    "upkeep",
)
HEALTH_CHECKS: Final = ("database", "cache", "broker", "upkeep")
KINDS: Final = ("new", "edited")
OUTCOMES: Final = ("done", "failed", "retried")
for _tier in TIERS:
    DUPLICATES.labels(tier=_tier)
for _reason in ERROR_REASONS:
    ERRORS.labels(reason=_reason)
for _kind in KINDS:
    STORED.labels(kind=_kind)
for _outcome in OUTCOMES:
    ANALYSIS.labels(outcome=_outcome)


def count_error(reason: str, amount: int = 1) -> None:
    """Counts an error under a reason of ERROR_REASONS; an undeclared reason is a programming error (KeyError)."""
    if reason not in ERROR_REASONS:
        raise KeyError(reason)
    ERRORS.labels(reason=reason).inc(amount)
