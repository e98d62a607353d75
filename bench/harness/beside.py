"""Rounds of requests and of the limit in turn, each on empty tables."""

from typing import Final

from bench.harness.claim import Tools
from bench.harness.comments import Columns, make_bodies, make_columns
from bench.harness.limit import upsert_rate
from bench.harness.load import send

WARMING: Final = 2_000


def beside_upserts(tools: Tools, columns: Columns, *, size: int, connections: int) -> tuple[list[float], list[float]]:
    """Comments a second of ours and of upserts of 1,000 rows, a round each; `size` comments a request."""
    bodies = make_bodies(columns, size)
    ours, upserts = [], []
    system = tools.system
    with system.serving() as (url, _):
        send(url, make_bodies(make_columns(WARMING, run=2), size), connections=connections)
        for _ in range(tools.rounds):
            system.forget()
            upserts.append(upsert_rate(system.dsn, columns))
            system.forget()
            ours.append(send(url, bodies, connections=connections).rate)
            tools.say(f"{ours[-1]:,.0f} of {upserts[-1]:,.0f} comments/s")
    return ours, upserts
