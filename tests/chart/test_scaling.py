"""The autoscalers: their metrics and behaviour, KEDA's triggers, and the queries of prometheus-adapter."""

import subprocess
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import CHART, get_object, objects, tool


@pytest.mark.parametrize("case", ["prod", "all-external"])
def test_the_stabilization_is_within_the_bounds_of_the_guide(case: str) -> None:
    """Scale up after 15 to 60 seconds, scale down after 300 to 600 seconds."""
    for autoscaler in objects(case, "HorizontalPodAutoscaler"):
        behaviour = autoscaler["spec"]["behavior"]
        assert 15 <= behaviour["scaleUp"]["stabilizationWindowSeconds"] <= 60
        assert 300 <= behaviour["scaleDown"]["stabilizationWindowSeconds"] <= 600


def test_the_metrics_and_targets_match_the_guide() -> None:
    cpu, memory, queue = get_object("prod", "HorizontalPodAutoscaler", "orchestrator")["spec"]["metrics"]
    assert 70 <= cpu["resource"]["target"]["averageUtilization"] <= 75
    assert memory["resource"]["target"]["averageUtilization"] == 80
    assert queue["pods"]["metric"]["name"] == "comment_processing_queue_length"
    assert queue["pods"]["target"]["type"] == "AverageValue"
    assert 50 <= int(queue["pods"]["target"]["averageValue"]) <= 75


def test_keda_queries_the_sum_and_has_the_same_behaviour() -> None:
    """KEDA's metric has the type External: the HPA divides it by the number of pods."""
    scaled = get_object("prod-keda", "ScaledObject", "orchestrator")["spec"]
    (trigger,) = [trigger for trigger in scaled["triggers"] if trigger["type"] == "prometheus"]
    assert trigger["metadata"]["query"].startswith("sum(comment_processing_queue_length{")
    hpa = scaled["advanced"]["horizontalPodAutoscalerConfig"]
    assert hpa["behavior"] == get_object("prod", "HorizontalPodAutoscaler", "orchestrator")["spec"]["behavior"]
    assert len(scaled["advanced"]["horizontalPodAutoscalerConfig"]["name"]) <= 54


@pytest.mark.parametrize("name", ["orchestrator", "comment-worker"])
def test_keda_keeps_the_number_of_pods_if_the_metric_is_unavailable(name: str) -> None:
    """As an HPA without KEDA does. A fallback number could remove pods from a busy system."""
    assert "fallback" not in get_object("prod-keda", "ScaledObject", name)["spec"]


ADAPTER: Final = yaml.safe_load((CHART / "files" / "prometheus-adapter-values.yaml").read_text())


def expanded(query: str, series: str, matchers: str) -> str:
    """Fills in a query template as prometheus-adapter does."""
    for name, value in (("Series", series), ("LabelMatchers", matchers), ("GroupBy", "pod")):
        query = query.replace(f"<<.{name}>>", value)
    assert "<<" not in query
    return query


def test_the_adapter_provides_every_metric_of_the_autoscalers() -> None:
    provided = {("Pods", rule["name"]["as"]) for rule in ADAPTER["rules"]["custom"]}
    provided |= {("External", rule["name"]["as"]) for rule in ADAPTER["rules"]["external"]}
    used = {
        (metric["type"], metric[metric["type"].lower()]["metric"]["name"])
        for autoscaler in objects("prod", "HorizontalPodAutoscaler")
        for metric in autoscaler["spec"]["metrics"] if metric["type"] != "Resource"
    }  # fmt: skip
    assert used == provided
    config = yaml.safe_load(get_object("prod", "ConfigMap", "comment-monitoring-adapter-rules")["data"]["config.yaml"])
    assert config == {"rules": ADAPTER["rules"]["custom"], "externalRules": ADAPTER["rules"]["external"]}


def test_the_adapters_queries_return_queue_per_pod_and_total_backlog(tmp_path: Any) -> None:
    """Prometheus runs the queries over the series of two pods."""
    pods = 'namespace="somewhere",pod=~"a|b"'
    per_pod = expanded(ADAPTER["rules"]["custom"][0]["metricsQuery"], "comment_processing_queue_length", pods)
    backlog = expanded(
        ADAPTER["rules"]["external"][0]["metricsQuery"], "comment_analysis_backlog", 'namespace="somewhere"'
    )
    series = [
        {"series": f'{name}{{namespace="{space}",pod="{pod}"}}', "values": f"{value}x10"}
        for name, space, pod, value in (
            ("comment_processing_queue_length", "somewhere", "a", 120),
            ("comment_processing_queue_length", "somewhere", "b", 30),
            ("comment_processing_queue_length", "elsewhere", "a", 999),
            ("comment_analysis_backlog", "somewhere", "a", 500),
            ("comment_analysis_backlog", "somewhere", "b", 500),
        )
    ]
    expected = [
        {"expr": per_pod, "eval_time": "5m", "exp_samples": [
            {"labels": '{pod="a"}', "value": 120}, {"labels": '{pod="b"}', "value": 30}]},
        {"expr": backlog, "eval_time": "5m", "exp_samples": [{"labels": "{}", "value": 500}]},
    ]  # fmt: skip
    file = tmp_path / "adapter.test.yaml"
    file.write_text(
        yaml.safe_dump({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": expected}]})
    )
    result = subprocess.run([tool("promtool"), "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
