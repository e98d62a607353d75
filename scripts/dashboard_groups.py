"""What the Grafana dashboard shows: the deployment guide's eight groups and their panels."""  # noqa: INP001 - a script's

from typing import NamedTuple

# A machine without Kubernetes has no namespace and no pod: `.*` matches a label that is not there, too.
OURS = 'namespace=~"$namespace",pod=~"$pod"'
WHOLE = 'namespace=~"$namespace"'
# The broker may stand elsewhere, or serve others as well.
BROKER = 'namespace=~"$broker"'
QUEUE = f'{BROKER},queue="comment-analysis"'
# The celery-exporter knows a task's queue only where it was told of the sending, its name always.
TASK = f'{BROKER},name="comment_monitor.analyse"'
# Named after their Services; an orchestrator that the outside reaches has one of its own for metrics.
JOBS = "orchestrator(-metrics)?|comment-worker"
BATCH = "comment_processing_duration_seconds_bucket"
STATEMENT = "comment_db_query_duration_seconds"
# Reasons that are the senders', as the alerts have them (chart/templates/prometheusrule.yaml).
SENDERS = (
    "all-rejected|bad-http|body-too-slow|conflict|invalid-comment|invalid-request|not-json|not-storable"
    "|rate-limited|too-large|unsupported-encoding"
)
ERRORS_TOTAL = "comment_processing_errors_total"
DATABASE_ERRORS = "database-unavailable|schema-behind|timeout|not-storable"
HITS, MISSES = "comment_dedup_cache_hits_total", "comment_dedup_cache_misses_total"


class Panel(NamedTuple):
    """One picture.

    `targets`: expression and legend. `limits`: values from which it is yellow, and red; `least`: below it is red.
    `threshold`: the chart's value, among its alerts', of which the last of `limits` is the default: there an alert
    begins. `runbook`: its page, or pages. `words`: what is shown for 0 and for 1. `none`: what is shown where there
    is nothing to show.
    """

    title: str
    tells: str
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
    """A counter's rise a second, over all pods."""
    labels = f"{where},{more}" if more else where
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{labels}}}[$__rate_interval]))"


def quantile(share: float, buckets: str, by: str = "", where: str = OURS) -> str:
    """A percentile over all pods."""
    of = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({of}) (rate({buckets}{{{where}}}[$__rate_interval])))"


def percentiles(buckets: str, where: str = OURS) -> tuple[tuple[str, str], ...]:
    """The 50th, the 95th and the 99th."""
    return tuple((quantile(share, buckets, where=where), f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99))


def share(part: str, *others: str) -> str:
    """A part of a sum of which it is one; nothing where there was nothing."""
    return f"{part} / (({' + '.join((part, *others))}) > 0)"


def largest(metric: str) -> str:
    """A gauge that every pod tells of the system as a whole."""
    return f"max({metric}{{{WHOLE}}})"


OVERVIEW = (
    Panel(
        "Comments stored", "New and edited comments committed a second.",
        ((rate("comment_stored_total"), "stored"),), "cps", "stat", width=4,
    ),
    Panel(
        "Failed batches", "Share of the accepted batches that was not committed; the target is below 1 %, and red is "
        "from a half on, as its alert. While a burst is taken in, what waits in the queue counts as well.",
        (((f"clamp_min(1 - {rate('comment_processing_success_total')} / "
           f"({rate('comment_processing_attempts_total')} > 0), 0)"), "failed"),),
        "percentunit", "stat", (0.01, 0.5), runbook="CommentBatchesFailing", width=4, none="no batches",
    ),
    Panel(
        "Queue length", "Comments accepted and not yet committed, in all pods together.",
        ((f"sum(comment_processing_queue_length{{{OURS}}})", "comments"),),
        "short", "stat", (250, 500), "queueBacklogThreshold", "CommentQueueBacklog", 4,
    ),
    Panel(
        "Duplicates", "Share of the comments taken in that were stored already.",
        ((share(rate("comment_duplicates_detected_total"), rate("comment_stored_total")), "duplicates"),),
        "percentunit", "stat", width=4, none="no comments",
    ),
    Panel(
        "Waiting for analysis", "Comments stored and not yet analysed, in the whole system. No alert goes by "
        "their number, but one by the age of the oldest.",
        ((largest("comment_analysis_backlog"), "comments"),),
        "short", "stat", (10_000, None), runbook="CommentAnalysisStalled", width=4,
    ),
    Panel(
        "Oldest waiting", "How long the batch has waited for its analysis that has waited longest; 0: none waits.",
        ((largest("comment_analysis_oldest_seconds"), "age"),),
        "s", "stat", (300, 900), "analysisAgeThreshold", "CommentAnalysisStalled", 4,
    ),
    Panel(
        "Database usable", "Whether every orchestrator finds the database there and migrated far enough for it.",
        ((f'min(comment_schema_usable{{{OURS},job!="comment-worker"}})', "usable"),),
        "short", "stat", runbook="CommentSchemaNotUsable CommentServiceDegraded", width=5, least=1, words=("no", "yes"),
    ),
    Panel(
        "Migrated", "Whether no orchestrator misses a migration of its release; it may work without.",
        ((f'min(comment_schema_at_head{{{OURS},job!="comment-worker"}})', "migrated"),),
        "short", "stat", runbook="CommentMigrationNotAtHead", width=4, least=1, words=("no", "yes"),
    ),
    Panel(
        "Violated invariants", "Violations of the data's promises, as last looked at (every COMMENT_CHECK_INTERVAL).",
        ((f"sum(max by (invariant) (comment_invariant_violations{{{WHOLE}}}))", "violations"),),
        "short", "stat", (None, 1), width=5, none="not looked at yet",
        runbook="CommentInvariantBroken CommentInvariantCheckOverdue",
    ),
    Panel(
        "Age of the recent index", "How far back the index of recent comments begins: 7 days after a cleanup, "
        "14 before the next weekly one.",
        ((largest("comment_recent_index_age_seconds"), "age"),),
        "s", "stat", (1_296_000, 1_382_400), "cleanupAgeThreshold", "CommentCleanupNotDone", 5,
    ),
    Panel(
        "Rate limited", "Requests a second that were answered 429.",
        ((rate("comment_rate_limited_total"), "429"),), "reqps", "stat", runbook="CommentsRefused", width=5,
    ),
    Panel(
        "Comments stored, by kind", "New comments, and edits of known ones.",
        ((rate("comment_stored_total", by="kind"), "{{kind}}"),), "cps", stacked=True,
    ),
    Panel(
        "Queue length, by pod", "What each pod has accepted and not yet committed; an autoscaler goes by it. "
        "Stacked: the upper edge is the sum, and the limit is the sum's.",
        ((f"sum by (job, pod) (comment_processing_queue_length{{{OURS}}})", "{{job}} {{pod}}"),),
        limits=(None, 500), threshold="queueBacklogThreshold", runbook="CommentQueueBacklog", stacked=True,
    ),
    Panel(
        "Duplicates, by where they were found", "In the same request, in Redis (cache), in PostgreSQL (database).",
        ((rate("comment_duplicates_detected_total", by="tier"), "{{tier}}"),), "cps", stacked=True,
    ),
)  # fmt: skip

LATENCY = (
    Panel(
        "Batch, from arrival to commit", "Percentiles over all pods; the 95th is to stay below the red line.",
        percentiles(BATCH), "s", limits=(2, 10), threshold="latencyThreshold",
        runbook="CommentProcessingHighLatency", width=12,
    ),
    Panel(
        "Analysis of a batch", "From a worker's start on it to its stored results. After "
        "COMMENT_PROCESSING_TIMEOUT an analysis is cut short. No alert goes by it.",
        percentiles("comment_analysis_duration_seconds_bucket"), "s", limits=(10, None),
        runbook="CommentAnalysisStalled", width=12,
    ),
)  # fmt: skip

THROUGHPUT = (
    Panel(
        "Batches", "Accepted, and committed. Where the lines part, batches wait or fail.",
        (
            (rate("comment_processing_attempts_total"), "attempts"),
            (rate("comment_processing_success_total"), "successes"),
        ),
        "ops", width=6,
    ),
    Panel(
        "Errors", "A second: of ours, and of senders. They are of comments, requests or batches, as the reason goes; "
        "Error Breakdown has the reasons.",
        (
            (rate(ERRORS_TOTAL, f'reason!~"{SENDERS}"'), "ours"),
            (rate(ERRORS_TOTAL, f'reason=~"{SENDERS}"'), "senders'"),
        ),
        "ops", runbook="CommentProcessingErrors", width=6,
    ),
    Panel(
        "Comments analysed", "By outcome: what fails is tried again (retried), and marked failed in the end.",
        ((rate("comment_analysis_total", by="outcome"), "{{outcome}}"),), "cps", width=6, stacked=True,
    ),
    Panel(
        "Requests over the rate limit", "Answered 429; their senders come again after Retry-After.",
        ((rate("comment_rate_limited_total"), "429"),), "reqps", runbook="CommentsRefused", width=6,
    ),
)  # fmt: skip

DATABASE = (
    Panel(
        "Query time, 95th percentile", "By statement, without those of the hourly look at the data (check_...), "
        "which read whole tables; each is to stay below the red line.",
        ((quantile(0.95, f"{STATEMENT}_bucket", "query", f'{OURS},query!~"check_.+"'), "{{query}}"),),
        "s", limits=(0.5, 2), threshold="databaseLatencyThreshold", runbook="CommentDatabaseSlowQueries",
    ),
    Panel(
        "Operations", "Statements a second, by name.",
        ((rate(f"{STATEMENT}_count", by="query"), "{{query}}"),), "ops", stacked=True,
    ),
    Panel(
        "Database errors", "What the database did not take or not in time, by reason.",
        ((rate(ERRORS_TOTAL, f'reason=~"{DATABASE_ERRORS}"', "reason"), "{{reason}}"),),
        "ops", runbook="CommentSchemaNotUsable",
    ),
)  # fmt: skip

RESOURCES = (
    Panel(
        "CPU, share of the limit", "By pod. A container without a limit has the machine's.",
        (((f"rate(comment_container_cpu_usage_seconds_total{{{OURS}}}[$__rate_interval]) "
           f"/ comment_container_cpu_limit_cores{{{OURS}}}"), "{{job}} {{pod}}"),),
        "percentunit", limits=(0.8, 0.9), threshold="resourceThreshold", runbook="CommentMonitoringHighCPU", width=6,
        most=1,
    ),
    Panel(
        "Memory, share of the limit", "What can't be taken back, by pod; at the limit a container is killed.",
        ((f"comment_container_memory_working_set_bytes{{{OURS}}} / comment_container_memory_limit_bytes{{{OURS}}}",
          "{{job}} {{pod}}"),),
        "percentunit", limits=(0.8, 0.9), threshold="resourceThreshold", runbook="CommentMonitoringHighMemory", width=6,
        most=1,
    ),
    Panel(
        "Memory of the main process", "Resident, with what it shares; a worker's pool is not in it.",
        ((f'process_resident_memory_bytes{{{OURS},job=~"{JOBS}"}}', "{{job}} {{pod}}"),),
        "bytes", width=6,
    ),
    Panel(
        "Pods that answer", "Pods whose metrics Prometheus could read, by job.",
        ((f'sum by (job) (up{{{OURS},job=~"{JOBS}"}})', "{{job}}"),),
        runbook="CommentMonitoringAbsent", width=6, least=1,
    ),
)  # fmt: skip

CELERY = (
    Panel(
        "Queue length", "Messages ready for a worker, and with one; each names the batches of up to 250 comments. From "
        "RabbitMQ's detailed metrics, and from the celery-exporter, which knows Redis as a broker too.",
        (
            (f"sum by (namespace) (rabbitmq_detailed_queue_messages_ready{{{QUEUE}}})", "ready {{namespace}}"),
            (f"sum by (namespace) (rabbitmq_detailed_queue_messages_unacked{{{QUEUE}}})", "with workers {{namespace}}"),
            (f'sum by (namespace) (celery_queue_length{{{BROKER},queue_name="comment-analysis"}})',
             "ready, by celery-exporter {{namespace}}"),
        ),
        runbook="CommentAnalysisStalled",
    ),
    Panel(
        "Task rate", "Tasks that workers received, ended and failed at; a task is one message or several. From the "
        "celery-exporter, which needs the workers' task events.",
        tuple((rate(f"celery_task_{state}_total", where=TASK), state) for state in ("received", "succeeded", "failed")),
        "ops", runbook="CommentAnalysisStalled",
    ),
    Panel(
        "Task runtime", "Percentiles over all workers, from the celery-exporter. No alert goes by it.",
        percentiles("celery_task_runtime_bucket", TASK), "s", limits=(10, None), runbook="CommentAnalysisStalled",
    ),
    Panel(
        "Oldest waiting", "How long the batch has waited for its analysis that has waited longest.",
        ((largest("comment_analysis_oldest_seconds"), "age"),),
        "s", limits=(300, 900), threshold="analysisAgeThreshold", runbook="CommentAnalysisStalled",
    ),
    Panel(
        "Batches sent again", "Batches a second of which no result came in time.",
        ((rate("comment_outbox_resent_total"), "sent again"),),
        "ops", limits=(None, 1), threshold="resendRateThreshold", runbook="CommentAnalysisSentAgain",
    ),
    Panel(
        "Workers that answer", "Worker pods whose metrics Prometheus could read.",
        ((f'sum(up{{{OURS},job="comment-worker"}})', "workers"),),
        kind="stat", runbook="CommentWorkerDown", least=1, none="none",
    ),
)  # fmt: skip

CACHE = (
    Panel(
        "Hit rate", "Share of the comments that Redis was asked about and knew to be stored.",
        ((share(rate(HITS), rate(MISSES)), "hit rate"),), "percentunit", most=1,
    ),
    Panel(
        "Hits and misses", "Comments a second; of those that Redis does not know PostgreSQL is asked.",
        ((rate(HITS), "hits"), (rate(MISSES), "misses")), "cps", stacked=True,
    ),
    Panel(
        "Redis errors", "Requests to Redis that failed: for the cache, and for the rate limit. Comments are taken "
        "all the same.",
        ((rate(ERRORS_TOTAL, 'reason=~"cache|rate-limit-store"', "reason"), "{{reason}}"),),
        "ops", runbook="CommentProcessingErrors",
    ),
)  # fmt: skip

ERRORS = (
    Panel(
        "Errors of ours, by reason", "A second: what this side answers for. Stacked: the upper edge is their sum, "
        "which has the limit.",
        ((rate(ERRORS_TOTAL, f'reason!~"{SENDERS}"', "reason"), "{{reason}}"),),
        "ops", limits=(None, 0.1), threshold="errorRateThreshold", runbook="CommentProcessingErrors", stacked=True,
    ),
    Panel(
        "Refused, by reason", "Comments and requests a second that are refused for what they are, and told so: the "
        "senders' to put right. Their sum has the limit, yellow because its alert is no more than a notice.",
        ((rate(ERRORS_TOTAL, f'reason=~"{SENDERS}"', "reason"), "{{reason}}"),),
        "ops", limits=(0.1, None), threshold="errorRateThreshold", runbook="CommentsRefused", stacked=True,
    ),
    Panel(
        "Errors in this time range", "How many of each reason, of both kinds, the most frequent first.",
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
