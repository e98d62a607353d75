"""The same requests again: the rate of duplicates, all of which Redis knows, beside the rate of the fresh comments."""

from typing import Final

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import alone

COMMENTS: Final = 100_000
CASES: Final = ((1_000, 8), (25, 64))


def measure(tools: Tools) -> list[Row]:
    """Sends the requests of each size fresh, and again."""
    columns = make_columns(COMMENTS, run=5)
    rows = []
    system = tools.system
    with system.serving() as (url, _):
        for size, connections in CASES:
            bodies = make_bodies(columns, size)
            fresh, again = [], []
            for _ in range(tools.rounds):
                system.forget()
                fresh.append(send(url, bodies, connections=connections).rate)
                outcome = send(url, bodies, connections=connections)
                if outcome.stored:
                    raise RuntimeError(f"{outcome.stored} duplicates were stored.")
                again.append(outcome.rate)
                tools.say(f"{size} a request: {again[-1]:,.0f} after {fresh[-1]:,.0f} comments/s")
            rows.append(
                Row(
                    work=f"the same requests again, {size:,} a request",
                    unit="comments/s",
                    ours=again,
                    beside=fresh,
                    beside_what="fresh",
                    floor=2.0,
                )
            )
    return rows


if __name__ == "__main__":
    alone(measure)
