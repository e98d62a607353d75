"""`comment-monitor up` on a data folder that was used before: seconds until `/health` answers."""

import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Final

from tests.support.rabbitmq import free_port

from bench.harness.claim import Row, Tools
from bench.harness.run import alone

POLL: Final = 0.02
PATIENCE: Final = 120.0


def measure(tools: Tools) -> list[Row]:
    """Starts once to create the database, which is not counted, then once per round."""
    seconds = []
    with tempfile.TemporaryDirectory(prefix="bench-up-") as folder:
        Path(folder).chmod(0o755)
        tools.say(f"first start {_start(folder):.1f} s")
        for _ in range(tools.rounds):
            seconds.append(_start(folder))
            tools.say(f"warm start {seconds[-1]:.2f} s")
    return [Row(work="`up`, warm: seconds to /health", unit="s", ours=seconds, floor=5, most=True)]


def _start(folder: str) -> float:
    port, metrics = free_port(), free_port()
    started = time.perf_counter()
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "comment_monitor", "up", "--data-dir", folder),
            *("--port", str(port), "--metrics-port", str(metrics)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    return time.perf_counter() - started
            except OSError:
                if child.poll() is not None or time.perf_counter() - started > PATIENCE:
                    raise
                time.sleep(POLL)
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


if __name__ == "__main__":
    alone(measure)
