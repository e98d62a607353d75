"""A burst of comments on a cluster, second by second: queue, backlog and pods under the chart's production autoscalers.

A model, not a measurement: a pod's rate is an option, by default somewhat below the rate that bench measured; the
autoscalers follow the controller's arithmetic with the settings of values-prod.yaml. If its queue is full, the API
refuses comments, and their clients retry.
"""

from collections import deque
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import yaml
from rich.console import Console
from rich.table import Table

from bench.harness.autoscaler import SYNC_PERIOD, Autoscaler
from bench.harness.plots import draw_burst

CHART: Final = Path(__file__).parents[1] / "chart"
EVERY: Final = 60


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """The rates of a pod and of the database in comments per second, and delays in seconds.

    `cpu`: processor seconds that storing a comment costs an API pod. `lag`: how old a metric is when the autoscaler
    reads it (scrape, rule, adapter). `start`: from the autoscaler's decision to a working pod.
    """

    api_pod: float
    worker_pod: float
    database: float
    cpu: float = 20e-6
    lag: int = 30
    start: int = 20


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """The state at one second; comments and pods."""

    second: int
    arriving: float
    refused: float
    queue: float
    backlog: float
    api_pods: int
    worker_pods: int


class Deployment:
    """Working and starting pods under an autoscaler."""

    def __init__(self, values: dict[str, Any], rates: Rates):
        scaling = values["autoscaling"]
        bounds = {key: scaling[key] for key in ("minReplicas", "maxReplicas")} | {"behavior": behaviour(scaling)}
        # A single metric: of several metrics the controller follows the one that requires the most pods.
        self._scaler = Autoscaler(bounds, target=1)
        self.pods = scaling["minReplicas"]
        self._coming: list[tuple[int, int]] = []
        self._start = rates.start
        self._shares: deque[float] = deque(maxlen=rates.lag + 1)

    def step(self, second: int, share: float) -> None:
        """Advances by a second. `share`: the worst metric's average over pods, divided by its target."""
        self._shares.append(share)
        while self._coming and self._coming[0][0] <= second:
            self.pods = self._coming.pop(0)[1]
        if second % SYNC_PERIOD == 0:
            wanted = self._scaler.decide(second, [self._shares[0]] * self.pods)
            if wanted < self.pods:
                self.pods, self._coming = wanted, []
            elif wanted > (self._coming[-1][1] if self._coming else self.pods):
                self._coming.append((second + self._start, wanted))


def behaviour(scaling: dict[str, Any]) -> dict[str, Any]:
    """Returns the behaviour of the chart's template: up by 100 % or 4 pods in 15 s, down by 25 % or 1 pod in 60 s."""
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": scaling["scaleUpStabilization"],
            "policies": [_policy("Percent", 100, 15), _policy("Pods", 4, 15)],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": scaling["scaleDownStabilization"],
            "policies": [_policy("Percent", 25, 60), _policy("Pods", 1, 60)],
        },
    }


def _policy(kind: str, value: int, seconds: int) -> dict[str, Any]:
    return {"type": kind, "value": value, "periodSeconds": seconds}


def production() -> dict[str, Any]:
    """Returns the chart's values, overridden by values-prod.yaml."""
    return _merged(*(yaml.safe_load((CHART / name).read_text()) for name in ("values.yaml", "values-prod.yaml")))


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }
    return {**below, **both}


def simulate(values: dict[str, Any], rates: Rates, *, base: float, burst: float, begin: int, length: int, until: int
             ) -> list[Moment]:  # fmt: skip
    """Simulates `base` comments per second, and `burst` for `length` seconds from second `begin` on."""
    api, worker = values["orchestrator"], values["worker"]
    storing, analysing = Deployment(api, rates), Deployment(worker, rates)
    capacity = api["commentMonitoring"]["queueCapacity"]
    requested = cores(api["resources"]["requests"]["cpu"]) * api["autoscaling"]["targetCPU"] / 100
    queue = backlog = outside = 0.0
    found = []
    for second in range(until):
        arriving = burst if begin <= second < begin + length else base
        offered, free_capacity = arriving + outside, capacity * storing.pods - queue
        rate = min(rates.api_pod * storing.pods, rates.database)
        accepted = min(offered, free_capacity + rate)
        outside = offered - accepted
        stored = min(queue + accepted, rate)
        queue += accepted - stored
        backlog = max(0.0, backlog + stored - rates.worker_pod * analysing.pods)
        waiting = queue / storing.pods / api["autoscaling"]["customMetrics"]["averageValue"]
        storing.step(second, max(waiting, stored * rates.cpu / storing.pods / requested))
        analysing.step(second, backlog / analysing.pods / worker["autoscaling"]["backlogPerReplica"])
        found.append(
            Moment(second=second, arriving=arriving, refused=outside, queue=queue, backlog=backlog,
                   api_pods=storing.pods, worker_pods=analysing.pods)
        )  # fmt: skip
    return found


def cores(quantity: str) -> float:
    """Returns the cores of a Kubernetes quantity, such as 1500m."""
    return float(quantity.removesuffix("m")) / (1000 if quantity.endswith("m") else 1)


def show(moments: list[Moment]) -> None:
    """Prints a line per minute."""
    table = Table("minute", "arriving /s", "waits outside", "in the API's queues", "not yet analysed", "API", "workers")
    for moment in moments[::EVERY]:
        numbers = (
            moment.second // EVERY, moment.arriving, moment.refused, moment.queue, moment.backlog, moment.api_pods,
            moment.worker_pods,
        )  # fmt: skip
        table.add_row(*(f"{number:,.0f}" for number in numbers))
    Console().print(table)


@click.command(help=__doc__)
@click.option("--base", default=1_000.0, show_default=True, help="Comments per second before and after.")
@click.option("--burst", default=50_000.0, show_default=True, help="Comments per second during the burst.")
@click.option("--length", default=300, show_default=True, help="Seconds that the burst lasts.")
@click.option("--until", default=1_800, show_default=True, help="Seconds to simulate.")
@click.option("--api-pod", default=20_000.0, show_default=True, help="Comments per second that an API pod stores.")
@click.option("--worker-pod", default=6_000.0, show_default=True, help="Comments per second that a worker analyses.")
@click.option("--database", default=60_000.0, show_default=True, help="Comments per second that PostgreSQL stores.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write the picture to this file (.svg).")
def main(
    base: float, burst: float, length: int, until: int, api_pod: float, worker_pod: float, database: float,
    plot: Path | None,
) -> None:  # fmt: skip
    """Runs the command line."""
    rates = Rates(api_pod=api_pod, worker_pod=worker_pod, database=database)
    moments = simulate(production(), rates, base=base, burst=burst, begin=60, length=length, until=until)
    show(moments)
    worst = max(moments, key=lambda moment: moment.backlog)
    clear = next((moment.second for moment in moments[worst.second :] if not moment.backlog), None)
    click.echo(f"most not yet analysed: {worst.backlog:,.0f} comments, in second {worst.second}")
    click.echo(f"all analysed in second {clear}" if clear else "not all analysed by the end")
    if plot:
        draw_burst(moments, plot)


if __name__ == "__main__":
    main()
