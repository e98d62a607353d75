"""Processor time of each program in microseconds per comment: storing at 1,000 and 25 per request, and analysing."""

import os
import time
from statistics import median
from typing import Final

import psutil

from bench.harness.claim import MICROSECONDS, Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import alone
from bench.harness.system import System

COMMENTS: Final = 60_000
ANALYSED: Final = 40_000
SHAPES: Final = ((1000, 8), (25, 64))
# Other children of this process (RabbitMQ's start script, Erlang's port mapper) use next to no time.
PROGRAMS: Final = {"postgres": "PostgreSQL", "redis": "Redis", "beam": "RabbitMQ", "python": "the service"}
LOAD: Final = "the load generator"
Spent = dict[str, float]


def measure(tools: Tools) -> list[Row]:
    """Sends fresh comments and measures this process and its children."""
    system = tools.system
    rows = []
    for size, connections in SHAPES:
        bodies = make_bodies(make_columns(COMMENTS, run=12), size)
        rounds = []
        with system.serving() as (url, _):
            for _ in range(tools.rounds):
                system.forget()
                before = _seconds()
                rate = send(url, bodies, connections=connections).rate
                rounds.append(_spent(before, COMMENTS))
                tools.say(f"{rate:,.0f} comments/s, {sum(rounds[-1].values()):.1f} of {2e6 / rate:.1f} us")
        rows += _rows(f"{size:,} a request", rounds)
    return rows + _rows("analysing", [_analysing(tools)])


def _analysing(tools: Tools) -> Spent:
    """Measures a worker whose comments all wait already, from its first result on."""
    system = tools.system
    system.forget()
    with system.serving() as (url, _):
        send(url, make_bodies(make_columns(ANALYSED, run=15), 25), connections=16)
        with system.working():
            while not (done := _analysed(system)):
                time.sleep(0.02)
            before = _seconds()
            while (now := _analysed(system)) < ANALYSED:
                time.sleep(0.2)
            spent = _spent(before, now - done)
    tools.say(f"analysing: {sum(spent.values()):.1f} us a comment")
    return {"the worker" if name == PROGRAMS["python"] else name: value for name, value in spent.items()}


def _analysed(system: System) -> int:
    return system.count("SELECT count(*) FROM comment_analyses")


def _rows(work: str, rounds: list[Spent]) -> list[Row]:
    values = {name: [spent[name] for spent in rounds] for name in rounds[0]}
    return [
        Row(work=f"processor time, {work}: {name}", unit=MICROSECONDS, ours=found)
        for name, found in sorted(values.items(), key=lambda item: -median(item[1]))
    ]


def _spent(before: Spent, comments: int) -> Spent:
    return {name: (seconds - before.get(name, 0)) / comments * 1e6 for name, seconds in _seconds().items()}


def _seconds() -> Spent:
    """Returns the processor seconds so far, by program."""
    result: Spent = {}
    here = psutil.Process(os.getpid())
    for process in (here, *here.children(recursive=True)):
        try:
            times, name = process.cpu_times(), process.name()
        except psutil.NoSuchProcess:
            continue
        program = LOAD if process == here else next((PROGRAMS[part] for part in PROGRAMS if part in name), None)
        if program:
            result[program] = result.get(program, 0) + times.user + times.system
    return result


if __name__ == "__main__":
    alone(measure)
