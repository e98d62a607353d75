"""`comment-monitor load-test` against a stub service that follows the contract, or violates it on request."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from tests.support import forked

from comment_monitor.cli.load_test import load_test

COMMAND = [sys.executable, "-m", "comment_monitor", "load-test"]
Answer = Callable[[int], web.Response | None]


class Service:
    """A stub of the service in a thread; `refuse` may replace the response to request number n, from 1."""

    def __init__(self) -> None:
        self.texts: dict[tuple[str, str], str] = {}
        self.refuse: Answer = lambda _: None
        self.delay = 0.0
        self.loses: frozenset[int] = frozenset()
        self.miscounts = False
        self.breaks = False
        self.requests = 0
        self.keys: set[str | None] = set()
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Event()
        self.url = ""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_get("/health", self._health)
        app.router.add_post("/comments/process", self._process)
        runner = web.AppRunner(app, shutdown_timeout=1)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "checks": {}})

    async def _process(self, request: web.Request) -> web.Response:
        self.requests += 1
        number = self.requests
        self.keys.add(request.headers.get("X-API-Key"))
        body = await request.json()
        self.arrived.set()
        if not self.open.is_set():
            await asyncio.to_thread(self.open.wait)
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.breaks and request.transport:
            request.transport.abort()
        return self.refuse(number) or self._answer(body)

    def _answer(self, body: dict[str, Any]) -> web.Response:
        outcomes: Counter[str] = Counter()
        for comment in body["comments"]:
            key = (body.get("source", "threads"), comment["id"])
            known = self.texts.get(key)
            outcomes["stored" if known is None else "duplicates" if known == comment["text"] else "updated"] += 1
            self.texts[key] = comment["text"]
            if len(self.texts) in self.loses:
                del self.texts[key]
        queued = outcomes["stored"] + outcomes["updated"] - self.miscounts
        counts = {kind: outcomes[kind] for kind in ("stored", "updated", "duplicates")}
        received = len(body["comments"])
        return web.json_response(
            {"post_id": body["post_id"], "received": received, **counts, "queued": queued, "rejected": []}
        )


def refusal(status: int, slug: str, **headers: str) -> web.Response:
    document = {"type": f"urn:comment-monitor:problem:{slug}", "title": slug, "status": status}
    return web.json_response(document, status=status, headers=headers, content_type="application/problem+json")


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running_service:
        yield running_service


def run(service: Service, *options: object) -> Result:
    """Runs the command with small numbers; later options override earlier ones."""
    words = [service.url, "--comments", "500", "--batch", "10", "--concurrency", "8", *options]
    return CliRunner().invoke(load_test, [str(word) for word in words])


def numbers(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_service_that_follows_the_contract_passes(service: Service) -> None:
    """The counts are as expected, with repeats and edits over many connections."""
    result = run(service, "--comments", "3000", "--duplicates", "0.2", "--edits", "0.2", "--json")
    found = numbers(result)

    assert result.exit_code == 0, result.output
    assert found["comments"] == 3000
    assert found["requests"] == service.requests == 300
    assert {kind: found[kind] for kind in found["expected"]} == found["expected"]
    assert found["stored"] == len(service.texts)
    assert found["updated"] > 0
    assert found["duplicates"] > 0
    assert found["errors"] == {}
    assert found["failed"] == []


def test_the_report_is_readable_text_without_json(service: Service) -> None:
    """Standard output holds the report and nothing else."""
    result = run(service)

    assert result.exit_code == 0
    assert result.stdout.startswith("500 comments in 50 requests")
    for word in ("throughput", "p95", "500 stored", "errors"):
        assert word in result.stdout


def test_runs_do_not_collide_unless_they_share_a_run_id(service: Service) -> None:
    """With the same run id the second run finds only duplicates, which it reports as a failure."""
    assert run(service).exit_code == 0
    assert run(service).exit_code == 0
    assert len(service.texts) == 1000

    assert run(service, "--run-id", "same").exit_code == 0
    again = run(service, "--run-id", "same")
    assert again.exit_code == 1
    assert "got 0 stored, 0 updated, 500 duplicates" in again.stderr


def test_a_lost_comment_fails_the_run(service: Service) -> None:
    """The counts of each response add up, but a repeat that is stored again reveals the loss."""
    service.loses = frozenset(range(1, 400))
    result = run(service, "--duplicates", "0.5")

    assert result.exit_code == 1
    assert "Failed: expected" in result.stderr
    assert ", got " in result.stderr


def test_a_response_whose_counts_do_not_add_up_is_an_error(service: Service) -> None:
    """The report names the error."""
    service.miscounts = True
    result = run(service)

    assert result.exit_code == 1
    assert "50 x 200 whose counts do not add up" in result.stdout


@pytest.mark.parametrize("bound", ["--max-p95", "--max-p99"])
def test_a_slow_service_fails_a_latency_bound(service: Service, bound: str) -> None:
    """A wider bound passes."""
    service.delay = 0.03

    failing = run(service, "--comments", "50", bound, "20")
    assert failing.exit_code == 1
    assert f"Failed: {bound.removeprefix('--max-')} is" in failing.stderr
    assert run(service, "--comments", "50", bound, "60000").exit_code == 0


def test_a_slow_service_fails_the_throughput_bound(service: Service) -> None:
    """One connection with ten comments every 30 ms: below 400 a second on any machine."""
    service.delay = 0.03
    options = ("--comments", "50", "--concurrency", "1", "--min-throughput")

    failing = run(service, *options, "400")
    assert failing.exit_code == 1
    assert "fewer than 400" in failing.stderr
    assert run(service, *options, "0.1").exit_code == 0


def test_refusals_fail_the_error_bound_and_are_counted_by_kind(service: Service) -> None:
    """Four of fifty requests are refused: above 0 and 5 %, below 10 %."""
    refusals = {3: (429, "rate-limited"), 4: (503, "queue-full"), 5: (503, "queue-full"), 6: (503, "timeout")}
    service.refuse = lambda number: refusal(*refusals[number % 50]) if 3 <= number % 50 <= 6 else None

    failing = run(service, "--json")
    assert failing.exit_code == 1
    assert numbers(failing)["errors"] == {"503 queue-full": 2, "429 rate-limited": 1, "503 timeout": 1}
    assert numbers(failing)["stored"] == 460
    assert run(service, "--max-error-rate", "0.05").exit_code == 1
    assert run(service, "--max-error-rate", "0.1").exit_code == 0


def test_retry_repeats_a_refused_request_until_accepted(service: Service) -> None:
    """Refusals are no errors then, no comment is lost, and the report counts the retries."""
    service.refuse = lambda number: refusal(503, "queue-full", **{"Retry-After": "0"}) if number <= 12 else None
    result = run(service, "--retry", "--json")
    found = numbers(result)

    assert result.exit_code == 0, result.output
    assert found["retries"] == {"503 queue-full": 12}
    assert found["stored"] == len(service.texts) == 500


def test_latency_counts_from_the_time_a_request_was_due(service: Service) -> None:
    """Ten requests that are due at once share a connection; their waiting time is latency."""
    service.delay = 0.05
    result = run(service, "--comments", "100", "--concurrency", "1", "--rate", "1000000", "--json")
    latency = numbers(result)["latency_ms"]

    assert latency["max"] >= 500
    assert latency["p50"] >= 0.97 * 250


def test_a_run_ends_after_its_duration(service: Service) -> None:
    """--duration without --comments sends the requests due in that time: at 25 comments a second, 5 in two seconds."""
    words = [service.url, "--duration", "2", "--rate", "25", "--batch", "10", "--json"]
    result = CliRunner().invoke(load_test, words)

    assert result.exit_code == 0, result.output
    assert 1 <= numbers(result)["requests"] <= 5


def test_a_file_is_sent_and_repeated(service: Service, tmp_path: Path) -> None:
    """In the second pass every comment is a duplicate; a line that can't be sent fails the run."""
    path = tmp_path / "comments.jsonl"
    lines = [{"post_id": f"p{at % 3}", "id": str(at), "text": "text", "author": "ana"} for at in range(60)]
    path.write_text("\n".join(map(json.dumps, lines)))

    found = numbers(run(service, "--file", path, "--repeat", "--comments", "120", "--json"))
    assert (found["stored"], found["duplicates"]) == (60, 60)

    path.write_text(f"{path.read_text()}\nno json")
    failing = run(service, "--file", path)
    assert failing.exit_code == 1
    assert "1 lines of the file can't be sent; line 61" in failing.stderr


def test_the_api_key_is_sent_with_every_request(service: Service) -> None:
    """Each request has the header."""
    assert run(service, "--api-key", "secret").exit_code == 0
    assert service.keys == {"secret"}


def test_broken_connections_are_reported_by_name(service: Service) -> None:
    """The report distinguishes a closed connection from a refusal."""
    service.breaks = True
    result = run(service, "--comments", "30")

    assert result.exit_code == 1
    assert "3 x connection broke (ServerDisconnectedError)" in result.stdout


@pytest.mark.parametrize(
    "options", [("--duplicates", "0.6", "--edits", "0.6"), ("--repeat",), ("--file", __file__, "--edits", "0.1")]
)
def test_options_that_contradict_each_other_are_refused(service: Service, options: tuple[str, ...]) -> None:
    """No request is sent."""
    assert run(service, *options).exit_code == 2
    assert service.requests == 0


def test_an_unavailable_service_is_a_one_line_error() -> None:
    """The line says what to do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = forked.run([*COMMAND, url], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "Is the service running? `make up` starts it." in done.stderr


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "http://"])
def test_an_invalid_url_is_a_one_line_error(url: str) -> None:
    """No traceback is printed."""
    result = CliRunner().invoke(load_test, [url])

    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1


def wait_for_line(process: forked.Popen, word: str) -> None:
    """Waits until a line on standard error contains the word; lines of progress may come first."""
    assert process.stderr
    assert any(word in line for line in process.stderr)


def test_ctrl_c_waits_for_running_requests_and_prints_the_report(service: Service) -> None:
    """The report counts whole requests only, and the exit code shows the interrupt."""
    service.open.clear()
    command = [*COMMAND, service.url, "--concurrency", "2", "--json"]
    with forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert service.arrived.wait(60)
        process.send_signal(signal.SIGINT)
        wait_for_line(process, "Interrupted")
        service.open.set()
        out, _ = process.communicate()

    found = json.loads(out)
    assert process.returncode == 130
    assert found["errors"] == {}
    assert found["requests"] == service.requests
    assert found["stored"] == len(service.texts) == found["expected"]["stored"]


def test_a_second_ctrl_c_abandons_running_requests(service: Service) -> None:
    """They are counted as cut off, because their outcome is unknown."""
    service.open.clear()
    command = [*COMMAND, service.url, "--concurrency", "1", "--json"]
    with forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert service.arrived.wait(60)
        process.send_signal(signal.SIGINT)
        wait_for_line(process, "Interrupted")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()

    assert process.returncode == 1
    assert json.loads(out)["errors"] == {"cut off by the interrupt": 1}
