"""`comment-monitor status` as a person and as a program use it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from tests.integration.conftest import MakeUp
from tests.support.rabbitmq import free_port
from tests.support.requests import body, comment
from tests.support.up import Up, until


@contextmanager
def traffic(up: Up) -> Iterator[None]:
    """Requests until the end of the block: of ten comments five are new, and one can't be taken."""
    ended = threading.Event()

    def send() -> None:
        number = 0
        while not ended.is_set():
            new = [comment(f"{number}-{one}", "Where can I buy this lovely thing?") for one in range(5)]
            known = [comment(f"old-{one}") for one in range(4)]
            httpx.post(f"{up.url}/comments/process", json=body(*new, *known, comment("")))
            number += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_beside_a_running_up_it_tells_what_goes_on(make_up: MakeUp) -> None:
    up = make_up(COMMENT_RATE_LIMIT_PER_MINUTE="0").start().wait_until_up()
    httpx.post(f"{up.url}/comments/process", json=body(*(comment(f"old-{one}") for one in range(4))))
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
    assert shown.returncode == 0
    for words in ("ok", up.url, "stored", "not yet analysed", "p95", "invalid-comment", "Redis knew"):
        assert words in shown.stdout


def test_it_watches_through_a_restart_until_ctrl_c(make_up: MakeUp) -> None:
    up = make_up().start().wait_until_up()
    watching = subprocess.Popen(
        [sys.executable, "-u", "-m", "comment_monitor", "status", "--watch", "--json", "--interval", "0.2",
         "--url", up.url, "--metrics-url", f"http://127.0.0.1:{up.metrics_port}/metrics"],
        stdout=subprocess.PIPE, text=True, env={**os.environ},
    )  # fmt: skip
    output = watching.stdout
    assert output

    def until_it_says(word: str) -> None:
        until(lambda: word in json.loads(output.readline()))

    try:
        until_it_says("health")
        up.ctrl_c()
        up.process.wait()
        until_it_says("error")
        again = up.start().wait_until_up()
        until_it_says("health")
        watching.send_signal(signal.SIGINT)
        output.read()
        assert watching.wait(10) == 0
        again.ctrl_c()
    finally:
        watching.kill()
        watching.communicate()


def status(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "comment_monitor", "status", "--interval", "0.2", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_where_nothing_answers_it_says_what_to_do() -> None:
    port = free_port()
    code, out, error = status("--metrics-url", f"http://127.0.0.1:{port}/metrics")
    assert (code, out) == (1, "")
    assert error == (
        f"Error: Nothing answers at http://127.0.0.1:{port}/metrics ([Errno 111] Connection refused). "
        "Is the service running? `make up` starts it.\n"
    )


class SomethingElse(BaseHTTPRequestHandler):
    """A server that is not ours."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Hello</html>" if "metrics" in self.path else b"[]")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def other_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), SomethingElse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_is_not_the_service_is_told(other_server: str) -> None:
    code, _, error = status("--metrics-url", f"{other_server}/metrics")
    assert code == 1
    assert error == (
        f"Error: {other_server}/metrics answers, but with no metrics: name their address with --metrics-url.\n"
    )
