"""uvloop beside asyncio's own event loop in the serving process, at 25 and 1,000 comments per request."""

from typing import Final

from bench.harness.beside import beside_program
from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.run import alone

COMMENTS: Final = 100_000
SHAPES: Final = ((25, 64), (1_000, 8))
OURS: Final = ("-m", "comment_monitor")
# The same program with asyncio's loop in uvloop's place.
PLAIN: Final = ("-c", "import asyncio, uvloop; uvloop.run = asyncio.run; from comment_monitor.cli import main; main()")


def measure(tools: Tools) -> list[Row]:
    """Measures both in each round, each in a process of its own."""
    rows = []
    for size, connections in SHAPES:
        bodies = make_bodies(make_columns(COMMENTS, run=16), size)
        ours, plain = beside_program(tools, bodies, connections=connections, programs=(OURS, PLAIN))
        rows.append(
            Row(
                work=f"uvloop, {size:,} a request",
                unit="comments/s",
                ours=ours,
                beside=plain,
                beside_what="asyncio's own loop",
            )
        )
    return rows


if __name__ == "__main__":
    alone(measure)
