"""The autoscaler with the metric as the code emits it: it follows the queue, comes back, and does not run away."""

import itertools
import math
import subprocess
from typing import Any, Final

import pytest
import yaml
from tests.chart.autoscaler import Autoscaler, simulate, wanted_replicas
from tests.chart.conftest import CHART, objects, the, tool

TARGET: Final = 75
PER_POD: Final = 100.0


def scaler(case: str = "prod") -> Autoscaler:
    return Autoscaler(the(case, "HorizontalPodAutoscaler", "orchestrator")["spec"], TARGET)


def own_share(queue: float, pods: int) -> list[float]:
    """As the code does it: each pod tells the comments that wait in itself."""
    return [queue / pods] * pods


def whole_queue(queue: float, pods: int) -> list[float]:
    """As it must not be done."""
    return [queue] * pods


@pytest.mark.parametrize(
    ("samples", "wanted"), [([75, 75], 2), ([80, 80], 2), ([150, 150], 4), ([100, 0], 2), ([0, 0], 0), ([70, 20], 2)]
)
def test_the_arithmetic_is_the_controllers(samples: list[float], wanted: int) -> None:
    assert wanted_replicas(samples, TARGET) == wanted


def test_each_pods_own_queue_does_not_run_away_and_the_whole_queue_would() -> None:
    """A queue that stays at 200: three pods are enough, and each more of them would ask for yet more."""
    steady: dict[str, Any] = {"arriving": lambda _: 200.0, "per_pod": 0.0, "seconds": 3600, "replicas": 2}

    def at_200(sample: Any) -> list[int]:
        found = simulate(scaler(), sample=lambda _, pods: sample(200.0, pods), **steady)
        return [pods for pods, _ in found]

    assert at_200(own_share)[-1] == math.ceil(200 / TARGET)
    assert at_200(whole_queue)[-1] == 10


def test_a_burst_is_answered_within_two_minutes_and_given_back_slowly() -> None:
    found = simulate(
        scaler(), arriving=lambda now: 600.0 if 60 <= now < 360 else 50.0, per_pod=PER_POD, seconds=3600, replicas=2,
        sample=own_share,
    )  # fmt: skip
    pods = [count for count, _ in found]
    looks_in_two_minutes = (60 + 120) // 15
    assert max(pods[: looks_in_two_minutes + 1]) >= 6
    assert max(pods) <= 10
    assert pods[-1] == 2
    assert found[-1][1] == 0
    # Not before the window of the way down has passed since there was a queue.
    last = max(at for at, (_, queue) in enumerate(found) if queue > 0)
    assert min(pods[last : last + 600 // 15]) == max(pods)


def test_a_queue_that_comes_and_goes_does_not_make_pods_come_and_go() -> None:
    found = simulate(
        scaler(), arriving=lambda now: 600.0 if now % 120 < 60 else 0.0, per_pod=PER_POD, seconds=3600, replicas=2,
        sample=own_share,
    )  # fmt: skip
    steps = [after - before for before, after in itertools.pairwise(count for count, _ in found) if after != before]
    turns = sum(1 for before, after in itertools.pairwise(steps) if before < 0 < after)
    # An hour has six windows of the way down; the load comes and goes thirty times.
    assert turns <= 6


@pytest.mark.parametrize("case", ["prod", "all-outside"])
def test_the_behaviour_is_within_the_guides(case: str) -> None:
    """Up after 15 to 60 seconds, down after 300 to 600."""
    for one in objects(case, "HorizontalPodAutoscaler"):
        behaviour = one["spec"]["behavior"]
        assert 15 <= behaviour["scaleUp"]["stabilizationWindowSeconds"] <= 60
        assert 300 <= behaviour["scaleDown"]["stabilizationWindowSeconds"] <= 600


def test_the_metrics_are_the_guides() -> None:
    cpu, memory, queue = the("prod", "HorizontalPodAutoscaler", "orchestrator")["spec"]["metrics"]
    assert 70 <= cpu["resource"]["target"]["averageUtilization"] <= 75
    assert memory["resource"]["target"]["averageUtilization"] == 80
    assert queue["pods"]["metric"]["name"] == "comment_processing_queue_length"
    assert queue["pods"]["target"]["type"] == "AverageValue"
    assert 50 <= int(queue["pods"]["target"]["averageValue"]) <= 75


def test_keda_asks_for_the_sum_and_behaves_the_same() -> None:
    """Its HPA is of type External, which divides by the number of pods itself."""
    scaled = the("prod-keda", "ScaledObject", "orchestrator")["spec"]
    (trigger,) = [one for one in scaled["triggers"] if one["type"] == "prometheus"]
    assert trigger["metadata"]["query"].startswith("sum(comment_processing_queue_length{")
    hpa = scaled["advanced"]["horizontalPodAutoscalerConfig"]
    assert hpa["behavior"] == the("prod", "HorizontalPodAutoscaler", "orchestrator")["spec"]["behavior"]
    assert len(scaled["advanced"]["horizontalPodAutoscalerConfig"]["name"]) <= 54


@pytest.mark.parametrize("name", ["orchestrator", "comment-worker"])
def test_keda_leaves_the_pods_alone_while_it_cannot_read_the_metric(name: str) -> None:
    """Like an autoscaler without KEDA. Falling back to a number would take pods away from a busy system."""
    assert "fallback" not in the("prod-keda", "ScaledObject", name)["spec"]


ADAPTER: Final = yaml.safe_load((CHART / "files" / "prometheus-adapter-values.yaml").read_text())


def expanded(query: str, series: str, matchers: str) -> str:
    """As prometheus-adapter fills its template in."""
    for name, value in (("Series", series), ("LabelMatchers", matchers), ("GroupBy", "pod")):
        query = query.replace(f"<<.{name}>>", value)
    assert "<<" not in query
    return query


def test_the_adapter_knows_what_the_autoscalers_ask_for() -> None:
    known = {("Pods", one["name"]["as"]) for one in ADAPTER["rules"]["custom"]}
    known |= {("External", one["name"]["as"]) for one in ADAPTER["rules"]["external"]}
    asked = {
        (metric["type"], metric[metric["type"].lower()]["metric"]["name"])
        for one in objects("prod", "HorizontalPodAutoscaler")
        for metric in one["spec"]["metrics"] if metric["type"] != "Resource"
    }  # fmt: skip
    assert asked == known
    config = yaml.safe_load(the("prod", "ConfigMap", "comment-monitoring-adapter-rules")["data"]["config.yaml"])
    assert config == {"rules": ADAPTER["rules"]["custom"], "externalRules": ADAPTER["rules"]["external"]}


def test_the_adapters_queries_give_each_pod_its_own_and_the_system_its_backlog(tmp_path: Any) -> None:
    """Run by Prometheus itself over series as two pods emit them."""
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
    done = subprocess.run([tool("promtool"), "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
