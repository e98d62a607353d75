"""`POST /comments/process` with 25 fresh comments per request over 64 connections, beside upserts of 1,000 rows."""

from typing import Final

from bench.harness.beside import beside_upserts
from bench.harness.claim import Row, Tools
from bench.harness.comments import make_columns
from bench.harness.run import alone

COMMENTS: Final = 100_000
SIZE: Final = 25
CONNECTIONS: Final = 64


def measure(tools: Tools) -> list[Row]:
    """Measures requests and upserts alternately."""
    columns = make_columns(COMMENTS, run=3)
    ours, upserts = beside_upserts(tools, columns, size=SIZE, connections=CONNECTIONS)
    return [
        Row(
            work="25 fresh comments a request, 64 connections",
            unit="comments/s",
            ours=ours,
            beside=upserts,
            beside_what="upserts of 1,000 rows",
            floor=0.50,
        )
    ]


if __name__ == "__main__":
    alone(measure)
