"""`POST /comments/process` with 25 fresh comments a request over 64 connections, beside upserts of 1,000 rows."""

from typing import Final

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.limit import upsert_rate
from bench.harness.load import send
from bench.harness.run import alone

COMMENTS: Final = 100_000
SIZE: Final = 25
CONNECTIONS: Final = 64


def measure(tools: Tools) -> list[Row]:
    """Rounds of ours and the limit in turn, each on empty tables."""
    columns = make_columns(COMMENTS, run=3)
    bodies = make_bodies(columns, SIZE)
    ours, upserts = [], []
    system = tools.system
    with system.serving() as (url, _):
        send(url, make_bodies(make_columns(2_000, run=4), SIZE), connections=CONNECTIONS)
        for _ in range(tools.rounds):
            system.forget()
            upserts.append(upsert_rate(system.dsn, columns))
            system.forget()
            ours.append(send(url, bodies, connections=CONNECTIONS).rate)
            tools.say(f"{ours[-1]:,.0f} of {upserts[-1]:,.0f} comments/s")
    return [
        Row(
            work="25 fresh comments a request, 64 connections",
            unit="comments/s",
            ours=ours,
            beside=upserts,
            beside_what="upserts of 1,000 rows",
            floor=0.40,
        )
    ]


if __name__ == "__main__":
    alone(measure)
