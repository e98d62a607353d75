"""Memory of an orchestrator and of a worker process after 1,000,000 comments."""

import time
from typing import Final

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import alone

COMMENTS: Final = 1_000_000
PART: Final = 100_000
SIZE: Final = 25
CONNECTIONS: Final = 16


def measure(tools: Tools) -> list[Row]:
    """Sent in parts, so that the sender's own memory stays small; measured when all are analysed."""
    system = tools.system
    system.forget()
    with system.serving() as (url, orchestrator), system.working() as worker:
        first = max(orchestrator.memory())
        for number in range(COMMENTS // PART):
            send(url, make_bodies(make_columns(PART, run=200 + number), SIZE), connections=CONNECTIONS)
            tools.say(f"{(number + 1) * PART:,} stored, {max(orchestrator.memory()):.0f} MiB")
        while left := system.count("SELECT count(*) FROM analysis_outbox"):
            tools.say(f"{left:,} batches are yet to be analysed, {max(worker.memory()):.0f} MiB")
            time.sleep(10)
        serving, working = max(orchestrator.memory()), max(worker.resident())
    tools.say(f"orchestrator {first:.0f} and then {serving:.0f} MiB, worker process {working:.0f} MiB")
    after = f"after {COMMENTS:,} comments"
    return [
        Row(work=f"memory of the orchestrator {after}", unit="MiB", ours=[serving], floor=150, most=True),
        Row(work=f"memory of a worker process {after}", unit="MiB", ours=[working], floor=250, most=True),
    ]


if __name__ == "__main__":
    alone(measure)
