"""Which program the processors work for: microseconds a comment, at 1,000 and at 25 comments a request."""

import os
from statistics import median
from typing import Final

import psutil

from bench.harness.claim import MICROSECONDS, Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import alone

COMMENTS: Final = 100_000
SHAPES: Final = ((1000, 8), (25, 64))
PROGRAMS: Final = {"postgres": "PostgreSQL", "redis": "Redis", "beam": "RabbitMQ", "python": "the service"}
LOAD: Final = "the load generator"


def measure(tools: Tools) -> list[Row]:
    """Fresh comments; the processes are those below this one."""
    system = tools.system
    rows = []
    with system.serving() as (url, _):
        for size, connections in SHAPES:
            bodies = make_bodies(make_columns(COMMENTS, run=12), size)
            spent: dict[str, list[float]] = {}
            for _ in range(tools.rounds):
                system.forget()
                before = _seconds()
                rate = send(url, bodies, connections=connections).rate
                for name, seconds in _seconds().items():
                    spent.setdefault(name, []).append((seconds - before.get(name, 0)) / COMMENTS * 1e6)
                total = sum(one[-1] for one in spent.values())
                tools.say(f"{rate:,.0f} comments/s, {total:.1f} of {2e6 / rate:.1f} us")
            rows += [
                Row(work=f"processor time, {size:,} a request: {name}", unit=MICROSECONDS, ours=values)
                for name, values in sorted(spent.items(), key=lambda one: -median(one[1]))
            ]
    return rows


def _seconds() -> dict[str, float]:
    """Processor seconds so far by program."""
    result: dict[str, float] = {}
    here = psutil.Process(os.getpid())
    for process in (here, *here.children(recursive=True)):
        try:
            times, name = process.cpu_times(), process.name()
        except psutil.NoSuchProcess:
            continue
        program = LOAD if process == here else next((PROGRAMS[one] for one in PROGRAMS if one in name), name)
        result[program] = result.get(program, 0) + times.user + times.system
    return result


if __name__ == "__main__":
    alone(measure)
