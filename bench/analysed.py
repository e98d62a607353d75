"""The sustained rate from request to stored and analysed, and the memory, with one process each of API and worker.

A million comments pass through the same processes in five rounds, so their memory at the end includes that load.
"""

import time
from typing import Final

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import alone
from bench.harness.system import System

COMMENTS: Final = 200_000
SIZE: Final = 25
CONNECTIONS: Final = 16
POLL: Final = 0.1


def measure(tools: Tools) -> list[Row]:
    """Sends comments as fast as possible; a round ends when the last comment has its result."""
    system = tools.system
    rates = []
    system.forget()
    with system.serving() as (url, orchestrator), system.working() as worker:
        send(url, make_bodies(make_columns(2_000, run=7), SIZE), connections=CONNECTIONS)
        _until_analysed(system)
        for number in range(tools.rounds):
            bodies = make_bodies(make_columns(COMMENTS, run=200 + number), SIZE)
            system.forget()
            rates.append(_round(tools, url, bodies))
        serving, working = max(orchestrator.memory()), max(worker.resident())
    tools.say(f"orchestrator {serving:.0f} MiB, worker process {working:.0f} MiB")
    after = f"after {COMMENTS * tools.rounds:,} comments"
    return [
        Row(
            work=f"request to stored and analysed, {COMMENTS:,} comments, one process each ({system.broker})",
            unit="comments/s",
            ours=rates,
            floor=6_000,
        ),
        Row(work=f"memory of the orchestrator {after}", unit="MiB", ours=[serving], floor=150, most=True),
        Row(work=f"memory of a worker process {after}", unit="MiB", ours=[working], floor=250, most=True),
    ]


def _round(tools: Tools, url: str, bodies: list[bytes]) -> float:
    """Returns comments per second."""
    started = time.perf_counter()
    send(url, bodies, connections=CONNECTIONS)
    tools.say(f"all stored after {time.perf_counter() - started:.1f} s")
    _until_analysed(tools.system)
    rate = COMMENTS / (time.perf_counter() - started)
    results = tools.system.count("SELECT count(*) FROM comment_analyses WHERE status = 'done'")
    if results != COMMENTS:
        raise RuntimeError(f"{results} of {COMMENTS} comments have a result.")
    tools.say(f"{rate:,.0f} comments/s")
    return rate


def _until_analysed(system: System) -> None:
    while system.count("SELECT count(*) FROM analysis_outbox"):
        time.sleep(POLL)


if __name__ == "__main__":
    alone(measure)
