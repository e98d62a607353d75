"""The arithmetic of Kubernetes' HorizontalPodAutoscaler for one metric.

It follows pkg/controller/podautoscaler: `calcPlainMetricReplicas` of replica_calculator.go, and
`stabilizeRecommendation` with the scaling policies of horizontal.go. Tolerance 10 %, a decision every 15 seconds, all
pods ready.
"""

import math
from typing import Any, Final

TOLERANCE: Final = 0.1
SYNC_PERIOD: Final = 15


def wanted_replicas(samples: list[float], target: float) -> int:
    """The number of pods for a metric of type Pods with a target of type AverageValue."""
    usage = sum(samples) / len(samples) / target
    if abs(usage - 1) <= TOLERANCE:
        return len(samples)
    return math.ceil(usage * len(samples))


class Autoscaler:
    """An HPA with its behaviour and its earlier recommendations."""

    def __init__(self, spec: dict[str, Any], target: float):
        self._minimum, self._maximum = spec["minReplicas"], spec["maxReplicas"]
        self._up, self._down = spec["behavior"]["scaleUp"], spec["behavior"]["scaleDown"]
        self._target = target
        self._recommendations: list[tuple[float, int]] = []
        self._counts: list[tuple[float, int]] = []

    def decide(self, now: float, samples: list[float]) -> int:
        """Returns the new number of pods, given the sample of each pod."""
        current = len(samples)
        self._counts.append((now, current))
        self._recommendations.append((now, wanted_replicas(samples, self._target)))
        recommended = self._stabilised(now, current)
        recommended = min(recommended, self._limit_up(now, current)) if recommended > current else recommended
        recommended = max(recommended, self._limit_down(now, current)) if recommended < current else recommended
        return int(max(self._minimum, min(self._maximum, recommended)))

    def _stabilised(self, now: float, current: int) -> int:
        """Scales up to the lowest recommendation of its window, and down to the highest of its window."""
        up = min(count for at, count in self._recommendations if at >= now - self._up["stabilizationWindowSeconds"])
        down = max(count for at, count in self._recommendations if at >= now - self._down["stabilizationWindowSeconds"])
        return up if up > current else min(current, down)

    def _limit_up(self, now: float, current: int) -> int:
        return max(self._allowed(policy, now, current, up=True) for policy in self._up["policies"])

    def _limit_down(self, now: float, current: int) -> int:
        return min(self._allowed(policy, now, current, up=False) for policy in self._down["policies"])

    def _allowed(self, policy: dict[str, Any], now: float, current: int, *, up: bool) -> int:
        """The number of pods that a policy allows, from the number at the start of its period."""
        before = next((count for at, count in self._counts if at > now - policy["periodSeconds"]), current)
        if policy["type"] == "Pods":
            return int(before + policy["value"] if up else before - policy["value"])
        share = float(policy["value"]) / 100
        return math.ceil(before * (1 + share)) if up else math.floor(before * (1 - share))
