"""uvicorn with httptools beside granian, with the same application: speed and memory at 25 and 1,000 per request.

Needs `pip install granian` in .venv.
"""

import importlib.util
from typing import Final

import click

from bench.harness.beside import beside_program
from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.run import alone

COMMENTS: Final = 100_000
SHAPES: Final = ((25, 64), (1_000, 8))
OURS: Final = ("-m", "comment_monitor")
GRANIAN: Final = ("-m", "bench.harness.under_granian")


def measure(tools: Tools) -> list[Row]:
    """Measures both in each round, each in a process of its own."""
    if importlib.util.find_spec("granian") is None:
        raise click.ClickException("granian is not installed: .venv/bin/pip install granian")
    rows = []
    memory: tuple[list[float], list[float]] = ([], [])
    for size, connections in SHAPES:
        bodies = make_bodies(make_columns(COMMENTS, run=16), size)
        ours, granian = beside_program(
            tools,
            bodies,
            connections=connections,
            programs=(OURS, GRANIAN),
            after=lambda number, process: memory[number].append(sum(process.resident())),
        )
        work = f"uvicorn, {size:,} a request"
        rows.append(Row(work=work, unit="comments/s", ours=ours, beside=granian, beside_what="granian"))
    rows.append(Row(work="uvicorn, after it", unit="MiB", ours=memory[0], beside=memory[1], beside_what="granian"))
    return rows


if __name__ == "__main__":
    alone(measure)
