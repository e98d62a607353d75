"""Addresses of servers as `up` prints them and `serve` rejects them; the disk space of multi-process metrics."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.case_ids import case_id

from comment_monitor.cli.up import _without_password
from comment_monitor.core.config import load
from comment_monitor.core.errors import ConfigurationError
from comment_monitor.messaging.celery_app import make_celery
from comment_monitor.observability import multiprocess_metrics

UNREACHABLE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h:5/d?sslmode=require&password=a,secret&sslpassword=secret", "postgresql://u@h:5/d?sslmode=require"),
        ("postgresql://postgres@/comments?host=%2Ftmp%2Fs&password=secret", "postgresql://postgres@/comments?host=%2Ftmp%2Fs"),
        ("redis+socket:///tmp/redis.sock?virtual_host=1&sslpassword=secret", "redis+socket:///tmp/redis.sock?virtual_host=1"),
        ("amqp://guest:secret@127.0.0.1:5672//", "amqp://guest@127.0.0.1:5672//"),
        ("unix:///tmp/redis.sock?db=0", "unix:///tmp/redis.sock?db=0"),
    ], ids=case_id,
)  # fmt: skip
def test_up_shows_the_address_of_a_server_without_secrets(url: str, shown: str) -> None:
    assert _without_password(url) == shown


@pytest.mark.parametrize("scheme", ["amqp", "redis", "sentinel"])
def test_each_of_several_broker_urls_is_checked(scheme: str) -> None:
    url = f"{scheme}://a:ok@127.0.0.1:1//;{scheme}://a:secret/word@127.0.0.1:2//"
    with pytest.raises(ConfigurationError, match="CELERY_BROKER_URL=<hidden>") as caught:
        make_celery(load({"CELERY_BROKER_URL": url}))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("REDIS_URL", "redis://127.0.0.1:secret/0"), ("CELERY_BROKER_URL", "amqp://a:secret/word@127.0.0.1:1//")],
)
def test_serve_reports_an_invalid_address_in_a_single_line(variable: str, value: str) -> None:
    environment = {**os.environ, "POSTGRES_DSN": UNREACHABLE, variable: value}
    process = subprocess.run(
        [sys.executable, "-m", "comment_monitor", "serve", "--port", "1", "--metrics-port", "1"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 1
    [line] = process.stderr.splitlines()
    assert line.startswith(f"Error: {variable}=<hidden>")


def test_space_for_metrics_of_several_processes_is_allocated_at_the_start(tmp_path: Path) -> None:
    """A write into a hole of a file on a full disk would end the process with SIGBUS."""
    reserved = multiprocess_metrics._Reserved(str(tmp_path / "counter_1.db"))
    file = (tmp_path / "counter_1.db").stat()
    assert file.st_size == multiprocess_metrics.RESERVED
    assert file.st_blocks * 512 >= multiprocess_metrics.RESERVED
    reserved.close()  # type: ignore[no-untyped-call]


def test_the_start_fails_if_there_is_no_space_for_metrics(tmp_path: Path) -> None:
    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    process = subprocess.run(
        [sys.executable, "-m", "comment_monitor", "serve", "--port", "1", "--metrics-port", "1"],
        env={**os.environ, "POSTGRES_DSN": UNREACHABLE, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        preexec_fn=limit_file_size, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 1
    [line] = process.stderr.splitlines()
    assert line.startswith(f"Error: PROMETHEUS_MULTIPROC_DIR={tmp_path}: can't be used")
