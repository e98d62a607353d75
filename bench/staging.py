"""COPY into a staging table and upserts from there, beside `unnest` upserts, by the number of rows in a transaction."""

from typing import Final

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_columns
from bench.harness.limit import staged_rate, upsert_rate
from bench.harness.run import alone

COMMENTS: Final = 100_000
SIZES: Final = (100, 1_000, 10_000)


def measure(tools: Tools) -> list[Row]:
    """Measures both ways at each size in each round; every transaction is committed."""
    system, columns = tools.system, make_columns(COMMENTS, run=17)
    staged: dict[int, list[float]] = {size: [] for size in SIZES}
    upserts: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(tools.rounds):
        for size in SIZES:
            system.forget()
            staged[size].append(staged_rate(system.dsn, columns, rows=size))
            system.forget()
            upserts[size].append(upsert_rate(system.dsn, columns, rows=size))
            tools.say(f"{size} rows: {staged[size][-1]:,.0f} staged, {upserts[size][-1]:,.0f} by unnest")
    return [
        Row(
            work=f"COPY into a staging table, {size:,} rows a transaction",
            unit="comments/s",
            ours=staged[size],
            beside=upserts[size],
            beside_what="unnest",
        )
        for size in SIZES
    ]


if __name__ == "__main__":
    alone(measure)
