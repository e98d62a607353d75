"""The alert rules, run by Prometheus itself: each fires on its trouble, and is silent without."""

import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import NAMESPACE, the, tool

BUCKETS: Final = ("1", "5", "10", "15", "+Inf")
POD: Final = f'namespace="{NAMESPACE}",pod="orchestrator-1"'
DAY: Final = 86_400
OTHER: Final = f'namespace="{NAMESPACE}",pod="orchestrator-2"'


def slow(name: str, share: int, extra: str = "") -> dict[str, str]:
    """A histogram's buckets: of 100 observations a minute so many take between 10 and 15 seconds."""
    counts = {"1": 100 - share, "5": 100 - share, "10": 100 - share, "15": 100, "+Inf": 100}
    return {f'{name}_bucket{{{POD},le="{le}"{extra}}}': f"0+{counts[le]}x30" for le in BUCKETS}


# Alert: series on which it fires, and series on which it does not.
TROUBLE: Final[dict[str, tuple[dict[str, str], dict[str, str]]]] = {
    "CommentProcessingHighLatency": (
        slow("comment_processing_duration_seconds", 10),
        slow("comment_processing_duration_seconds", 2),
    ),
    # 0.2 and 0.05 a second, over two pods: neither alone is above the threshold.
    "CommentProcessingErrors": (
        {f'comment_processing_errors_total{{{pod},reason="timeout"}}': "0+5x30" for pod in (POD, OTHER)},
        {f'comment_processing_errors_total{{{POD},reason="timeout"}}': "0+3x30"},
    ),
    "CommentQueueBacklog": (
        {f"comment_processing_queue_length{{{pod}}}": "600x30" for pod in (POD, OTHER)},
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
        {f"comment_analysis_oldest_seconds{{{pod}}}": value for pod, value in ((POD, "0x30"), (OTHER, "1000x30"))},
        {f"comment_analysis_oldest_seconds{{{pod}}}": "600x30" for pod in (POD, OTHER)},
    ),
    "CommentAnalysisSentAgain": (
        {f"comment_outbox_resent_total{{{pod}}}": "0+40x60" for pod in (POD, OTHER)},
        {f"comment_outbox_resent_total{{{POD}}}": "0+40x60"},
    ),
    "CommentSchemaNotUsable": (
        {f"comment_schema_usable{{{pod}}}": value for pod, value in ((POD, "1x30"), (OTHER, "0x30"))},
        {f"comment_schema_usable{{{pod}}}": "1x30" for pod in (POD, OTHER)},
    ),
    "CommentCleanupNotDone": (
        {f"comment_recent_index_age_seconds{{{POD}}}": f"{17 * DAY}+60x120"},
        {f"comment_recent_index_age_seconds{{{POD}}}": f"{14 * DAY}+60x120"},
    ),
    "CommentInvariantBroken": (
        {f'comment_invariant_violations{{{POD},invariant="analysed"}}': "2x30",
         f'comment_invariant_violations{{{OTHER},invariant="analysed"}}': "0x30"},
        {f'comment_invariant_violations{{{POD},invariant="{one}"}}': "0x30" for one in ("analysed", "versions")},
    ),
    "CommentWorkerDown": (
        {f'up{{{POD},job="comment-worker"}}': "0x30", f'up{{{OTHER},job="orchestrator"}}': "1x30"},
        {f'up{{{POD},job="comment-worker"}}': "0x30", f'up{{{OTHER},job="comment-worker"}}': "1x30"},
    ),
    "CommentMonitoringAbsent": (
        {f'up{{{POD},job="orchestrator"}}': "0x30"},
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


@pytest.mark.parametrize("alert", TROUBLE)
@pytest.mark.parametrize("fires", [True, False])
def test_an_alert_fires_on_its_trouble_and_only_then(rule_file: Path, alert: str, fires: bool) -> None:
    series = TROUBLE[alert][0 if fires else 1]
    # Of a namespace that is none of ours, all the worse: it does not count.
    elsewhere = {one.replace(f'namespace="{NAMESPACE}"', 'namespace="elsewhere"'): values
                 for one, values in TROUBLE[alert][0].items()}  # fmt: skip
    test = {
        "rule_files": [rule_file.name],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": [{"series": one, "values": values} for one, values in {**series, **elsewhere}.items()],
            "promql_expr_test": [{
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                "eval_time": f"{PATIENCE.get(alert, 25)}m",
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }],
        }],
    }  # fmt: skip
    file = rule_file.parent / "rules.test.yaml"
    file.write_text(yaml.safe_dump(test))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


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
