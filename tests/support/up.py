"""`comment-monitor up` as a user runs it: started as a program, stopped by a signal."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from tests.conftest import LONGEST_PAUSE, SHORTEST_PAUSE
from tests.support import forked, http
from tests.support.rabbitmq import free_port

SERVERS: Final = ("POSTGRES_DSN", "REDIS_URL", "CELERY_BROKER_URL", "RABBITMQ_URL", "PROMETHEUS_MULTIPROC_DIR")
# The output once the system is up, to the end of the last line.
IS_UP: Final = re.compile(r" is up.*\nData: .*\n", re.DOTALL)
# Seconds that a busy machine may need for a response, and to end killed processes.
PATIENCE: Final = 120
MOMENT: Final = 5


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline, pause = time.monotonic() + seconds, SHORTEST_PAUSE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(pause)
        pause = min(1.3 * pause, LONGEST_PAUSE)


class Up:
    """A start of `up` on a data folder, with its output in a file."""

    def __init__(self, data_dir: Path, **environment: str):
        self.data_dir = data_dir
        self.port, self.metrics_port = free_port(), free_port()
        self._environment = {name: value for name, value in os.environ.items() if name not in SERVERS} | environment
        self._log = data_dir.parent / f"up-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process
        return self._process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "Up":
        with self._log.open("wb") as log:
            # A new session, so that a signal to its process group equals Ctrl-C in a terminal.
            command = [*self._program("up"), "--port", str(self.port), "--metrics-port", str(self.metrics_port)]
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def command(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Runs another command on the same data folder, without settings."""
        return forked.run(
            [*self._program(name), *arguments], env=self._environment, capture_output=True, text=True, check=False
        )

    def beside(self, name: str, *arguments: str, given: str) -> "subprocess.Popen[str]":
        """Starts another command with input on its standard input, which stays open."""
        process = forked.Popen(
            [*self._program(name), *arguments],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdin
        process.stdin.write(given)
        process.stdin.flush()
        return process

    def _program(self, name: str) -> list[str]:
        return [sys.executable, "-m", "comment_monitor", name, "--data-dir", str(self.data_dir)]

    def wait_until_up(self) -> "Up":
        until(lambda: IS_UP.search(self.output()) or self.process.poll() is not None)
        assert self.process.poll() is None, self.output()
        return self

    def wait_until_well(self) -> "Up":
        """Waits until `/health` is ok: then the broker is connected, and rows are published without the sweep."""
        until(lambda: self.get("/health").json()["status"] == "ok")
        return self

    def get(self, path: str, **more: Any) -> httpx.Response:
        return http.get(f"{self.url}{path}", timeout=PATIENCE, **more)

    def post(self, **more: Any) -> httpx.Response:
        """Sends a request to process comments."""
        return http.post(f"{self.url}/comments/process", timeout=PATIENCE, **more)

    def ctrl_c(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def output(self) -> str:
        return self._log.read_text()

    def entries(self, event: str) -> list[dict[str, Any]]:
        """Returns the complete log lines of this event, from `up` and the processes that it started."""
        whole, _, _ = self.output().rpartition("\n")
        lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def errors(self) -> list[str]:
        """Waits for exit code 1; returns the error lines, without the log of started processes."""
        assert self.process.wait() == 1, self.output()
        lines = self.output().splitlines()
        assert not [line for line in lines if line.startswith("Traceback")]
        return [line for line in lines if line.startswith("Error:")]

    def family(self) -> list[psutil.Process]:
        """Returns every process that uses the data folder."""
        return [process for process in psutil.process_iter() if _works_in(process, str(self.data_dir))]

    def is_gone(self) -> bool:
        """Whether no process uses the data folder; a process killed at the end may need some time."""
        deadline = time.monotonic() + MOMENT
        while self.family():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def child(self, words: str) -> psutil.Process:
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if words in " ".join(child.cmdline()))

    def end(self) -> None:
        """Kills all processes of the data folder."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        until(self._nothing_is_left)

    def _nothing_is_left(self) -> bool:
        """Kills the processes found; called repeatedly, because others may be starting and killed ones end later."""
        family = self.family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return not family


def _works_in(process: psutil.Process, data_dir: str) -> bool:
    try:
        seen = [process.cwd(), *process.cmdline(), *process.environ().values()]
    except psutil.Error:
        return False
    return any(data_dir in value for value in seen)
