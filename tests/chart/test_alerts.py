"""The alert rules, run by Prometheus itself: each fires on its trouble, and is silent without."""

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import NAMESPACE, the, tool
from tests.conftest import project_root

from comment_monitor.observability import metrics

BUCKETS: Final = ("1", "5", "10", "15", "+Inf")
DAY: Final = 86_400
HOUR: Final = 3600


def pod(job: str, number: int) -> str:
    """A pod's labels, as Prometheus gives them."""
    return f'namespace="{NAMESPACE}",job="{job}",pod="{job}-{number}"'


POD: Final = pod("orchestrator", 1)
OTHER: Final = pod("orchestrator", 2)
WORKER: Final = pod("comment-worker", 1)


def slow(name: str, share: int, extra: str = "") -> dict[str, str]:
    """A histogram's buckets: of 100 observations a minute so many take between 10 and 15 seconds."""
    counts = {"1": 100 - share, "5": 100 - share, "10": 100 - share, "15": 100, "+Inf": 100}
    return {f'{name}_bucket{{{POD},le="{le}"{extra}}}': f"0+{counts[le]}x30" for le in BUCKETS}


def slow_once(name: str, extra: str, *minutes: int) -> dict[str, str]:
    """A histogram's buckets: nothing but one observation of more than ten seconds at each of these minutes."""
    counts = [sum(minute >= one for one in minutes) for minute in range(31)]
    slowly = " ".join(map(str, counts))
    return {f'{name}_bucket{{{POD},le="{le}"{extra}}}': "0x30" if le in {"1", "5", "10"} else slowly for le in BUCKETS}


# Reasons that this side answers for. A new one has to be put here, or among the senders' in the rule.
OF_OURS: Final = {
    "analysis", "broker", "cache", "database-unavailable", "disabled", "draining", "foreign-message", "internal",
    "overloaded", "queue-full", "rate-limit-store", "schema-behind", "timeout", "upkeep",
}  # fmt: skip
ERRORS: Final = ("CommentProcessingErrors", "CommentsRefused")


def errors(labels: str, reason: str) -> str:
    return f'comment_processing_errors_total{{{labels},reason="{reason}"}}'


# Alert: series on which it fires, and series on which it does not.
TROUBLE: Final[dict[str, tuple[dict[str, str], dict[str, str]]]] = {
    "CommentProcessingHighLatency": (
        slow("comment_processing_duration_seconds", 10),
        slow("comment_processing_duration_seconds", 2),
    ),
    # 0.17 and 0.05 a second, over two pods: neither alone is above the threshold. Many more are of the other kind.
    "CommentProcessingErrors": (
        {errors(one, "timeout"): "0+5x30" for one in (POD, OTHER)},
        {errors(POD, "timeout"): "0+3x30", errors(POD, "rate-limited"): "0+600x30"},
    ),
    # Five batches a minute: all of them fail, or two.
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
        {f"comment_processing_queue_length{{{one}}}": "600x30" for one in (POD, OTHER)},
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
    # The largest of what the pods tell, not their sum.
    "CommentAnalysisStalled": (
        {f"comment_analysis_oldest_seconds{{{one}}}": value for one, value in ((POD, "0x30"), (OTHER, "1000x30"))},
        {f"comment_analysis_oldest_seconds{{{one}}}": "600x30" for one in (POD, OTHER)},
    ),
    "CommentAnalysisSentAgain": (
        {f"comment_outbox_resent_total{{{one}}}": "0+40x60" for one in (POD, OTHER)},
        {f"comment_outbox_resent_total{{{POD}}}": "0+40x60"},
    ),
    "CommentSchemaNotUsable": (
        {f"comment_schema_usable{{{one}}}": value for one, value in ((POD, "1x30"), (OTHER, "0x30"))},
        # A worker that has not looked says no.
        {f"comment_schema_usable{{{one}}}": value for one, value in ((POD, "1x30"), (OTHER, "1x30"), (WORKER, "0x30"))},
    ),
    # Of one pod, or of all; and where the database can't be used at all, the graver alert says it.
    "CommentServiceDegraded": (
        {f'comment_health_check{{{one},check="broker"}}': value for one, value in ((POD, "1x30"), (OTHER, "0x30"))}
        | {f"comment_schema_usable{{{one}}}": "1x30" for one in (POD, OTHER)},
        {f'comment_health_check{{{one},check="database"}}': "0x30" for one in (POD, OTHER)}
        | {f"comment_schema_usable{{{one}}}": "0x30" for one in (POD, OTHER)},
    ),
    # Where the database can't be used at all, the graver alert says it.
    "CommentMigrationNotAtHead": (
        {f"comment_schema_at_head{{{one}}}": value for one, value in ((POD, "1x30"), (OTHER, "0x30"))}
        | {f"comment_schema_usable{{{one}}}": "1x30" for one in (POD, OTHER)},
        {f"comment_schema_{name}{{{one}}}": "0x30" for name in ("at_head", "usable") for one in (POD, OTHER)},
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
    # Once for all pods: the latest that any of them tells counts.
    "CommentInvariantCheckOverdue": (
        {f"comment_invariant_check_timestamp_seconds{{{one}}}": f"{-3 * HOUR}x60" for one in (POD, OTHER)}
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
        # A worker has that series too, and does not speak for the orchestrator.
        {f"up{{{POD}}}": "0x30", f"comment_processing_queue_length{{{WORKER}}}": "0x30"},
        {f"comment_processing_queue_length{{{POD}}}": "0x30"},
    ),
}  # fmt: skip
# Minutes after which an alert has fired for as long as it has to.
PATIENCE: Final = {"CommentAnalysisSentAgain": 45, "CommentCleanupNotDone": 90}


def rules() -> dict[str, Any]:
    """As the operator gives them to Prometheus."""
    groups: dict[str, Any] = the("prod-monitored", "PrometheusRule", "orchestrator")["spec"]
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


def test_prometheus_takes_them_and_finds_nothing_to_say(rule_file: Path) -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", str(rule_file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_its_trouble_here() -> None:
    assert sorted(names()) == sorted(TROUBLE)


def expect(rule_file: Path, series: dict[str, str], *tests: dict[str, Any]) -> None:
    """Has Prometheus run the rules over these series, a minute between two samples."""
    inputs = [{"series": one, "values": values} for one, values in series.items()]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": list(tests)}
    file = rule_file.parent / "rules.test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [rule_file.name], "evaluation_interval": "1m", "tests": [test]}))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", TROUBLE)
@pytest.mark.parametrize("fires", [True, False])
def test_an_alert_fires_on_its_trouble_and_only_then(rule_file: Path, alert: str, fires: bool) -> None:
    series = TROUBLE[alert][0 if fires else 1]
    # Of a namespace that is none of ours, all the worse: it does not count.
    elsewhere = {one.replace(f'namespace="{NAMESPACE}"', 'namespace="elsewhere"'): values
                 for one, values in TROUBLE[alert][0].items()}  # fmt: skip
    # Whose it is stands in its labels: by them it is routed, and told from the same alert of another release.
    mine = f'alertname="{alert}",alertstate="firing",namespace="{NAMESPACE}"'
    expect(
        rule_file,
        {**series, **elsewhere},
        {
            "expr": f"count(ALERTS{{{mine}}})",
            "eval_time": f"{PATIENCE.get(alert, 25)}m",
            "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
        },
    )


def healthy(labels: str, shape: str) -> dict[str, str]:
    """What a pod of a deployment without traffic tells; the shape is that of a series, such as `{}x30`."""
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


def everybody(shape: str, *numbers: int) -> dict[str, str]:
    """Pods of both kinds with these numbers."""
    return {name: values for job in ("orchestrator", "comment-worker") for number in numbers
            for name, values in healthy(pod(job, number), shape).items()}  # fmt: skip


QUIET: Final[dict[str, dict[str, str]]] = {
    "no traffic": everybody("{}x40", 1, 2),
    # Its images are pulled, and the pods wait for the migration.
    "a fresh installation": {
        **everybody("_x3 {}x40", 1),
        f"comment_schema_usable{{{POD}}}": "_x3 0x3 1x40",
        f"comment_schema_at_head{{{POD}}}": "_x3 0x3 1x40",
    },
    # The new pods are there before their migration is, which takes ten minutes.
    "an upgrade with a long migration": {
        **everybody("{}x40", 1, 2),
        f"comment_schema_at_head{{{POD}}}": "1x5 0x10 1x25",
    },
    "a rolling update": {**everybody("{}x12 stale", 1, 2), **everybody("_x10 {}x30", 3, 4)},
    "no pod at all for four minutes": {**everybody("{}x10 stale", 1), **everybody("_x14 {}x30", 2)},
    "one slow batch, and one slow statement": {
        **everybody("{}x40", 1),
        **slow_once("comment_processing_duration_seconds", "", 10),
        **slow_once("comment_db_query_duration_seconds", ',query="write_comments"', 10),
    },
    # Each pod at its own time of the hour.
    "the hourly look at the data": {
        **everybody("{}x40", 1),
        **slow_once("comment_db_query_duration_seconds", ',query="check_versions"', *range(5, 30, 3)),
    },
    "a sender that is refused for ten minutes": {
        **everybody("{}x40", 1),
        errors(POD, "rate-limited"): "0x5 0+60x10 600x25",
    },
    "a burst": {
        **everybody("{}x40", 1, 2),
        f"comment_processing_queue_length{{{POD}}}": "0x10 9000x4 0x25",
        f"comment_analysis_oldest_seconds{{{POD}}}": "0x10 0+60x12 0x18",
        f"comment_container_cpu_usage_seconds_total{{{WORKER}}}": "0x10 60+60x8 540x20",
    },
}


@pytest.mark.parametrize("scene", QUIET)
def test_nothing_fires_where_nothing_is_wrong(rule_file: Path, scene: str) -> None:
    silence = [{"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{minute}m"} for minute in range(31)]
    expect(rule_file, QUIET[scene], *silence)


def senders() -> set[str]:
    """The reasons that are theirs, as the rules have them."""
    text = "".join(rule["expr"] for group in rules()["groups"] for rule in group["rules"])
    found = set(re.findall(r'reason(!~|=~)"([^"]+)"', text))
    assert {operator for operator, _ in found} == {"!~", "=~"}
    (listed,) = {names for _, names in found}
    return set(listed.split("|"))


def test_every_reason_is_on_one_side() -> None:
    assert not senders() & OF_OURS
    assert senders() | OF_OURS == set(metrics.ERROR_REASONS)
    for alert, reasons in zip(ERRORS, (OF_OURS, senders()), strict=True):
        page = (project_root() / "docs" / "runbooks" / f"{alert}.md").read_text()
        assert reasons <= set(re.findall(r"`([a-z-]+)`", page)), alert


@pytest.mark.parametrize("reason", metrics.ERROR_REASONS)
def test_an_error_is_told_of_by_the_alert_of_its_side_only(rule_file: Path, reason: str) -> None:
    alert = ERRORS[reason not in OF_OURS]
    firing = {"labels": f'{{alertname="{alert}"}}', "value": 1}
    expr = 'count by (alertname) (ALERTS{alertname=~"CommentProcessingErrors|CommentsRefused",alertstate="firing"})'
    expect(rule_file, {errors(POD, reason): "0+60x30"}, {"expr": expr, "eval_time": "25m", "exp_samples": [firing]})


def test_one_slow_statement_after_the_other_is_a_trouble(rule_file: Path) -> None:
    """As often as the hourly looks above, but of a statement that is not to be slow."""
    series = slow_once("comment_db_query_duration_seconds", ',query="write_comments"', *range(5, 30, 3))
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
)
def test_the_thresholds_are_the_guides(alert: str, threshold: str) -> None:
    (rule,) = [rule for group in rules()["groups"] for rule in group["rules"] if rule["alert"] == alert]
    assert rule["expr"].endswith(threshold)
    assert set(rule["annotations"]) >= {"summary", "description"}
    assert rule["labels"]["severity"] in {"warning", "critical"}
