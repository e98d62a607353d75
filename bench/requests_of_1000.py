"""`POST /comments/process` with 1,000 fresh comments per request, beside upserts of 1,000 rows and COPY."""

from typing import Final

from bench.harness.beside import beside_upserts
from bench.harness.claim import Row, Tools
from bench.harness.comments import make_columns
from bench.harness.limit import copy_rate
from bench.harness.run import alone

COMMENTS: Final = 100_000
SIZE: Final = 1_000
CONNECTIONS: Final = 8


def measure(tools: Tools) -> list[Row]:
    """Measures requests and upserts alternately, then COPY, for scale only."""
    columns = make_columns(COMMENTS, run=1)
    ours, upserts = beside_upserts(tools, columns, size=SIZE, connections=CONNECTIONS)
    copies = []
    for _ in range(tools.rounds):
        tools.system.forget()
        copies.append(copy_rate(tools.system.dsn, columns))
    return [
        Row(
            work="1,000 fresh comments a request, 8 connections",
            unit="comments/s",
            ours=ours,
            beside=upserts,
            beside_what="upserts of 1,000 rows",
            floor=0.70,
        ),
        Row(
            work="the limit itself, for scale",
            unit="comments/s",
            ours=upserts,
            beside=copies,
            beside_what="COPY in one transaction",
        ),
    ]


if __name__ == "__main__":
    alone(measure)
