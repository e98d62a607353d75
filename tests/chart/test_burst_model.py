"""The burst of docs/scaling.md is reckoned with the autoscalers that the chart makes."""

import pytest
from tests.chart.conftest import the

pytest.importorskip("matplotlib", reason="the model draws its picture with it")

from bench.scaling import behaviour, production


@pytest.mark.parametrize(("component", "name"), [("orchestrator", "orchestrator"), ("worker", "comment-worker")])
def test_the_model_scales_as_the_chart_does(component: str, name: str) -> None:
    spec = the("prod-monitored", "HorizontalPodAutoscaler", name)["spec"]
    scaling = production()[component]["autoscaling"]
    assert {key: scaling[key] for key in ("minReplicas", "maxReplicas")} == {
        key: spec[key] for key in ("minReplicas", "maxReplicas")
    }
    made = spec["behavior"]
    ours = behaviour(scaling)
    for direction in ("scaleUp", "scaleDown"):
        assert made[direction]["stabilizationWindowSeconds"] == ours[direction]["stabilizationWindowSeconds"]
        assert made[direction]["policies"] == ours[direction]["policies"]
        # Of several policies the model takes the one that moves the most, as is the default.
        assert made[direction].get("selectPolicy", "Max") == "Max"
