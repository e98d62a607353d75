"""The panels of the Grafana dashboard, in the deployment guide's eight groups."""  # noqa: INP001 - a script's

from typing import NamedTuple

# Without Kubernetes there are no labels namespace and pod: `.*` also matches a missing label.
OURS = 'namespace=~"$namespace",pod=~"$pod"'
WHOLE = 'namespace=~"$namespace"'
# The broker may run in another namespace, or serve other applications as well.
BROKER = 'namespace=~"$broker"'
QUEUE = f'{BROKER},queue="comment-analysis"'
# The celery-exporter always knows a task's name, but its queue only if it saw the event of the sending.
TASK = f'{BROKER},name="comment_monitor.analyse"'
# Named after their Services; an orchestrator exposed outside the cluster has a separate metrics Service.
JOBS = "orchestrator(-metrics)?|comment-worker"
BATCH = "comment_processing_duration_seconds_bucket"
STATEMENT = "comment_db_query_duration_seconds"
# The reasons of client errors, as in the alerts (chart/templates/prometheusrule.yaml).
SENDERS = (
    "all-rejected|bad-http|body-too-slow|conflict|invalid-comment|invalid-request|not-json|not-storable"
    "|rate-limited|too-large|unsupported-encoding"
)
ERRORS_TOTAL = "comment_processing_errors_total"
DATABASE_ERRORS = "database-unavailable|schema-behind|timeout|not-storable"
HITS, MISSES = "comment_dedup_cache_hits_total", "comment_dedup_cache_misses_total"


class Panel(NamedTuple):
    """A panel of the dashboard.

    `targets`: pairs of expression and legend. `limits`: values from which the panel is yellow, and red. `least`: value
    below which it is red. `threshold`: the chart's alert value whose default is the last of `limits`, where an alert
    fires. `runbook`: the names of its pages, separated by blanks. `words`: texts shown for 0 and for 1. `none`: text
    shown without data.
    """

    title: str
    description: str
    targets: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    limits: tuple[float | None, float | None] = (None, None)
    threshold: str = ""
    runbook: str = ""
    width: int = 8
    stacked: bool = False
    most: float | None = None
    least: float | None = None
    words: tuple[str, str] | None = None
    none: str = ""


def rate(metric: str, more: str = "", by: str = "", where: str = OURS) -> str:
    """Returns the expression of a counter's rate per second, summed over all pods."""
    labels = f"{where},{more}" if more else where
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{labels}}}[$__rate_interval]))"


def quantile(share: float, buckets: str, by: str = "", where: str = OURS) -> str:
    """Returns the expression of a quantile over all pods."""
    of = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({of}) (rate({buckets}{{{where}}}[$__rate_interval])))"


def percentiles(buckets: str, where: str = OURS) -> tuple[tuple[str, str], ...]:
    """Returns the expressions and legends of the 50th, 95th and 99th percentile."""
    return tuple((quantile(share, buckets, where=where), f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99))


def share(part: str, *others: str) -> str:
    """Returns the expression of a part's share of the sum of all parts; no value if the sum is zero."""
    return f"{part} / (({' + '.join((part, *others))}) > 0)"


def largest(metric: str) -> str:
    """Returns the expression of a system-wide gauge, which every pod exports."""
    return f"max({metric}{{{WHOLE}}})"


OVERVIEW = (
    Panel(
        "Comments stored", "New and edited comments committed per second.",
        ((rate("comment_stored_total"), "stored"),), "cps", "stat", width=4,
    ),
    Panel(
        "Failed batches", "Share of the accepted batches that were not committed. The target is below 1 %; red starts "
        "at a half, as the alert does. During a burst, queued batches count as well.",
        (((f"clamp_min(1 - {rate('comment_processing_success_total')} / "
           f"({rate('comment_processing_attempts_total')} > 0), 0)"), "failed"),),
        "percentunit", "stat", (0.01, 0.5), runbook="CommentBatchesFailing", width=4, none="no batches",
    ),
    Panel(
        "Queue length", "Comments accepted and not yet committed, in all pods combined.",
        ((f"sum(comment_processing_queue_length{{{OURS}}})", "comments"),),
        "short", "stat", (250, 500), "queueBacklogThreshold", "CommentQueueBacklog", 4,
    ),
    Panel(
        "Duplicates", "Share of the accepted comments that were already stored.",
        ((share(rate("comment_duplicates_detected_total"), rate("comment_stored_total")), "duplicates"),),
        "percentunit", "stat", width=4, none="no comments",
    ),
    Panel(
        "Waiting for analysis", "Comments stored and not yet analysed, in the whole system. No alert uses their "
        "number; an alert uses the age of the oldest.",
        ((largest("comment_analysis_backlog"), "comments"),),
        "short", "stat", (10_000, None), runbook="CommentAnalysisStalled", width=4,
    ),
    Panel(
        "Oldest waiting", "How long the oldest batch has waited for its analysis; 0: no batch waits.",
        ((largest("comment_analysis_oldest_seconds"), "age"),),
        "s", "stat", (300, 900), "analysisAgeThreshold", "CommentAnalysisStalled", 4,
    ),
    Panel(
        "Database usable", "Whether every orchestrator reaches the database and can use its schema.",
        ((f'min(comment_schema_usable{{{OURS},job!="comment-worker"}})', "usable"),),
        "short", "stat", runbook="CommentSchemaNotUsable CommentServiceDegraded", width=5, least=1, words=("no", "yes"),
    ),
    Panel(
        "Migrated", "Whether all migrations of every orchestrator's release have run; it may work without them.",
        ((f'min(comment_schema_at_head{{{OURS},job!="comment-worker"}})', "migrated"),),
        "short", "stat", runbook="CommentMigrationNotAtHead", width=4, least=1, words=("no", "yes"),
    ),
    Panel(
        "Violated invariants", "Violations of the data's invariants at the last check (every COMMENT_CHECK_INTERVAL).",
        ((f"sum(max by (invariant) (comment_invariant_violations{{{WHOLE}}}))", "violations"),),
        "short", "stat", (None, 1), width=5, none="not checked yet",
        runbook="CommentInvariantBroken CommentInvariantCheckOverdue",
    ),
    Panel(
        "Age of the recent index", "How far back the index of recent comments begins: 7 days after a cleanup, "
        "14 before the next weekly one.",
        ((largest("comment_recent_index_age_seconds"), "age"),),
        "s", "stat", (1_296_000, 1_382_400), "cleanupAgeThreshold", "CommentCleanupNotDone", 5,
    ),
    Panel(
        "Rate limited", "Requests per second that were answered 429.",
        ((rate("comment_rate_limited_total"), "429"),), "reqps", "stat", runbook="CommentsRefused", width=5,
    ),
    Panel(
        "Comments stored, by kind", "New comments, and edits of known ones.",
        ((rate("comment_stored_total", by="kind"), "{{kind}}"),), "cps", stacked=True,
    ),
    Panel(
        "Queue length, by pod", "Comments that each pod accepted and has not yet committed; an autoscaler uses it. "
        "Stacked: the upper edge is the sum, to which the limit applies.",
        ((f"sum by (job, pod) (comment_processing_queue_length{{{OURS}}})", "{{job}} {{pod}}"),),
        limits=(None, 500), threshold="queueBacklogThreshold", runbook="CommentQueueBacklog", stacked=True,
    ),
    Panel(
        "Duplicates, by where they were found", "In the same request, in Redis (cache) or in PostgreSQL (database).",
        ((rate("comment_duplicates_detected_total", by="tier"), "{{tier}}"),), "cps", stacked=True,
    ),
)  # fmt: skip

LATENCY = (
    Panel(
        "Batch, from arrival to commit", "Percentiles over all pods; the 95th should stay below the red line.",
        percentiles(BATCH), "s", limits=(2, 10), threshold="latencyThreshold",
        runbook="CommentProcessingHighLatency", width=12,
    ),
    Panel(
        "Analysis of a batch", "From a worker's start on the batch to its stored results. "
        "COMMENT_PROCESSING_TIMEOUT limits an analysis. No alert uses this panel.",
        percentiles("comment_analysis_duration_seconds_bucket"), "s", limits=(10, None),
        runbook="CommentAnalysisStalled", width=12,
    ),
)  # fmt: skip

THROUGHPUT = (
    Panel(
        "Batches", "Accepted and committed batches. Where the lines diverge, batches wait or fail.",
        (
            (rate("comment_processing_attempts_total"), "attempts"),
            (rate("comment_processing_success_total"), "successes"),
        ),
        "ops", width=6,
    ),
    Panel(
        "Errors", "Server errors and client errors per second. Depending on the reason, an error counts a comment, a "
        "request or a batch; Error Breakdown shows the reasons.",
        (
            (rate(ERRORS_TOTAL, f'reason!~"{SENDERS}"'), "server"),
            (rate(ERRORS_TOTAL, f'reason=~"{SENDERS}"'), "client"),
        ),
        "ops", runbook="CommentProcessingErrors", width=6,
    ),
    Panel(
        "Comments analysed", "By outcome: a comment that fails is retried, and finally marked failed.",
        ((rate("comment_analysis_total", by="outcome"), "{{outcome}}"),), "cps", width=6, stacked=True,
    ),
    Panel(
        "Requests over the rate limit", "Answered 429; their clients retry after Retry-After.",
        ((rate("comment_rate_limited_total"), "429"),), "reqps", runbook="CommentsRefused", width=6,
    ),
)  # fmt: skip

DATABASE = (
    Panel(
        "Query time, 95th percentile", "By statement, without those of the hourly invariant check (check_...), "
        "which read whole tables; each should stay below the red line.",
        ((quantile(0.95, f"{STATEMENT}_bucket", "query", f'{OURS},query!~"check_.+"'), "{{query}}"),),
        "s", limits=(0.5, 2), threshold="databaseLatencyThreshold", runbook="CommentDatabaseSlowQueries",
    ),
    Panel(
        "Operations", "Statements per second, by name.",
        ((rate(f"{STATEMENT}_count", by="query"), "{{query}}"),), "ops", stacked=True,
    ),
    Panel(
        "Database errors", "Operations that the database refused or did not finish in time, by reason.",
        ((rate(ERRORS_TOTAL, f'reason=~"{DATABASE_ERRORS}"', "reason"), "{{reason}}"),),
        "ops", runbook="CommentSchemaNotUsable",
    ),
)  # fmt: skip

RESOURCES = (
    Panel(
        "CPU, share of the limit", "By pod. Without a limit, the machine's processors are the limit.",
        (((f"rate(comment_container_cpu_usage_seconds_total{{{OURS}}}[$__rate_interval]) "
           f"/ comment_container_cpu_limit_cores{{{OURS}}}"), "{{job}} {{pod}}"),),
        "percentunit", limits=(0.8, 0.9), threshold="resourceThreshold", runbook="CommentMonitoringHighCPU", width=6,
        most=1,
    ),
    Panel(
        "Memory, share of the limit", "Memory that can't be reclaimed, by pod; a container is killed at its limit.",
        ((f"comment_container_memory_working_set_bytes{{{OURS}}} / comment_container_memory_limit_bytes{{{OURS}}}",
          "{{job}} {{pod}}"),),
        "percentunit", limits=(0.8, 0.9), threshold="resourceThreshold", runbook="CommentMonitoringHighMemory", width=6,
        most=1,
    ),
    Panel(
        "Memory of the main process", "Resident memory, including shared pages, without a worker's pool processes.",
        ((f'process_resident_memory_bytes{{{OURS},job=~"{JOBS}"}}', "{{job}} {{pod}}"),),
        "bytes", width=6,
    ),
    Panel(
        "Pods that answer", "Pods whose metrics Prometheus could scrape, by job.",
        ((f'sum by (job) (up{{{OURS},job=~"{JOBS}"}})', "{{job}}"),),
        runbook="CommentMonitoringAbsent", width=6, least=1,
    ),
)  # fmt: skip

CELERY = (
    Panel(
        "Queue length", "Messages ready for a worker, and messages with a worker; each names the batches of up to 250 "
        "comments. From RabbitMQ's detailed metrics and from the celery-exporter, which also supports Redis as broker.",
        (
            (f"sum by (namespace) (rabbitmq_detailed_queue_messages_ready{{{QUEUE}}})", "ready {{namespace}}"),
            (f"sum by (namespace) (rabbitmq_detailed_queue_messages_unacked{{{QUEUE}}})", "with workers {{namespace}}"),
            (f'sum by (namespace) (celery_queue_length{{{BROKER},queue_name="comment-analysis"}})',
             "ready, by celery-exporter {{namespace}}"),
        ),
        runbook="CommentAnalysisStalled",
    ),
    Panel(
        "Task rate", "Tasks that workers received, completed and failed; a task is one message or several. From the "
        "celery-exporter, which needs the workers' task events.",
        tuple((rate(f"celery_task_{state}_total", where=TASK), state) for state in ("received", "succeeded", "failed")),
        "ops", runbook="CommentAnalysisStalled",
    ),
    Panel(
        "Task runtime", "Percentiles over all workers, from the celery-exporter. No alert uses this panel.",
        percentiles("celery_task_runtime_bucket", TASK), "s", limits=(10, None), runbook="CommentAnalysisStalled",
    ),
    Panel(
        "Oldest waiting", "How long the oldest batch has waited for its analysis.",
        ((largest("comment_analysis_oldest_seconds"), "age"),),
        "s", limits=(300, 900), threshold="analysisAgeThreshold", runbook="CommentAnalysisStalled",
    ),
    Panel(
        "Batches sent again", "Batches resent per second, because no result came in time.",
        ((rate("comment_outbox_resent_total"), "sent again"),),
        "ops", limits=(None, 1), threshold="resendRateThreshold", runbook="CommentAnalysisSentAgain",
    ),
    Panel(
        "Workers that answer", "Worker pods whose metrics Prometheus could scrape.",
        ((f'sum(up{{{OURS},job="comment-worker"}})', "workers"),),
        kind="stat", runbook="CommentWorkerDown", least=1, none="none",
    ),
)  # fmt: skip

CACHE = (
    Panel(
        "Hit rate", "Share of the looked-up comments that Redis knew to be stored.",
        ((share(rate(HITS), rate(MISSES)), "hit rate"),), "percentunit", most=1,
    ),
    Panel(
        "Hits and misses", "Comments per second; PostgreSQL is queried for the misses.",
        ((rate(HITS), "hits"), (rate(MISSES), "misses")), "cps", stacked=True,
    ),
    Panel(
        "Redis errors", "Failed requests to Redis, for the cache and for the rate limit. Comments are accepted "
        "regardless.",
        ((rate(ERRORS_TOTAL, 'reason=~"cache|rate-limit-store"', "reason"), "{{reason}}"),),
        "ops", runbook="CommentProcessingErrors",
    ),
)  # fmt: skip

ERRORS = (
    Panel(
        "Server errors, by reason", "Server errors per second. Stacked: the upper edge is their sum, to which the "
        "limit applies.",
        ((rate(ERRORS_TOTAL, f'reason!~"{SENDERS}"', "reason"), "{{reason}}"),),
        "ops", limits=(None, 0.1), threshold="errorRateThreshold", runbook="CommentProcessingErrors", stacked=True,
    ),
    Panel(
        "Refused, by reason", "Comments and requests per second that are refused because of client errors, which the "
        "clients have to fix. The limit applies to their sum; it is yellow because its alert is only informational.",
        ((rate(ERRORS_TOTAL, f'reason=~"{SENDERS}"', "reason"), "{{reason}}"),),
        "ops", limits=(0.1, None), threshold="errorRateThreshold", runbook="CommentsRefused", stacked=True,
    ),
    Panel(
        "Errors in this time range", "The number of server and client errors of each reason, the most frequent first.",
        ((f"sort_desc(sum by (reason) (increase({ERRORS_TOTAL}{{{OURS}}}[$__range])) > 0)", "{{reason}}"),),
        "short", "bargauge", runbook="CommentProcessingErrors", none="no errors",
    ),
)  # fmt: skip

# Named as in the deployment guide.
GROUPS: dict[str, tuple[Panel, ...]] = {
    "Processing Overview": OVERVIEW,
    "Latency Metrics": LATENCY,
    "Throughput Analysis": THROUGHPUT,
    "Database Performance": DATABASE,
    "Resource Utilization": RESOURCES,
    "Celery Queue Metrics": CELERY,
    "Cache Performance": CACHE,
    "Error Breakdown": ERRORS,
}
