"""A Prometheus for the tests, which scrapes given targets and answers queries."""

import json
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from tests.support.rabbitmq import free_port

START_TIMEOUT: Final = 60.0
TIMEOUT: Final = 10.0
# A proxy from the environment cannot reach the loopback of this machine.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Target(NamedTuple):
    """The target of a scrape job, with the labels that a cluster would add."""

    port: int
    labels: Mapping[str, str]
    path: str = "/metrics"
    families: tuple[str, ...] = ()


class Series(NamedTuple):
    """A series of a response: its labels, and (time, value) of each sample."""

    labels: Mapping[str, str]
    samples: tuple[tuple[float, float], ...]


class Prometheus:
    """A server on loopback with its own folder."""

    def __init__(self, program: str, folder: Path, jobs: Mapping[str, Target], *, scrape: float):
        self._program = program
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        # An alert that always fires, to check the exported form of alerts.
        alert = {"alert": "CommentTest", "expr": "vector(1)", "labels": {"severity": "none", "namespace": "production"}}
        (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "test", "rules": [alert]}]}))
        (folder / "prometheus.yml").write_text(yaml.safe_dump(_configuration(jobs, scrape)))

    def start(self) -> None:
        """Starts the server and waits until it is ready."""
        options = ["--config.file", f"{self._folder}/prometheus.yml", "--storage.tsdb.path", f"{self._folder}/data"]
        options += ["--web.listen-address", f"127.0.0.1:{self._port}", "--log.level", "warn"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([self._program, *options], stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError), _open(f"http://127.0.0.1:{self._port}/-/ready", timeout=TIMEOUT):
                return
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"Prometheus did not start: {(self._folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """Stops the server."""
        if self._process:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)
            self._process = None

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[Series]:
        """Runs a range query, as a time series panel does."""
        found = self._ask("query_range", query=expression, start=start, end=end, step=step)
        return [Series(result["metric"], _samples(result["values"])) for result in found["result"]]

    def query(self, expression: str, at: float) -> list[Series]:
        """Runs an instant query."""
        found = self._ask("query", query=expression, time=at)
        return [Series(result["metric"], _samples([result["value"]])) for result in found["result"]]

    def _ask(self, kind: str, **parameters: object) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._port}/api/v1/{kind}?{urllib.parse.urlencode(parameters)}"
        try:
            with _open(url, timeout=TIMEOUT) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters['query']}: {json.load(error)['error']}") from None
        assert answer["status"] == "success"
        data: dict[str, Any] = answer["data"]
        return data


def _samples(values: Sequence[Sequence[Any]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(moment), float(value)) for moment, value in values)


def _configuration(jobs: Mapping[str, Target], scrape: float) -> dict[str, Any]:
    interval = f"{scrape:.0f}s"
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {
                "job_name": name,
                "metrics_path": target.path,
                "params": {"family": list(target.families)} if target.families else {},
                "static_configs": [{"targets": [f"127.0.0.1:{target.port}"], "labels": dict(target.labels)}],
            }
            for name, target in jobs.items()
        ],
    }
