"""The arithmetic of Kubernetes' HorizontalPodAutoscaler for one metric, and a queue that it scales.

After `calcPlainMetricReplicas` of pkg/controller/podautoscaler/replica_calculator.go and `stabilizeRecommendation` with
the scaling policies of horizontal.go: tolerance 10 %, a look every 15 seconds, all pods ready.
"""

import math
from collections.abc import Callable
from typing import Any, Final

TOLERANCE: Final = 0.1
LOOK: Final = 15


def wanted_replicas(samples: list[float], target: float) -> int:
    """Of a metric of type Pods with a target of type AverageValue."""
    usage = sum(samples) / len(samples) / target
    if abs(usage - 1) <= TOLERANCE:
        return len(samples)
    return math.ceil(usage * len(samples))


class Autoscaler:
    """One HPA with its behaviour and its memory."""

    def __init__(self, spec: dict[str, Any], target: float):
        self._least, self._most = spec["minReplicas"], spec["maxReplicas"]
        self._up, self._down = spec["behavior"]["scaleUp"], spec["behavior"]["scaleDown"]
        self._target = target
        self._wishes: list[tuple[float, int]] = []
        self._counts: list[tuple[float, int]] = []

    def look(self, now: float, samples: list[float]) -> int:
        """How many pods there are to be, given what each says."""
        current = len(samples)
        self._counts.append((now, current))
        self._wishes.append((now, wanted_replicas(samples, self._target)))
        wish = self._stabilised(now, current)
        wish = min(wish, self._limit_up(now, current)) if wish > current else wish
        wish = max(wish, self._limit_down(now, current)) if wish < current else wish
        return int(max(self._least, min(self._most, wish)))

    def _stabilised(self, now: float, current: int) -> int:
        """Up to the lowest wish of its window, down to the highest of its own."""
        up = min(wish for at, wish in self._wishes if at >= now - self._up["stabilizationWindowSeconds"])
        down = max(wish for at, wish in self._wishes if at >= now - self._down["stabilizationWindowSeconds"])
        return up if up > current else min(current, down)

    def _limit_up(self, now: float, current: int) -> int:
        return max(self._allowed(one, now, current, up=True) for one in self._up["policies"])

    def _limit_down(self, now: float, current: int) -> int:
        return min(self._allowed(one, now, current, up=False) for one in self._down["policies"])

    def _allowed(self, policy: dict[str, Any], now: float, current: int, *, up: bool) -> int:
        """From what there was at the start of the policy's period."""
        before = next((count for at, count in self._counts if at > now - policy["periodSeconds"]), current)
        if policy["type"] == "Pods":
            return int(before + policy["value"] if up else before - policy["value"])
        share = float(policy["value"]) / 100
        return math.ceil(before * (1 + share)) if up else math.floor(before * (1 - share))


def simulate(
    scaler: Autoscaler, *, arriving: Callable[[int], float], per_pod: float, seconds: int, replicas: int,
    sample: Callable[[float, int], list[float]],
) -> list[tuple[int, float]]:  # fmt: skip
    """Second by second, comments that arrive and are committed; (pods, queue) at each look of the autoscaler.

    Args:
        scaler: who decides.
        arriving: comments a second, by the second.
        per_pod: comments that a pod commits a second.
        seconds: how long.
        replicas: pods at the start.
        sample: what the pods say of a queue of so many comments, by the number of pods.
    """
    queue, found = 0.0, []
    for now in range(seconds):
        queue = max(0.0, queue + arriving(now) - replicas * per_pod)
        if now % LOOK == 0:
            replicas = scaler.look(now, sample(queue, replicas))
            found.append((replicas, queue))
    return found
