"""`comment-monitor load-test` against a service that keeps the contract, or breaks it as it is told to."""

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

from comment_monitor.cli.load_test import load_test

COMMAND = [sys.executable, "-m", "comment_monitor", "load-test"]
Answer = Callable[[int], web.Response | None]


class Service:
    """The contract over a socket, in a thread; `refuse` may answer request number n (from 1) in its stead."""

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
        fates: Counter[str] = Counter()
        for comment in body["comments"]:
            key = (body.get("source", "threads"), comment["id"])
            known = self.texts.get(key)
            fates["stored" if known is None else "duplicates" if known == comment["text"] else "updated"] += 1
            self.texts[key] = comment["text"]
            if len(self.texts) in self.loses:
                del self.texts[key]
        queued = fates["stored"] + fates["updated"] - self.miscounts
        counts = {kind: fates[kind] for kind in ("stored", "updated", "duplicates")}
        received = len(body["comments"])
        return web.json_response(
            {"post_id": body["post_id"], "received": received, **counts, "queued": queued, "rejected": []}
        )


def refusal(status: int, slug: str, **headers: str) -> web.Response:
    document = {"type": f"urn:comment-monitor:problem:{slug}", "title": slug, "status": status}
    return web.json_response(document, status=status, headers=headers, content_type="application/problem+json")


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as one:
        yield one


def run(service: Service, *options: object) -> Result:
    """The command with small numbers; later options win."""
    words = [service.url, "--comments", "500", "--batch", "10", "--concurrency", "8", *options]
    return CliRunner().invoke(load_test, [str(word) for word in words])


def numbers(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_service_that_keeps_the_contract_passes_and_every_comment_is_there(service: Service) -> None:
    """With repeats and edits over many connections the counts are the expected ones."""
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


def test_the_report_is_for_a_person_too(service: Service) -> None:
    """Without --json: words on standard output, and nothing else there."""
    result = run(service)

    assert result.exit_code == 0
    assert result.stdout.startswith("500 comments in 50 requests")
    for word in ("throughput", "p95", "500 stored", "errors"):
        assert word in result.stdout


def test_two_runs_do_not_collide_and_the_same_run_again_is_all_duplicates(service: Service) -> None:
    """Unless they are given one name; then the second one's expectation fails, as it must."""
    assert run(service).exit_code == 0
    assert run(service).exit_code == 0
    assert len(service.texts) == 1000

    assert run(service, "--run-id", "same").exit_code == 0
    again = run(service, "--run-id", "same")
    assert again.exit_code == 1
    assert "got 0 stored, 0 updated, 500 duplicates" in again.stderr


def test_a_lost_comment_is_found(service: Service) -> None:
    """All answers add up and none is an error; still a repeat that is stored anew shows the loss."""
    service.loses = frozenset(range(1, 400))
    result = run(service, "--duplicates", "0.5")

    assert result.exit_code == 1
    assert "Failed: expected" in result.stderr
    assert ", got " in result.stderr


def test_an_answer_that_does_not_add_up_is_an_error(service: Service) -> None:
    """Named in the report."""
    service.miscounts = True
    result = run(service)

    assert result.exit_code == 1
    assert "50 x 200 whose counts do not add up" in result.stdout


@pytest.mark.parametrize("bound", ["--max-p95", "--max-p99"])
def test_a_slow_service_fails_a_latency_bound(service: Service, bound: str) -> None:
    """And passes a wider one."""
    service.delay = 0.03

    failing = run(service, "--comments", "50", bound, "20")
    assert failing.exit_code == 1
    assert f"Failed: {bound.removeprefix('--max-')} is" in failing.stderr
    assert run(service, "--comments", "50", bound, "60000").exit_code == 0


def test_a_slow_service_fails_the_throughput_bound(service: Service) -> None:
    """One connection, ten comments each 30 ms: below 400 a second whatever the machine."""
    service.delay = 0.03
    options = ("--comments", "50", "--concurrency", "1", "--min-throughput")

    failing = run(service, *options, "400")
    assert failing.exit_code == 1
    assert "fewer than 400" in failing.stderr
    assert run(service, *options, "0.1").exit_code == 0


def test_refusals_fail_the_error_bound_and_are_counted_by_kind(service: Service) -> None:
    """Five requests of fifty: past 0 and 5 %, within 10 %."""
    refusals = {3: (429, "rate-limited"), 4: (503, "queue-full"), 5: (503, "queue-full"), 6: (503, "timeout")}
    service.refuse = lambda number: refusal(*refusals[number % 50]) if 3 <= number % 50 <= 6 else None

    failing = run(service, "--json")
    assert failing.exit_code == 1
    assert numbers(failing)["errors"] == {"503 queue-full": 2, "429 rate-limited": 1, "503 timeout": 1}
    assert numbers(failing)["stored"] == 460
    assert run(service, "--max-error-rate", "0.05").exit_code == 1
    assert run(service, "--max-error-rate", "0.1").exit_code == 0


def test_with_retry_a_refused_request_is_sent_until_it_is_in(service: Service) -> None:
    """Nothing is an error then, nothing is lost, and the repeats are told."""
    service.refuse = lambda number: refusal(503, "queue-full", **{"Retry-After": "0"}) if number <= 12 else None
    result = run(service, "--retry", "--json")
    found = numbers(result)

    assert result.exit_code == 0, result.output
    assert found["retries"] == {"503 queue-full": 12}
    assert found["stored"] == len(service.texts) == 500


def test_latency_counts_from_the_moment_a_request_was_due(service: Service) -> None:
    """Ten requests due at once over one connection wait for each other, and that wait is latency."""
    service.delay = 0.05
    result = run(service, "--comments", "100", "--concurrency", "1", "--rate", "1000000", "--json")
    latency = numbers(result)["latency_ms"]

    assert latency["max"] >= 500
    assert latency["p50"] >= 0.97 * 250


def test_a_run_ends_by_the_clock(service: Service) -> None:
    """--duration without --comments sends what was due until then: at 25 a second, 5 requests in two seconds."""
    words = [service.url, "--duration", "2", "--rate", "25", "--batch", "10", "--json"]
    result = CliRunner().invoke(load_test, words)

    assert result.exit_code == 0, result.output
    assert 1 <= numbers(result)["requests"] <= 5


def test_a_file_is_sent_and_repeated(service: Service, tmp_path: Path) -> None:
    """The second time round every comment is a duplicate; a line that can't be sent fails the run."""
    path = tmp_path / "comments.jsonl"
    lines = [{"post_id": f"p{at % 3}", "id": str(at), "text": "text", "author": "ana"} for at in range(60)]
    path.write_text("\n".join(map(json.dumps, lines)))

    found = numbers(run(service, "--file", path, "--repeat", "--comments", "120", "--json"))
    assert (found["stored"], found["duplicates"]) == (60, 60)

    path.write_text(f"{path.read_text()}\nno json")
    failing = run(service, "--file", path)
    assert failing.exit_code == 1
    assert "1 lines of the file can't be sent; line 61" in failing.stderr


def test_the_key_is_sent(service: Service) -> None:
    """With every request."""
    assert run(service, "--api-key", "secret").exit_code == 0
    assert service.keys == {"secret"}


def test_broken_connections_are_errors_by_name(service: Service) -> None:
    """A service that hangs up is told from one that says no."""
    service.breaks = True
    result = run(service, "--comments", "30")

    assert result.exit_code == 1
    assert "3 x connection broke (ServerDisconnectedError)" in result.stdout


@pytest.mark.parametrize(
    "options", [("--duplicates", "0.6", "--edits", "0.6"), ("--repeat",), ("--file", __file__, "--edits", "0.1")]
)
def test_options_that_contradict_each_other_are_refused(service: Service, options: tuple[str, ...]) -> None:
    """Before anything is sent."""
    assert run(service, *options).exit_code == 2
    assert service.requests == 0


def test_no_service_is_one_clear_line() -> None:
    """What to do stands in it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = subprocess.run([*COMMAND, url], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "Is the service running? `make up` starts it." in done.stderr


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "http://"])
def test_an_address_that_is_none_is_one_clear_line(url: str) -> None:
    """No traceback."""
    result = CliRunner().invoke(load_test, [url])

    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1


def until_said(process: "subprocess.Popen[str]", word: str) -> None:
    """Until a line of its standard error has it; one of its progress may come before."""
    assert process.stderr
    assert any(word in line for line in process.stderr)


def test_ctrl_c_waits_for_what_is_under_way_and_prints_the_report_so_far(service: Service) -> None:
    """The report is of whole requests, and the exit code says that it was interrupted."""
    service.open.clear()
    command = [*COMMAND, service.url, "--concurrency", "2", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert service.arrived.wait(60)
        process.send_signal(signal.SIGINT)
        until_said(process, "Interrupted")
        service.open.set()
        out, _ = process.communicate()

    found = json.loads(out)
    assert process.returncode == 130
    assert found["errors"] == {}
    assert found["requests"] == service.requests
    assert found["stored"] == len(service.texts) == found["expected"]["stored"]


def test_a_second_ctrl_c_leaves_what_is_under_way(service: Service) -> None:
    """It is counted as cut off, and nobody knows what became of it."""
    service.open.clear()
    command = [*COMMAND, service.url, "--concurrency", "1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert service.arrived.wait(60)
        process.send_signal(signal.SIGINT)
        until_said(process, "Interrupted")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()

    assert process.returncode == 1
    assert json.loads(out)["errors"] == {"cut off by the interrupt": 1}
