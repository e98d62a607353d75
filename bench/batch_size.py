"""COMMENT_BATCH_SIZE 5, 10 and 25: the rate of storing, and of storing and analysing."""

import time
from typing import Final

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import alone

SIZES: Final = (5, 10, 25)
COMMENTS: Final = 50_000
ANALYSED: Final = 30_000
SIZE: Final = 25


def measure(tools: Tools) -> list[Row]:
    """Measures all three sizes in each round."""
    system = tools.system
    bodies = make_bodies(make_columns(COMMENTS, run=11), SIZE)
    stored: dict[int, list[float]] = {size: [] for size in SIZES}
    analysed: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(max(1, tools.rounds // 2)):
        for size in SIZES:
            system.forget()
            with system.serving(COMMENT_BATCH_SIZE=str(size)) as (url, _):
                send(url, bodies[:40], connections=16)
                stored[size].append(send(url, bodies[40:], connections=64).rate)
                system.forget()
                with system.working(COMMENT_BATCH_SIZE=str(size)):
                    send(url, bodies[:40], connections=16)
                    while system.count("SELECT count(*) FROM analysis_outbox"):
                        time.sleep(0.05)
                    started = time.perf_counter()
                    send(url, bodies[40 : 40 + ANALYSED // SIZE], connections=16)
                    while system.count("SELECT count(*) FROM analysis_outbox"):
                        time.sleep(0.05)
                    analysed[size].append(ANALYSED / (time.perf_counter() - started))
            tools.say(f"{size}: {stored[size][-1]:,.0f} stored, {analysed[size][-1]:,.0f} analysed a second")
    return [
        Row(work=f"batches of {size}: {step}", unit="comments/s", ours=rates[size])
        for step, rates in (("stored", stored), ("stored and analysed", analysed))
        for size in SIZES
    ]


if __name__ == "__main__":
    alone(measure)
