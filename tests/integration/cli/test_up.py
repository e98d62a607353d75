"""`comment-monitor up`, run as a program, stopped by a signal, and used over HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from tests.integration.conftest import MakeUp
from tests.support import http
from tests.support.exported import ours, value
from tests.support.requests import body, comment
from tests.support.up import Up, until

from comment_monitor.devserver.endpoints import read_endpoints
from comment_monitor.devserver.postgres_process import EmbeddedPostgres, postgres_server
from comment_monitor.devserver.redis_process import EmbeddedRedis


def analysed(up: Up, count: int) -> list[Any]:
    """Returns all comments once each has its analysis."""

    def items() -> list[Any]:
        found: list[Any] = up.get("/comments").raise_for_status().json()["items"]
        return found

    until(lambda: len(items()) == count and all(item["analysis"] for item in items()))
    return items()


def test_comments_are_stored_analysed_and_kept_over_a_restart(make_up: MakeUp) -> None:
    up = make_up().start().wait_until_up()
    answer = up.post(json=body(comment(1), comment(2))).json()
    assert answer["stored"] == 2
    assert len(analysed(up, 2)) == 2
    up.ctrl_c()
    assert up.process.wait() == 0
    assert len(analysed(make_up().start().wait_until_up(), 2)) == 2


def test_up_prints_its_addresses_once_and_each_answers(make_up: MakeUp) -> None:
    up = make_up().start().wait_until_up()
    lines = dict(line.split(": ", 1) for line in up.output().splitlines() if ": " in line and "{" not in line)
    assert http.get(lines["Health"].strip(), timeout=60).status_code == 200
    assert http.get(lines["Documentation"].strip(), timeout=60).status_code == 200
    assert "comment_processing_queue_length" in http.get(lines["Metrics"].strip(), timeout=60).text
    psycopg2.connect(lines["PostgreSQL"].strip()).close()
    assert lines["Data"].strip() == str(up.data_dir)
    assert up.output().count("is up") == 1
    assert "\x1b" not in up.output()


def test_gauges_cover_running_processes_only(make_up: MakeUp) -> None:
    up = make_up().start().wait_until_up()
    url = f"http://127.0.0.1:{up.metrics_port}/metrics"

    def metric_value(name: str, **labels: str) -> float | None:
        return value(ours(url), name, **labels)

    until(lambda: metric_value("comment_schema_usable") == 1)
    # Other commands: `check`, which sets no schema gauge, and an `ingest` killed with comments in its queue.
    assert up.command("check").returncode == 0
    assert metric_value("comment_schema_usable") == 1
    endpoints = read_endpoints(up.data_dir)
    assert endpoints
    with psycopg2.connect(endpoints["POSTGRES_DSN"]) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE comments IN EXCLUSIVE MODE")
        lines = "".join(json.dumps({**comment(number), "post_id": "p"}) + "\n" for number in range(30))
        ingest = up.beside("ingest", "-", given=lines)
        until(lambda: metric_value("comment_processing_queue_length") == 30)
        attempts = metric_value("comment_processing_attempts_total")
        ingest.kill()
        ingest.communicate()
        assert metric_value("comment_processing_queue_length") == 0
        assert metric_value("comment_processing_attempts_total") == attempts
    connection.close()
    assert metric_value("comment_schema_usable") == 1
    done = up.beside("ingest", "-", given=lines)
    done.communicate()
    assert done.returncode == 0
    assert metric_value("comment_stored_total", kind="new") == 30
    assert metric_value("comment_processing_queue_length") == 0
    until(lambda: metric_value("comment_analysis_total", outcome="done") == 30)
    until(lambda: metric_value("comment_analysis_backlog") == 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_up_and_leaves_no_process(make_up: MakeUp, number: signal.Signals) -> None:
    up = make_up().start().wait_until_up()
    assert len(up.family()) > 4
    os.killpg(up.process.pid, number)
    assert up.process.wait() == 0
    assert up.output().endswith("Stopped.\n")
    assert "Traceback" not in up.output()
    assert up.is_gone()


def test_ctrl_c_during_the_start_stops_up(make_up: MakeUp) -> None:
    up = make_up().start()
    until((up.data_dir / "postgres" / "postmaster.pid").exists)
    up.ctrl_c()
    assert up.process.wait() == 0, up.output()
    assert "is up" not in up.output()
    assert up.is_gone()


def test_ctrl_c_waits_for_the_drain_delay_of_the_api(make_up: MakeUp) -> None:
    up = make_up(COMMENT_DRAIN_DELAY="22").start().wait_until_up()
    up.ctrl_c()
    assert up.process.wait() == 0
    assert '"draining"' in up.output()
    assert up.output().endswith("Stopped.\n")
    assert up.is_gone()


def test_a_second_ctrl_c_skips_the_drain_delay(make_up: MakeUp) -> None:
    up = make_up(COMMENT_DRAIN_DELAY="10").start().wait_until_up()
    up.ctrl_c()
    until(lambda: '"leaving"' in up.output())
    up.ctrl_c()
    assert up.process.wait() == 0
    assert '"draining"' not in up.output()
    assert up.is_gone()


@pytest.mark.parametrize(
    ("words", "name"),
    [(" serve ", "The API"), (" worker ", "The worker"), ("/postgres ", "PostgreSQL"), ("redis-server", "Redis")],
    ids=["api", "worker", "postgres", "redis"],
)
def test_a_process_that_ends_by_itself_is_reported_and_stops_the_others(make_up: MakeUp, words: str, name: str) -> None:
    up = make_up().start().wait_until_up()
    up.child(words).kill()
    errors = up.errors()
    assert len(errors) == 1
    assert f"{name} ended by SIGKILL" in errors[0]
    assert up.is_gone()


def test_a_full_disk_is_reported_with_a_hint() -> None:
    """The error names the process that ended, and says that space must be freed."""
    with tempfile.TemporaryDirectory(prefix="full-") as name, ExitStack() as stack:
        Path(name).chmod(0o755)
        data_dir = Path(name, "data")
        data_dir.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=160m,mode=755", "none", str(data_dir)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            give_up = pytest.fail if os.environ.get("REQUIRE_SERVICES") else pytest.skip
            give_up(f"can't mount a file system for this test: {mounted.stderr.strip()}")
        stack.callback(lambda: subprocess.run(["umount", "--lazy", data_dir], check=True))
        up = Up(data_dir).start().wait_until_up()
        stack.callback(up.end)
        up.post(json=body(comment(1))).raise_for_status()
        with suppress(OSError), (data_dir / "filled").open("wb", buffering=0) as file:
            while file.write(bytes(2**20)):
                pass
        up.child("/postgres ").kill()
        [error] = up.errors()
        assert "PostgreSQL ended by SIGKILL" in error
        assert error.endswith(f"The disk that holds {data_dir} is full: free space there, then start again.")
        assert up.is_gone()
        (data_dir / "filled").unlink()
        again = Up(data_dir).start().wait_until_up()
        stack.callback(again.end)
        assert len(analysed(again, 1)) == 1


def test_a_killed_up_leaves_no_process_and_the_next_start_works(make_up: MakeUp) -> None:
    # A batch whose message was lost is sent again; the default delay would be too long for a test.
    prompt = {"COMMENT_RESEND_AFTER": "1"}
    up = make_up(**prompt).start().wait_until_up()
    up.post(json=body(comment(1))).raise_for_status()
    up.process.kill()
    up.process.wait()
    assert read_endpoints(up.data_dir) is None
    again = make_up(**prompt).start().wait_until_up()
    assert len(analysed(again, 1)) == 1
    again.ctrl_c()
    assert again.process.wait() == 0
    until(lambda: not up.family())


def waiting(make_up: MakeUp, before: Up) -> Up:
    """Starts `up` with the folder and port of an earlier start, and waits until it owns the folder."""
    up: Up = make_up()
    up.port = before.port
    up.start()
    until(lambda: (up.data_dir / "up.lock").read_text().strip() == str(up.process.pid))
    return up


def test_a_start_after_a_kill_waits_for_ports_that_are_still_in_use(make_up: MakeUp) -> None:
    """The API of the killed `up` finishes its accepted requests, so a used port is no error yet."""
    up = make_up().start().wait_until_up()
    up.process.kill()
    up.process.wait()
    until(lambda: not up.family())
    with socket.create_server(("127.0.0.1", up.port)):
        # A start that is killed while it waits does not confuse the next start.
        second = waiting(make_up, up)
        second.process.kill()
        second.process.wait()
        again = waiting(make_up, up)
        time.sleep(2)
        assert again.process.poll() is None, again.output()
    again.wait_until_up()


def test_a_second_up_on_the_same_folder_reports_the_first(make_up: MakeUp) -> None:
    up = make_up().start().wait_until_up()
    second = make_up().start()
    assert len(second.errors()) == 1
    assert f"process {up.process.pid}" in second.output()
    assert up.get("/health").status_code == 200


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_a_used_port_is_reported_with_the_option_for_the_port(make_up: MakeUp, option: str) -> None:
    up = make_up()
    port = up.port if option == "--port" else up.metrics_port
    with socket.create_server(("127.0.0.1", port)):
        errors = up.start().errors()
    assert errors == up.output().splitlines()
    assert f"Port {port} " in errors[0]
    assert errors[0].endswith(f"another with {option}.")


def test_an_address_of_another_machine_is_reported_with_the_option(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "comment_monitor", "up", "--data-dir", str(tmp_path / "data")]
    done = subprocess.run([*command, "--host", "203.0.113.5"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("can't be used (Cannot assign requested address): choose another --host.\n")


@pytest.mark.parametrize("variable", ["REDIS_URL", "CELERY_BROKER_URL"])
def test_an_invalid_url_is_reported_before_anything_starts(tmp_path: Path, variable: str) -> None:
    command = [sys.executable, "-m", "comment_monitor", "up", "--data-dir", str(tmp_path / "data")]
    environment = os.environ | {variable: "http://x"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert variable in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_folder_that_can_not_be_created_is_a_one_line_error(make_up: MakeUp) -> None:
    up = make_up()
    file = up.data_dir.parent / "file"
    file.touch()
    up.data_dir = file / "data"
    errors = up.start().errors()
    assert errors == up.output().splitlines()
    assert str(up.data_dir) in errors[0]


def test_external_servers_are_used_and_none_is_started(make_up: MakeUp) -> None:
    with tempfile.TemporaryDirectory(prefix="own-") as name:
        Path(name).chmod(0o755)
        redis = EmbeddedRedis(Path(name) / "redis")
        with postgres_server(Path(name) / "postgres") as postgres:
            redis.start()
            try:
                _runs_on(make_up, postgres, redis)
            finally:
                redis.stop()


def _runs_on(make_up: MakeUp, postgres: EmbeddedPostgres, redis: EmbeddedRedis) -> None:
    up = make_up(POSTGRES_DSN=postgres.dsn, REDIS_URL=redis.url, CELERY_BROKER_URL=redis.broker_url)
    up.start().wait_until_up()
    up.post(json=body(comment(1))).raise_for_status()
    analysed(up, 1)
    assert {" ".join(child.cmdline()[2:4]) for child in psutil.Process(up.process.pid).children()} == {
        "comment_monitor serve",
        "comment_monitor worker",
    }
    up.ctrl_c()
    assert up.process.wait() == 0
    with psycopg2.connect(postgres.dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close()


def test_other_commands_find_the_servers_of_a_running_up(make_up: MakeUp) -> None:
    up = make_up()
    before = up.command("migrate")
    assert (before.returncode, "POSTGRES_DSN is not set" in before.stderr) == (1, True)
    up.start().wait_until_up()
    assert up.command("migrate").returncode == 0
    assert up.command("check").returncode == 0
