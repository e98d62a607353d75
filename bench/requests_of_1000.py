"""`POST /comments/process` with 1,000 fresh comments a request, beside upserts of 1,000 rows and COPY."""

from typing import Final

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.limit import copy_rate, upsert_rate
from bench.harness.load import send
from bench.harness.run import alone

COMMENTS: Final = 100_000
SIZE: Final = 1_000
CONNECTIONS: Final = 8


def measure(tools: Tools) -> list[Row]:
    """Rounds of ours, the limit and COPY in turn, each on empty tables."""
    columns = make_columns(COMMENTS, run=1)
    bodies = make_bodies(columns, SIZE)
    ours, upserts, copies = [], [], []
    system = tools.system
    with system.serving() as (url, _):
        send(url, make_bodies(make_columns(2_000, run=2), SIZE), connections=CONNECTIONS)
        for _ in range(tools.rounds):
            system.forget()
            upserts.append(upsert_rate(system.dsn, columns))
            system.forget()
            copies.append(copy_rate(system.dsn, columns))
            system.forget()
            ours.append(send(url, bodies, connections=CONNECTIONS).rate)
            tools.say(f"{ours[-1]:,.0f} of {upserts[-1]:,.0f} comments/s")
    return [
        Row(
            work="1,000 fresh comments a request, 8 connections",
            unit="comments/s",
            ours=ours,
            beside=upserts,
            beside_what="upserts of 1,000 rows",
            floor=0.60,
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
