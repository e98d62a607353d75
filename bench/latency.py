"""Latency of requests of 25 comments at half of the highest rate, from the moment at which each request was due."""

from statistics import quantiles
from typing import Final

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import alone

SIZE: Final = 25
CONNECTIONS: Final = 64
COMMENTS: Final = 100_000
SECONDS: Final = 6


def measure(tools: Tools) -> list[Row]:
    """Measures the highest rate first, then rounds at half of it."""
    system = tools.system
    p50, p95, p99 = [], [], []
    with system.serving() as (url, _):
        system.forget()
        highest = send(url, make_bodies(make_columns(COMMENTS, run=8), SIZE), connections=CONNECTIONS).rate
        rate = highest / 2 / SIZE
        tools.say(f"{rate:,.0f} requests/s, half of {highest:,.0f} comments/s")
        for number in range(tools.rounds):
            system.forget()
            bodies = make_bodies(make_columns(int(rate * SECONDS) * SIZE, run=100 + number), SIZE)
            outcome = send(url, bodies, connections=CONNECTIONS, rate=rate)
            cuts = [seconds * 1000 for seconds in quantiles(outcome.latencies, n=100)]
            p50.append(cuts[49])
            p95.append(cuts[94])
            p99.append(cuts[98])
            tools.say(f"p50 {p50[-1]:.1f}, p95 {p95[-1]:.1f}, p99 {p99[-1]:.1f} ms")
    work = f"latency at half of the highest rate ({rate:,.0f} requests/s)"
    return [
        Row(work=f"{work}: p50", unit="ms", ours=p50),
        Row(work=f"{work}: p95", unit="ms", ours=p95, floor=15, most=True),
        Row(work=f"{work}: p99", unit="ms", ours=p99, floor=60, most=True),
    ]


if __name__ == "__main__":
    alone(measure)
