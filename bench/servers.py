"""uvicorn with httptools beside granian, below the same application: speed and memory at 25 a request.

Needs `pip install granian` in .venv.
"""

import importlib.util
from typing import Final

import click

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import alone

COMMENTS: Final = 100_000
SHAPES: Final = ((25, 64), (1_000, 8))
OURS: Final = ("-m", "comment_monitor")
GRANIAN: Final = ("-m", "bench.harness.under_granian")


def measure(tools: Tools) -> list[Row]:
    """A round goes through both, each in a process of its own."""
    if importlib.util.find_spec("granian") is None:
        raise click.ClickException("granian is not installed: .venv/bin/pip install granian")
    rows = []
    memory: dict[tuple[str, ...], list[float]] = {OURS: [], GRANIAN: []}
    for size, connections in SHAPES:
        bodies = make_bodies(make_columns(COMMENTS, run=16), size)
        rates: dict[tuple[str, ...], list[float]] = {OURS: [], GRANIAN: []}
        for _ in range(tools.rounds):
            for program in (OURS, GRANIAN):
                tools.system.forget()
                with tools.system.serving(program=program) as (url, process):
                    rates[program].append(send(url, bodies, connections=connections).rate)
                    memory[program].append(sum(process.resident()))
            tools.say(f"{size} a request: {rates[OURS][-1]:,.0f} on uvicorn, {rates[GRANIAN][-1]:,.0f} on granian")
        rows.append(
            Row(
                work=f"uvicorn, {size:,} a request",
                unit="comments/s",
                ours=rates[OURS],
                beside=rates[GRANIAN],
                beside_what="granian",
            )
        )
    rows.append(
        Row(work="uvicorn, after it", unit="MiB", ours=memory[OURS], beside=memory[GRANIAN], beside_what="granian")
    )
    return rows


if __name__ == "__main__":
    alone(measure)
