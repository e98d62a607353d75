"""`comment-monitor status`, read by people and by programs."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from tests.integration.conftest import MakeUp
from tests.support import forked
from tests.support.rabbitmq import free_port
from tests.support.requests import body, comment
from tests.support.up import Up, until


@contextmanager
def traffic(up: Up) -> Iterator[None]:
    """Sends requests until the end of the block: of ten comments five are new, four known, and one invalid."""
    begun, ended = threading.Event(), threading.Event()

    def send() -> None:
        number = 0
        while not ended.is_set():
            new = [
                comment(f"{number}-{number_in_request}", "Where can I buy this lovely thing?")
                for number_in_request in range(5)
            ]
            known = [comment(f"old-{number_in_request}") for number_in_request in range(4)]
            up.post(json=body(*new, *known, comment("")))
            begun.set()
            number += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        assert begun.wait(60)
        yield
    finally:
        ended.set()
        thread.join()


def test_status_reports_the_rates_of_a_running_up(make_up: MakeUp) -> None:
    up = make_up(COMMENT_RATE_LIMIT_PER_MINUTE="0").start().wait_until_up()
    up.post(json=body(*(comment(f"old-{number_in_request}") for number_in_request in range(4))))
    # `up` is ready before its worker.
    until(lambda: all(item["analysis"] for item in up.get("/comments").json()["items"]))
    with traffic(up):
        done = up.command("status", "--json", "--interval", "3")
        shown = up.command("status", "--interval", "1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rates = found["a_second"]
    assert found["health"] == "ok"
    assert found["checks"]["database"] == "ok"
    assert rates["stored"] > 0
    assert rates["duplicates"] == pytest.approx(rates["stored"] * 4 / 5, rel=0.3)
    assert rates["analysed"] > 0
    assert found["cache_hit_rate"] == pytest.approx(4 / 9, abs=0.15)
    assert 0 < found["batch_seconds"][0] <= found["batch_seconds"][1] <= found["batch_seconds"][2]
    assert found["analysis_seconds"]
    assert found["slowest_statement"][1] > 0
    assert found["errors"]["invalid-comment"]["a_second"] > 0
    assert found["errors"]["invalid-comment"]["since_start"] > 0
    assert abs(datetime.fromisoformat(found["time"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert found["since_start"]["stored"] > 4
    assert found["metrics_of"]["both_in_one"] == 1
    # The queue is reported once, as a number; counts are integers.
    assert "queue" not in found["checks"]
    assert {type(found[name]) for name in ("queue", "backlog", "memory_bytes")} <= {int, type(None)}
    assert shown.returncode == 0
    for words in ("ok", up.url, "stored", "not yet analysed", "p95", "invalid-comment", "cache hits", "oldest waiting"):
        assert words in shown.stdout


def test_an_idle_worker_of_up_is_reported(make_up: MakeUp) -> None:
    up = make_up().start().wait_until_up()
    found = json.loads(up.command("status", "--json", "--interval", "0.2").stdout)
    assert (found["a_second"]["analysed"], found["since_start"]["analysed"]) == (0, 0)
    assert "no worker's metrics" not in up.command("status", "--interval", "0.2").stdout


def watch(*arguments: str) -> "subprocess.Popen[str]":
    """Starts `status --watch` with a pipe as output, as for `| head`, without PYTHONUNBUFFERED."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        [sys.executable, "-m", "comment_monitor", "status", "--watch", "--interval", "0.2", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment | {"COLUMNS": "80"},
    )  # fmt: skip


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_watch_writes_each_report_at_once_and_ends_when_its_pipe_closes(make_up: MakeUp, form: tuple[str, ...]) -> None:
    up = make_up().start().wait_until_up()
    watching = watch("--data-dir", str(up.data_dir), *form)
    output, complaints = watching.stdout, watching.stderr
    assert output
    assert complaints
    try:
        for _ in range(3):
            until(lambda: "ok" in output.readline())
        assert watching.poll() is None
        output.close()
        assert watching.wait(60) == 0
        assert complaints.read() == ""
    finally:
        watching.kill()
        watching.wait()
        complaints.close()


def test_the_report_fits_on_a_terminal_of_24_rows_and_80_columns(make_up: MakeUp) -> None:
    up = make_up(COMMENT_RATE_LIMIT_PER_MINUTE="0").start().wait_until_up()
    with traffic(up):
        shown = up.command("status", "--interval", "1").stdout
    lines = shown.rstrip().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    # A terminal of 15 rows shows the errors too.
    assert "invalid-comment" in "\n".join(lines[:12])


def test_watch_reports_since_when_the_service_is_unavailable() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    reports = watch("--json", "--url", address)
    shown = watch("--url", address)
    assert reports.stdout
    assert shown.stdout
    try:
        first, second = (json.loads(reports.stdout.readline()) for _ in range(2))
        assert address in first["error"]
        assert first["since"] == second["since"] == first["time"] < second["time"]
        text = shown.stdout.readline() + shown.stdout.readline() + shown.stdout.readline()
        assert re.search(r"\d\d:\d\d:\d\d .*; no valid response since \d\d:\d\d:\d\d", text)
    finally:
        for process in (reports, shown):
            process.kill()
            process.communicate()


def test_watch_continues_over_a_restart_until_ctrl_c(make_up: MakeUp) -> None:
    up = make_up().start().wait_until_up()
    watching = subprocess.Popen(
        [sys.executable, "-u", "-m", "comment_monitor", "status", "--watch", "--json", "--interval", "0.2",
         "--url", up.url, "--metrics-url", f"http://127.0.0.1:{up.metrics_port}/metrics"],
        stdout=subprocess.PIPE, text=True, env={**os.environ},
    )  # fmt: skip
    output = watching.stdout
    assert output

    def until_reported(word: str) -> None:
        until(lambda: word in json.loads(output.readline()))

    try:
        until_reported("health")
        up.ctrl_c()
        up.process.wait()
        until_reported("error")
        again = up.start().wait_until_up()
        until_reported("health")
        watching.send_signal(signal.SIGINT)
        output.read()
        assert watching.wait(60) == 0
        again.ctrl_c()
    finally:
        watching.kill()
        watching.communicate()


def status(*arguments: str) -> tuple[int, str, str]:
    done = forked.run(
        [sys.executable, "-m", "comment_monitor", "status", "--interval", "0.2", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_an_unavailable_service_is_an_error_with_a_hint() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    code, out, error = status("--url", address)
    assert (code, out) == (1, "")
    assert error == (
        f"Error: Nothing answers at {address}/health ([Errno 111] Connection refused). "
        "Is the service running? `make up` starts it.\n"
    )


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999", "http://", "nonsense://x"])
def test_an_invalid_url_is_a_one_line_error(address: str) -> None:
    code, out, error = status("--url", address)
    assert (code, out) == (1, "")
    assert error.startswith("Error: ")
    assert error.count("\n") == 1


class SomethingElse(BaseHTTPRequestHandler):
    """A server that is not the service, except at `/well/health`."""

    answers: ClassVar = {
        "/metrics": b"<html>Hello</html>",
        "/others": b"# TYPE celery_task_sent_total counter\ncelery_task_sent_total 1\n",
        "/well/health": b'{"status": "ok", "checks": {}}',
    }

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answers.get(self.path, b"[]"))

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@pytest.fixture
def other_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), SomethingElse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_is_not_the_service_is_an_error(other_server: str) -> None:
    code, _, error = status("--url", other_server)
    assert code == 1
    assert (
        error == f"Error: {other_server}/health answers, but is not this service: pass the service's URL with --url.\n"
    )
    gone = f"http://127.0.0.1:{free_port()}/metrics"
    code, _, error = status("--url", f"{other_server}/well", "--metrics-url", gone)
    assert code == 1
    assert error == (
        f"Error: Nothing answers at {gone} ([Errno 111] Connection refused): "
        "pass the URL of the metrics with --metrics-url.\n"
    )


@pytest.mark.parametrize("path", ["metrics", "others", "nothing"])
def test_metrics_of_another_program_are_an_error(other_server: str, path: str) -> None:
    code, _, error = status("--url", f"{other_server}/well", "--metrics-url", f"{other_server}/{path}")
    assert code == 1
    assert error == (
        f"Error: {other_server}/{path} answers, but without metrics of comment-monitor: "
        "pass the URL of the metrics with --metrics-url.\n"
    )
