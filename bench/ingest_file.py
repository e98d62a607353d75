"""`comment-monitor ingest` of a file of 1,000,000 lines, beside upserts of 1,000 rows; and the memory it uses."""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

import psutil

from bench.harness.claim import Row, Tools
from bench.harness.comments import SOURCE, Columns, make_columns
from bench.harness.limit import upsert_rate
from bench.harness.run import alone
from bench.harness.system import MIB, System

LINES: Final = 1_000_000
LIMIT_COMMENTS: Final = 100_000
EVERY: Final = 0.5


def measure(tools: Tools) -> list[Row]:
    """Measures the upserts and the whole file alternately."""
    system = tools.system
    columns = make_columns(LIMIT_COMMENTS, run=9)
    rates, upserts, early, late = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "comments.jsonl"
        tools.say("writing the file")
        _write(file, make_columns(LINES, run=10))
        for _ in range(tools.rounds):
            system.forget()
            upserts.append(upsert_rate(system.dsn, columns))
            system.forget()
            seconds, memory = _ingest(system, file)
            if (stored := system.count("SELECT count(*) FROM comments")) != LINES:
                raise RuntimeError(f"{stored} of {LINES} lines are in the database.")
            rates.append(LINES / seconds)
            # The first samples show a program that is still starting.
            early.append(memory[len(memory) // 4])
            late.append(max(memory[len(memory) // 2 :]))
            tools.say(f"{rates[-1]:,.0f} of {upserts[-1]:,.0f} comments/s, {early[-1]:.0f} MiB, later {late[-1]:.0f}")
    return [
        Row(
            work=f"ingest of a file of {LINES:,} lines",
            unit="comments/s",
            ours=rates,
            beside=upserts,
            beside_what="upserts of 1,000 rows",
            floor=0.60,
        ),
        Row(
            work="its memory in the second half, of that after a quarter",
            unit="MiB",
            ours=late,
            beside=early,
            beside_what="after a quarter",
            floor=1.10,
            most=True,
        ),
    ]


def _write(file: Path, columns: Columns) -> None:
    with file.open("w") as out:
        for id_, post, author, text, moment in zip(*columns, strict=True):
            line = {
                "source": SOURCE, "post_id": post, "id": id_, "text": text, "author": author,
                "timestamp": moment.isoformat(),
            }  # fmt: skip
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def _ingest(system: System, file: Path) -> tuple[float, list[float]]:
    """Returns the seconds that the command takes, and its memory in MiB twice a second."""
    memory: list[float] = []
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "comment_monitor", "ingest", str(file)],
        env=system.child_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    ended = threading.Event()

    def watch() -> None:
        process = psutil.Process(child.pid)
        while not ended.wait(EVERY):
            memory.append(process.memory_full_info().uss / MIB)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    _, error = child.communicate()
    seconds = time.perf_counter() - started
    ended.set()
    if child.returncode:
        raise RuntimeError(error.decode()[-500:])
    return seconds, memory


if __name__ == "__main__":
    alone(measure)
