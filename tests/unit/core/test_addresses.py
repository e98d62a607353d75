"""Addresses of servers, as `up` shows them and as they are refused."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from comment_monitor.cli.up import _without_password
from comment_monitor.core.config import load
from comment_monitor.core.errors import ConfigurationError
from comment_monitor.messaging.celery_app import make_celery
from comment_monitor.observability import multiprocess_metrics

NOBODY = "postgresql://nobody@127.0.0.1:1/none"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h:5/d?sslmode=require&password=a,secret&sslpassword=secret", "postgresql://u@h:5/d?sslmode=require"),
        ("postgresql://postgres@/comments?host=%2Ftmp%2Fs&password=secret", "postgresql://postgres@/comments?host=%2Ftmp%2Fs"),
        ("redis+socket:///tmp/redis.sock?virtual_host=1&sslpassword=secret", "redis+socket:///tmp/redis.sock?virtual_host=1"),
        ("amqp://guest:secret@127.0.0.1:5672//", "amqp://guest@127.0.0.1:5672//"),
        ("unix:///tmp/redis.sock?db=0", "unix:///tmp/redis.sock?db=0"),
    ],
)  # fmt: skip
def test_up_shows_where_a_server_is_and_nothing_secret(url: str, shown: str) -> None:
    assert _without_password(url) == shown


@pytest.mark.parametrize("scheme", ["amqp", "redis", "sentinel"])
def test_of_several_brokers_each_is_looked_at(scheme: str) -> None:
    url = f"{scheme}://a:ok@127.0.0.1:1//;{scheme}://a:secret/word@127.0.0.1:2//"
    with pytest.raises(ConfigurationError, match="CELERY_BROKER_URL=<hidden>") as refused:
        make_celery(load({"CELERY_BROKER_URL": url}))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("REDIS_URL", "redis://127.0.0.1:secret/0"), ("CELERY_BROKER_URL", "amqp://a:secret/word@127.0.0.1:1//")],
)
def test_serve_refuses_an_address_in_one_line(variable: str, value: str) -> None:
    environment = {**os.environ, "POSTGRES_DSN": NOBODY, variable: value}
    done = subprocess.run(
        [sys.executable, "-m", "comment_monitor", "serve", "--port", "1", "--metrics-port", "1"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"Error: {variable}=<hidden>")


def test_the_room_of_shared_counts_is_taken_at_once(tmp_path: Path) -> None:
    """A write into a hole on a full disk would end the process without a word."""
    one = multiprocess_metrics._Reserved(str(tmp_path / "counter_1.db"))
    found = (tmp_path / "counter_1.db").stat()
    assert found.st_size == multiprocess_metrics.RESERVED
    assert found.st_blocks * 512 >= multiprocess_metrics.RESERVED
    one.close()  # type: ignore[no-untyped-call]


def test_without_room_for_shared_counts_the_start_says_so(tmp_path: Path) -> None:
    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [sys.executable, "-m", "comment_monitor", "serve", "--port", "1", "--metrics-port", "1"],
        env={**os.environ, "POSTGRES_DSN": NOBODY, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        preexec_fn=no_room, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"Error: PROMETHEUS_MULTIPROC_DIR={tmp_path}: can't be used")
