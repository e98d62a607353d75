"""The alert rules, run by promtool: each alert fires on its fault, and does not fire without it."""

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import NAMESPACE, get_object, slug, tool
from tests.conftest import project_root

from comment_monitor.observability import metrics

BUCKETS: Final = ("1", "5", "10", "15", "+Inf")
DAY: Final = 86_400
HOUR: Final = 3600


def pod(job: str, number: int) -> str:
    """The labels that Prometheus adds to the series of a pod."""
    return f'namespace="{NAMESPACE}",job="{job}",pod="{job}-{number}"'


POD: Final = pod("orchestrator", 1)
OTHER: Final = pod("orchestrator", 2)
WORKER: Final = pod("comment-worker", 1)


def slow(name: str, share: int, extra: str = "") -> dict[str, str]:
    """A histogram's buckets: of 100 observations a minute, `share` take between 10 and 15 seconds."""
    counts = {"1": 100 - share, "5": 100 - share, "10": 100 - share, "15": 100, "+Inf": 100}
    return {f'{name}_bucket{{{POD},le="{le}"{extra}}}': f"0+{counts[le]}x30" for le in BUCKETS}


def single_slow(name: str, extra: str, *minutes: int) -> dict[str, str]:
    """A histogram's buckets: only one observation of more than ten seconds at each of these minutes."""
    counts = [sum(minute >= slow_minute for slow_minute in minutes) for minute in range(31)]
    totals = " ".join(map(str, counts))
    return {f'{name}_bucket{{{POD},le="{le}"{extra}}}': "0x30" if le in {"1", "5", "10"} else totals for le in BUCKETS}


# Reasons of server errors. A new reason is added here, or to the reasons of senders in the rule.
SERVER_REASONS: Final = {
    "analysis", "broker", "cache", "database-unavailable", "disabled", "draining", "foreign-message", "internal",
    "overloaded", "queue-full", "rate-limit-store", "schema-behind", "timeout", "upkeep",
}  # fmt: skip
ERRORS: Final = ("CommentProcessingErrors", "CommentsRefused")


def errors(labels: str, reason: str) -> str:
    return f'comment_processing_errors_total{{{labels},reason="{reason}"}}'


# Alert: series on which it fires, and series on which it does not fire.
FAULTS: Final[dict[str, tuple[dict[str, str], dict[str, str]]]] = {
    "CommentProcessingHighLatency": (
        slow("comment_processing_duration_seconds", 10),
        slow("comment_processing_duration_seconds", 2),
    ),
    # 0.17 and 0.05 a second over two pods: no pod alone exceeds the threshold. Many more errors are the senders'.
    "CommentProcessingErrors": (
        {errors(labels, "timeout"): "0+5x30" for labels in (POD, OTHER)},
        {errors(POD, "timeout"): "0+3x30", errors(POD, "rate-limited"): "0+600x30"},
    ),
    # Five batches a minute: all fail, or two fail.
    "CommentBatchesFailing": (
        {f"comment_processing_attempts_total{{{POD}}}": "0+5x40",
         f"comment_processing_success_total{{{POD}}}": "3x40"},
        {f"comment_processing_attempts_total{{{POD}}}": "0+5x40",
         f"comment_processing_success_total{{{POD}}}": "0+3x40"},
    ),
    "CommentsRefused": (
        {errors(POD, "rate-limited"): "0+5x30", errors(OTHER, "not-json"): "0+5x30"},
        {errors(POD, "invalid-comment"): "0+3x30", errors(POD, "timeout"): "0+600x30"},
    ),
    "CommentQueueBacklog": (
        {f"comment_processing_queue_length{{{labels}}}": "600x30" for labels in (POD, OTHER)},
        {f"comment_processing_queue_length{{{POD}}}": "600x30"},
    ),
    "CommentDatabaseSlowQueries": (
        slow("comment_db_query_duration_seconds", 10, ',query="write_comments"'),
        slow("comment_db_query_duration_seconds", 2, ',query="write_comments"'),
    ),
    "CommentMonitoringHighMemory": (
        {f"comment_container_memory_working_set_bytes{{{POD}}}": "95x30",
         f"comment_container_memory_limit_bytes{{{POD}}}": "100x30"},
        {f"comment_container_memory_working_set_bytes{{{POD}}}": "80x30",
         f"comment_container_memory_limit_bytes{{{POD}}}": "100x30"},
    ),
    "CommentMonitoringHighCPU": (
        {f"comment_container_cpu_usage_seconds_total{{{POD}}}": "0+57x30",
         f"comment_container_cpu_limit_cores{{{POD}}}": "1x30"},
        {f"comment_container_cpu_usage_seconds_total{{{POD}}}": "0+30x30",
         f"comment_container_cpu_limit_cores{{{POD}}}": "1x30"},
    ),
    # The alert uses the maximum of the pods, not their sum.
    "CommentAnalysisStalled": (
        {f"comment_analysis_oldest_seconds{{{POD}}}": "0x30",
         f"comment_analysis_oldest_seconds{{{OTHER}}}": "1000x30"},
        {f"comment_analysis_oldest_seconds{{{labels}}}": "600x30" for labels in (POD, OTHER)},
    ),
    "CommentAnalysisSentAgain": (
        {f"comment_outbox_resent_total{{{labels}}}": "0+40x60" for labels in (POD, OTHER)},
        {f"comment_outbox_resent_total{{{POD}}}": "0+40x60"},
    ),
    "CommentSchemaNotUsable": (
        {f"comment_schema_usable{{{labels}}}": value for labels, value in ((POD, "1x30"), (OTHER, "0x30"))},
        # A worker exports 0 until it has checked the schema.
        {f"comment_schema_usable{{{labels}}}": "1x30" for labels in (POD, OTHER)}
        | {f"comment_schema_usable{{{WORKER}}}": "0x30"},
    ),
    # One pod or all pods; if the database is not usable at all, only the alert of higher severity fires.
    "CommentServiceDegraded": (
        {f'comment_health_check{{{POD},check="broker"}}': "1x30",
         f'comment_health_check{{{OTHER},check="broker"}}': "0x30"}
        | {f"comment_schema_usable{{{labels}}}": "1x30" for labels in (POD, OTHER)},
        {f'comment_health_check{{{labels},check="database"}}': "0x30" for labels in (POD, OTHER)}
        | {f"comment_schema_usable{{{labels}}}": "0x30" for labels in (POD, OTHER)},
    ),
    # If the database is not usable at all, only the alert of higher severity fires.
    "CommentMigrationNotAtHead": (
        {f"comment_schema_at_head{{{labels}}}": value for labels, value in ((POD, "1x30"), (OTHER, "0x30"))}
        | {f"comment_schema_usable{{{labels}}}": "1x30" for labels in (POD, OTHER)},
        {f"comment_schema_{name}{{{labels}}}": "0x30" for name in ("at_head", "usable") for labels in (POD, OTHER)},
    ),
    "CommentCleanupNotDone": (
        {f"comment_recent_index_age_seconds{{{POD}}}": f"{17 * DAY}+60x120"},
        {f"comment_recent_index_age_seconds{{{POD}}}": f"{14 * DAY}+60x120"},
    ),
    "CommentInvariantBroken": (
        {f'comment_invariant_violations{{{POD},invariant="analysed"}}': "2x30",
         f'comment_invariant_violations{{{OTHER},invariant="analysed"}}': "0x30"},
        {f'comment_invariant_violations{{{POD},invariant="{name}"}}': "0x30" for name in ("analysed", "versions")},
    ),
    # One check serves all pods: the latest timestamp of any pod counts.
    "CommentInvariantCheckOverdue": (
        {f"comment_invariant_check_timestamp_seconds{{{labels}}}": f"{-3 * HOUR}x60" for labels in (POD, OTHER)}
        | {f"comment_invariant_check_interval_seconds{{{POD}}}": f"{HOUR}x60"},
        {f"comment_invariant_check_timestamp_seconds{{{POD}}}": f"{-9 * HOUR}x60",
         f"comment_invariant_check_timestamp_seconds{{{OTHER}}}": f"{-2 * HOUR}x60",
         f"comment_invariant_check_interval_seconds{{{POD}}}": f"{HOUR}x60"},
    ),
    "CommentWorkerDown": (
        {f"up{{{WORKER}}}": "0x30", f"up{{{POD}}}": "1x30"},
        {f"up{{{WORKER}}}": "0x30", f"up{{{pod('comment-worker', 2)}}}": "1x30"},
    ),
    "CommentMonitoringAbsent": (
        # A worker exports this series too, but does not show that the orchestrator runs.
        {f"up{{{POD}}}": "0x30", f"comment_processing_queue_length{{{WORKER}}}": "0x30"},
        {f"comment_processing_queue_length{{{POD}}}": "0x30"},
    ),
}  # fmt: skip
# Minutes until the alert fires, if it is not 25.
FIRES_AFTER: Final = {"CommentAnalysisSentAgain": 45, "CommentCleanupNotDone": 90}


def rules() -> dict[str, Any]:
    """The rules that the operator passes to Prometheus."""
    groups: dict[str, Any] = get_object("prod-monitored", "PrometheusRule", "orchestrator")["spec"]
    return groups


def names() -> list[str]:
    return [rule["alert"] for group in rules()["groups"] for rule in group["rules"]]


def promtool(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([tool("promtool"), *words], capture_output=True, text=True, check=False)


@pytest.fixture
def rule_file(tmp_path: Path) -> Path:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rules()))
    return file


def test_prometheus_accepts_the_rules_without_lint_warnings(rule_file: Path) -> None:
    result = promtool("check", "rules", "--lint=all", "--lint-fatal", str(rule_file))
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_a_test() -> None:
    assert sorted(names()) == sorted(FAULTS)


def expect(rule_file: Path, series: dict[str, str], *tests: dict[str, Any]) -> None:
    """Runs the rules over these series, which have one sample a minute."""
    inputs = [{"series": selector, "values": values} for selector, values in series.items()]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": list(tests)}
    file = rule_file.parent / "rules.test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [rule_file.name], "evaluation_interval": "1m", "tests": [test]}))
    result = promtool("test", "rules", str(file))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("alert", FAULTS)
@pytest.mark.parametrize("fires", [True, False])
def test_an_alert_fires_only_on_its_fault(rule_file: Path, alert: str, fires: bool) -> None:
    series = FAULTS[alert][0 if fires else 1]
    # The same fault in another namespace must not count.
    elsewhere = {selector.replace(f'namespace="{NAMESPACE}"', 'namespace="elsewhere"'): values
                 for selector, values in FAULTS[alert][0].items()}  # fmt: skip
    # The namespace label routes the alert, and separates it from the same alert of another release.
    own = f'alertname="{alert}",alertstate="firing",namespace="{NAMESPACE}"'
    expect(
        rule_file,
        {**series, **elsewhere},
        {
            "expr": f"count(ALERTS{{{own}}})",
            "eval_time": f"{FIRES_AFTER.get(alert, 25)}m",
            "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
        },
    )


def healthy(labels: str, shape: str) -> dict[str, str]:
    """The series of a pod without traffic; the shape is that of a series, such as `{}x30`."""
    gauges = {
        "comment_processing_queue_length": 0, "comment_analysis_backlog": 0, "comment_analysis_oldest_seconds": 0,
        "comment_schema_usable": 0 if "comment-worker" in labels else 1,
        "comment_schema_at_head": 0 if "comment-worker" in labels else 1, "comment_recent_index_age_seconds": 7 * DAY,
        "comment_outbox_resent_total": 0, "comment_container_memory_working_set_bytes": 10,
        "comment_container_memory_limit_bytes": 100, "comment_container_cpu_usage_seconds_total": 3,
        "comment_container_cpu_limit_cores": 1, "up": 1, "comment_invariant_check_timestamp_seconds": 0,
        "comment_invariant_check_interval_seconds": HOUR,
    }  # fmt: skip
    series = {f"{name}{{{labels}}}": shape.format(value) for name, value in gauges.items()}
    series |= {errors(labels, reason): shape.format(0) for reason in metrics.ERROR_REASONS}
    for le in BUCKETS:
        series[f'comment_processing_duration_seconds_bucket{{{labels},le="{le}"}}'] = shape.format(0)
        series[f'comment_db_query_duration_seconds_bucket{{{labels},query="load",le="{le}"}}'] = shape.format(0)
    return series


def all_pods(shape: str, *numbers: int) -> dict[str, str]:
    """The series of API and worker pods with these numbers."""
    return {name: values for job in ("orchestrator", "comment-worker") for number in numbers
            for name, values in healthy(pod(job, number), shape).items()}  # fmt: skip


HEALTHY: Final[dict[str, dict[str, str]]] = {
    "no-traffic": all_pods("{}x40", 1, 2),
    # The images are pulled, and the pods wait for the migration.
    "fresh-installation": {
        **all_pods("_x3 {}x40", 1),
        f"comment_schema_usable{{{POD}}}": "_x3 0x3 1x40",
        f"comment_schema_at_head{{{POD}}}": "_x3 0x3 1x40",
    },
    # The new pods start before their migration is done, which takes ten minutes.
    "long-migration": {
        **all_pods("{}x40", 1, 2),
        f"comment_schema_at_head{{{POD}}}": "1x5 0x10 1x25",
    },
    "rolling-update": {**all_pods("{}x12 stale", 1, 2), **all_pods("_x10 {}x30", 3, 4)},
    "no-pods-for-four-minutes": {**all_pods("{}x10 stale", 1), **all_pods("_x14 {}x30", 2)},
    "single-slow-batch-and-statement": {
        **all_pods("{}x40", 1),
        **single_slow("comment_processing_duration_seconds", "", 10),
        **single_slow("comment_db_query_duration_seconds", ',query="write_comments"', 10),
    },
    # Each pod checks the invariants at its own time of the hour.
    "hourly-invariant-check": {
        **all_pods("{}x40", 1),
        **single_slow("comment_db_query_duration_seconds", ',query="check_versions"', *range(5, 30, 3)),
    },
    "refused-sender": {
        **all_pods("{}x40", 1),
        errors(POD, "rate-limited"): "0x5 0+60x10 600x25",
    },
    "burst": {
        **all_pods("{}x40", 1, 2),
        f"comment_processing_queue_length{{{POD}}}": "0x10 9000x4 0x25",
        f"comment_analysis_oldest_seconds{{{POD}}}": "0x10 0+60x12 0x18",
        f"comment_container_cpu_usage_seconds_total{{{WORKER}}}": "0x10 60+60x8 540x20",
    },
}


@pytest.mark.parametrize("scene", HEALTHY)
def test_no_alert_fires_in_a_healthy_deployment(rule_file: Path, scene: str) -> None:
    silence = [{"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{minute}m"} for minute in range(31)]
    expect(rule_file, HEALTHY[scene], *silence)


def sender_reasons() -> set[str]:
    """The reasons of refused requests, as the rules list them."""
    text = "".join(rule["expr"] for group in rules()["groups"] for rule in group["rules"])
    found = set(re.findall(r'reason(!~|=~)"([^"]+)"', text))
    assert {operator for operator, _ in found} == {"!~", "=~"}
    (listed,) = {names for _, names in found}
    return set(listed.split("|"))


def test_every_reason_is_a_server_error_or_a_refusal() -> None:
    assert not sender_reasons() & SERVER_REASONS
    assert sender_reasons() | SERVER_REASONS == set(metrics.ERROR_REASONS)
    for alert, reasons in zip(ERRORS, (SERVER_REASONS, sender_reasons()), strict=True):
        page = (project_root() / "docs" / "runbooks" / f"{alert}.md").read_text()
        assert reasons <= set(re.findall(r"`([a-z-]+)`", page)), alert


@pytest.mark.parametrize("reason", metrics.ERROR_REASONS)
def test_a_reason_fires_only_the_alert_of_its_group(rule_file: Path, reason: str) -> None:
    alert = ERRORS[reason not in SERVER_REASONS]
    firing = {"labels": f'{{alertname="{alert}"}}', "value": 1}
    expr = 'count by (alertname) (ALERTS{alertname=~"CommentProcessingErrors|CommentsRefused",alertstate="firing"})'
    expect(rule_file, {errors(POD, reason): "0+60x30"}, {"expr": expr, "eval_time": "25m", "exp_samples": [firing]})


def test_repeated_slow_statements_fire_the_alert(rule_file: Path) -> None:
    """As often as the invariant checks above, but of a statement that must be fast."""
    series = single_slow("comment_db_query_duration_seconds", ',query="write_comments"', *range(5, 30, 3))
    firing = {"expr": 'count(ALERTS{alertname="CommentDatabaseSlowQueries",alertstate="firing"})', "eval_time": "20m"}
    expect(rule_file, series, {**firing, "exp_samples": [{"labels": "{}", "value": 1}]})


@pytest.mark.parametrize(
    ("alert", "threshold"),
    [
        ("CommentProcessingHighLatency", "> 10"),
        ("CommentProcessingErrors", "> 0.1"),
        ("CommentQueueBacklog", "> 1000"),
        ("CommentDatabaseSlowQueries", "> 2"),
    ],
    ids=slug,
)
def test_the_thresholds_match_the_guide(alert: str, threshold: str) -> None:
    (rule,) = [rule for group in rules()["groups"] for rule in group["rules"] if rule["alert"] == alert]
    assert rule["expr"].endswith(threshold)
    assert set(rule["annotations"]) >= {"summary", "description"}
    assert rule["labels"]["severity"] in {"warning", "critical"}
