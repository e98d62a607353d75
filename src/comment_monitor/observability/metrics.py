"""Every metric, declared once. docs/metrics.md is generated from this file, and a test holds code and page together.

No label has unbounded values: no ids, no addresses, no texts.
"""

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import Metric

from comment_monitor.observability import multiprocess_metrics

# Before any metric is made.
multiprocess_metrics.share()
# A second series for each one, for a moment that `process_start_time_seconds` tells already.
disable_created_metrics()  # type: ignore[no-untyped-call]

# Fine where a healthy batch is (milliseconds), with an edge at each threshold that alerts and settings use
# (2, 10, 15 and 45 seconds).
DURATION_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 45, 60,
)  # fmt: skip


class OptionalGauge:
    """A gauge that is there from its first value on.

    A process that has not looked, or never looks (a worker, at the schema), would tell 0 and mean nothing by it.
    `mode`: what is told of several processes that share their metrics, of those that live.
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
        """Its name, type and meaning, without making it."""
        return [Metric(self._name, self._documentation, "gauge")]

    def set(self, value: float) -> None:
        """The figure as it is now."""
        self._gauge.set(value)

    def inc(self, amount: float) -> None:
        """So much more, or less where negative."""
        self._gauge.inc(amount)

    def labels(self, **labels: str) -> Gauge:
        """The gauge of these labels."""
        return self._gauge.labels(**labels)

    def clear(self) -> None:
        """It can't be had now: until it is set again none is told, rather than that of an hour ago."""
        self._gauge.set(math.nan)


PROCESSING_DURATION: Final = Histogram(
    "comment_processing_duration_seconds",
    "Seconds from a batch's arrival to its commit, and to its note in Redis where there is one.",
    buckets=DURATION_BUCKETS,
)
QUEUE_LENGTH: Final = OptionalGauge(
    "comment_processing_queue_length",
    "Comments that this process has accepted and not yet committed; a worker, which accepts none, tells none.",
    mode="livesum",
)
ERRORS: Final = Counter(
    "comment_processing_errors_total",
    "Errors by reason: a batch not committed, a comment rejected, a side path (cache, broker, rate limit) failed.",
    ["reason"],
)
DUPLICATES: Final = Counter(
    "comment_duplicates_detected_total",
    "Duplicates by where they were found: in the same write, in Redis, in PostgreSQL, among the earlier versions.",
    ["tier"],
)
DB_QUERY_DURATION: Final = Histogram(
    "comment_db_query_duration_seconds",
    "Seconds of one statement, by its name.",
    ["query"],
    buckets=DURATION_BUCKETS,
)
ATTEMPTS: Final = Counter("comment_processing_attempts_total", "Batches accepted for processing.")
SUCCESS: Final = Counter("comment_processing_success_total", "Batches committed.")
CACHE_HITS: Final = Counter(
    "comment_dedup_cache_hits_total", "Comments that Redis knew to be stored with the same text."
)
CACHE_MISSES: Final = Counter(
    "comment_dedup_cache_misses_total", "Comments that Redis did not know, so PostgreSQL was asked."
)
RATE_LIMITED: Final = Counter("comment_rate_limited_total", "Requests answered 429.")
STORED: Final = Counter("comment_stored_total", "Comments committed, by whether they were new or edited.", ["kind"])
BODY_BYTES: Final = OptionalGauge(
    "comment_body_bytes_in_flight",
    "Bytes of requests' bodies that this process holds (COMMENT_BODY_BYTES_IN_FLIGHT is the most).",
    mode="livesum",
)
CONNECTIONS: Final = OptionalGauge(
    "comment_connections", "Connections of clients to this process's HTTP port.", mode="livesum"
)
BACKLOG: Final = OptionalGauge(
    "comment_analysis_backlog",
    "Comments stored and not yet analysed, in the whole system; none while the database can't be asked.",
)
OLDEST: Final = OptionalGauge(
    "comment_analysis_oldest_seconds",
    "Seconds that the oldest batch has waited for its analysis, in the whole system; 0: none waits. "
    "None while the database can't be asked.",
)
SCHEMA_USABLE: Final = OptionalGauge(
    "comment_schema_usable",
    "1: the database is there, and migrated far enough for this process; else 0. A worker does not look.",
    mode="livemin",
)
SCHEMA_AT_HEAD: Final = OptionalGauge(
    "comment_schema_at_head",
    "1: no migration of this process's release is missing in the database; 0: one is, which work may go on without "
    "(comment_schema_usable). None while the database can't be asked. A worker does not look.",
    mode="livemin",
)
HEALTH: Final = OptionalGauge(
    "comment_health_check",
    "1: what `/health` looks at is well; 0: it is not, and `/health` says why.",
    ["check"],
    mode="livemin",
)
RECENT_INDEX: Final = OptionalGauge(
    "comment_recent_index_age_seconds",
    "How far back the index of recent comments begins; `comment-monitor cleanup` sets it back to seven days.",
)
BROKEN: Final = OptionalGauge(
    "comment_invariant_violations",
    "Violations of each of the data's promises (`comment-monitor check`), as last looked at.",
    ["invariant"],
)
CHECKED: Final = OptionalGauge(
    "comment_invariant_check_timestamp_seconds",
    "When each of the data's promises was last looked at to the end, in the whole system, in seconds since 1970. "
    "Before the first time: since when they have been due.",
)
CHECK_INTERVAL: Final = OptionalGauge(
    "comment_invariant_check_interval_seconds", "COMMENT_CHECK_INTERVAL, for what is overdue."
)
OUTBOX_RESENT: Final = Counter(
    "comment_outbox_resent_total", "Analysis batches sent again because no result came in time."
)
ANALYSIS_DURATION: Final = Histogram(
    "comment_analysis_duration_seconds",
    "Seconds from a worker's start on a batch to its stored results.",
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

# The label values that can occur. They are made at import, so that a rate has a zero to start from and an alert
# is never on an absent series.
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
    """Counts an error under a declared reason; a reason not declared above is a programming error (KeyError)."""
    if reason not in ERROR_REASONS:
        raise KeyError(reason)
    ERRORS.labels(reason=reason).inc(amount)
