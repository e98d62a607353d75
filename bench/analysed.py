"""From request to stored and analysed, sustained: one API process, one worker process, one broker."""

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
    """As fast as they can be sent; the clock stops when the last one has its result."""
    bodies = make_bodies(make_columns(COMMENTS, run=6), SIZE)
    warm = make_bodies(make_columns(2_000, run=7), SIZE)
    system = tools.system
    rates = []
    system.forget()
    with system.serving() as (url, _), system.working():
        send(url, warm, connections=CONNECTIONS)
        _until_analysed(system)
        for _ in range(max(1, tools.rounds // 5)):
            system.forget()
            started = time.perf_counter()
            send(url, bodies, connections=CONNECTIONS)
            tools.say(f"all stored after {time.perf_counter() - started:.1f} s")
            _until_analysed(system)
            rates.append(COMMENTS / (time.perf_counter() - started))
            results = system.count("SELECT count(*) FROM comment_analyses WHERE status = 'done'")
            if results != COMMENTS:
                raise RuntimeError(f"{results} of {COMMENTS} have a result.")
            tools.say(f"{rates[-1]:,.0f} comments/s")
    return [
        Row(
            work=f"request to stored and analysed, {COMMENTS:,} comments, one process each ({system.broker})",
            unit="comments/s",
            ours=rates,
            floor=6_000,
        )
    ]


def _until_analysed(system: System) -> None:
    while system.count("SELECT count(*) FROM analysis_outbox"):
        time.sleep(POLL)


if __name__ == "__main__":
    alone(measure)
