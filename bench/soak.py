"""Ten minutes of comments at a steady rate: the memory of an orchestrator and of a worker must stay level.

Runs only if named (`python -m bench --only soak`), because it takes too long for `make bench`.
"""

import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Final

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import alone

MINUTES: Final = 10
RATE: Final = 2_000
SIZE: Final = 25
CONNECTIONS: Final = 16
EVERY: Final = 5.0
UNSHARED: Final = "worker process, without what it shares"


def measure(tools: Tools) -> list[Row]:
    """Sends comments minute by minute and samples the memory; the first two minutes are a warm-up."""
    system = tools.system
    system.forget()
    with system.serving() as (url, orchestrator), system.working() as worker:
        watches = {
            "orchestrator": _Watch(orchestrator.memory),
            "worker process": _Watch(worker.resident),
            # For scale only: it also rises when the process writes to a page that it shared with its parent.
            UNSHARED: _Watch(worker.memory),
        }
        for minute in range(MINUTES):
            bodies = make_bodies(make_columns(RATE * 60, run=300 + minute), SIZE)
            send(url, bodies, connections=CONNECTIONS, rate=RATE / SIZE)
            tools.say(", ".join(f"{name} {watch.samples[-1]:.1f} MiB" for name, watch in watches.items()))
        for watch in watches.values():
            watch.end()
    return [
        Row(
            work=f"memory of the {name}: the last two of {MINUTES} minutes at {RATE:,} comments/s",
            unit="MiB",
            ours=[watch.between(MINUTES - 2, MINUTES - 1), watch.between(MINUTES - 1, MINUTES)],
            beside=[watch.between(2, 3), watch.between(3, 4)],
            beside_what="minutes 3 and 4",
            floor=None if name == UNSHARED else 1.05,
            most=True,
        )
        for name, watch in watches.items()
    ]


class _Watch:
    """Samples the memory of the largest process of a process tree every few seconds."""

    def __init__(self, read: Callable[[], list[float]]):
        self._read = read
        self._ended = threading.Event()
        self._started = time.monotonic()
        self._moments: list[float] = []
        self.samples: list[float] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            self.samples.append(max(self._read()))
            self._moments.append(time.monotonic() - self._started)
            self._ended.wait(EVERY)

    def between(self, begin: int, end: int) -> float:
        """Returns the median between two minutes."""
        return median(
            memory
            for memory, moment in zip(self.samples, self._moments, strict=True)
            if begin * 60 <= moment < end * 60
        )

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


if __name__ == "__main__":
    alone(measure)
