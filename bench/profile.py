"""Where the serving process and a worker process spend their time: samples of their stacks (py-spy).

Only the thread that holds the interpreter's lock is sampled: a thread that waits for work or for a socket uses no time.
"""

import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final, Self

import psutil

from bench.harness.claim import SHARE, Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import alone
from bench.harness.system import System

COMMENTS: Final = 300_000
ANALYSED: Final = 100_000
SHAPES: Final = ((25, 64), (1_000, 8))
PER_SECOND: Final = 250
PY_SPY: Final = Path(sys.executable).with_name("py-spy")
# The innermost frame whose file begins with a key decides the part of a sample; without such a frame, it is the event
# loop.
PARTS: Final = {
    "comment_monitor/analysis/findings/language": "language",
    "comment_monitor/analysis/findings/ngrams": "language",
    "py3langid/": "language",
    "comment_monitor/analysis/findings/sentiment": "sentiment",
    "comment_monitor/analysis/findings/vader": "sentiment",
    "vaderSentiment/": "sentiment",
    "comment_monitor/analysis/findings/labels": "rules",
    "comment_monitor/analysis/findings/repetition": "repetition",
    "comment_monitor/intake/request_parser": "parsing and checking",
    "comment_monitor/intake/comment_decoder": "parsing and checking",
    "comment_monitor/web/": "HTTP and framework",
    "comment_monitor/intake/dedup_cache": "Redis",
    "comment_monitor/": "the pipeline",
    "asyncpg/": "PostgreSQL's protocol",
    "redis/": "Redis",
    "celery/": "Celery and AMQP",
    "kombu/": "Celery and AMQP",
    "amqp/": "Celery and AMQP",
    "billiard/": "Celery and AMQP",
    "uvicorn/": "HTTP and framework",
    "litestar/": "HTTP and framework",
}
LOOP: Final = "the event loop"
Shares = dict[str, float]


def measure(tools: Tools) -> list[Row]:
    """Samples storing at two sizes of request, then a worker whose comments all wait already."""
    rows = []
    for size, connections in SHAPES:
        rows += _rows(f"serving {size:,} a request", _serving(tools.system, size, connections))
        tools.say(", ".join(f"{row.work} {row.ours[0]:.0f} %" for row in rows[-3:]))
    return rows + _rows("analysing", _analysing(tools.system))


def _rows(work: str, shares: Shares) -> list[Row]:
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return [Row(work=f"profile, {work}: {part}", unit=SHARE, ours=[share]) for part, share in ordered]


def _serving(system: System, size: int, connections: int) -> Shares:
    bodies = make_bodies(make_columns(COMMENTS, run=21), size)
    system.forget()
    with system.serving() as (url, process):
        send(url, bodies[: len(bodies) // 20], connections=connections)
        with _Sampler(process.pid) as sampler:
            send(url, bodies[len(bodies) // 20 :], connections=connections)
    return sampler.shares


def _analysing(system: System) -> Shares:
    system.forget()
    with system.serving() as (url, _):
        send(url, make_bodies(make_columns(ANALYSED, run=22), 25), connections=16)
        with system.working() as worker:
            while not system.count("SELECT count(*) FROM comment_analyses"):
                time.sleep(0.05)
            [child] = psutil.Process(worker.pid).children()
            with _Sampler(child.pid) as sampler:
                while system.count("SELECT count(*) FROM analysis_outbox"):
                    time.sleep(0.2)
    return sampler.shares


class _Sampler:
    """Samples a process's stacks until the end of its block. `shares`: percent of the samples by part."""

    shares: Shares

    def __init__(self, pid: int):
        self._folder = tempfile.TemporaryDirectory()
        self._stacks = Path(self._folder.name) / "stacks"
        self._child = subprocess.Popen(
            [str(PY_SPY), "record", "--pid", str(pid), "--rate", str(PER_SECOND), "--format", "raw", "--function",
             "--gil", "--duration", "unlimited", "--output", str(self._stacks)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._child.send_signal(signal.SIGINT)
        output, _ = self._child.communicate(timeout=60)
        if not self._stacks.exists():
            raise RuntimeError(f"py-spy: {output.decode(errors='replace')}")
        found: Counter[str] = Counter()
        for line in self._stacks.read_text().splitlines():
            stack, _, samples = line.rpartition(" ")
            found[_part(stack)] += int(samples)
        self._folder.cleanup()
        self.shares = {part: samples / found.total() * 100 for part, samples in found.items()}


def _part(stack: str) -> str:
    """Returns the part of a stack, whose frames are "name (file:line)", the outermost first."""
    for frame in reversed(stack.split(";")):
        file = frame.rpartition("(")[2]
        for begin, part in PARTS.items():
            if file.startswith(begin):
                return part
    return LOOP


if __name__ == "__main__":
    alone(measure)
