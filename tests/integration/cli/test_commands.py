"""Behaviour of all commands: an invalid setting or option is a one-line error, and the help lists every option."""

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from tests.support.commands import Run, lines, record


def test_an_unavailable_database_is_a_one_line_error(ingest: Run) -> None:
    done = ingest("-", stdin=lines(record(1)), POSTGRES_DSN="postgresql://nobody@127.0.0.1:1/nothing")
    assert done.code == 1
    assert "database" in done.only_error()


def test_a_missing_dsn_is_a_one_line_error_with_the_setting(ingest: Run) -> None:
    done = ingest("-", stdin=lines(record(1)), POSTGRES_DSN=None)
    assert (done.code, done.out) == (1, "")
    assert "POSTGRES_DSN" in done.only_error()


def test_a_database_without_tables_is_a_one_line_error_with_the_command(ingest: Run, empty_dsn: str) -> None:
    done = ingest("-", stdin=lines(record(1)), POSTGRES_DSN=empty_dsn)
    assert done.code == 1
    assert "comment-monitor migrate" in done.only_error()


@pytest.mark.parametrize(
    "dsn",
    ["postgresql+asyncpg://u:hush@h/x", "mysql://u:hush@h/x", "postgresql://u:hush@h:port/x", "u:hush"],
    ids=["driver", "scheme", "port", "no-url"],
)
@pytest.mark.parametrize("command", ["migrate", "check", "cleanup", "ingest", "serve", "worker", "up"])
def test_an_invalid_dsn_is_a_one_line_error_without_its_password(ingest: Run, command: str, dsn: str) -> None:
    arguments = ["-"] if command == "ingest" else []
    done = ingest(*arguments, command=command, stdin=b"", POSTGRES_DSN=dsn)
    assert (done.code, done.out) == (1, "")
    assert "POSTGRES_DSN=<hidden>" in done.only_error()
    assert "hush" not in done.err


def test_an_invalid_broker_url_is_a_one_line_error(ingest: Run) -> None:
    for command, url in itertools.product(("ingest", "worker"), ("foo://u:hush@h", "amqp://u:hush/x@h:5672//")):
        arguments = ["-"] if command == "ingest" else []
        line = b'{"post_id": "p", "id": "1", "text": "t"}'
        done = ingest(*arguments, command=command, stdin=line, CELERY_BROKER_URL=url)
        assert (done.code, "CELERY_BROKER_URL" in done.only_error(), "hush" in done.err) == (1, True, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ingest - <&-", "Standard input is closed"),
        ("ingest --dry-run {file} >/dev/full", "can't be written (No space left on device)"),
        ("check >/dev/full", "can't be written (No space left on device)"),
        ("cleanup --days 740000", "1<=x<=36500"),
        ("check --oldest nan", "'nan' is not a valid integer"),
        ("check --oldest 1e300", "'1e300' is not a valid integer"),
    ],
    ids=["closed-input", "full-disk-ingest", "full-disk-check", "days", "nan", "large-number"],
)
def test_a_misuse_is_a_one_line_error(program: dict[str, str], tmp_path: Path, words: str, message: str) -> None:
    """Run in a shell, as by a user."""
    file = tmp_path / "some.jsonl"
    file.write_bytes(lines(record(1)))
    line = f"{sys.executable} -m comment_monitor {words.format(file=file)}"
    done = subprocess.run(line, shell=True, env=program, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S602
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stderr
    assert [row for row in done.stderr.splitlines() if row.startswith("Error: ")] == [done.stderr.splitlines()[-1]]
    assert message in done.stderr


def test_the_help_is_shown_without_a_command(program: dict[str, str], tmp_path: Path) -> None:
    line = [sys.executable, "-m", "comment_monitor"]
    done = subprocess.run(line, env=program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "\nCommands:\n  up " in done.stderr
    assert "\\n" not in done.stderr


def test_ingest_works_with_a_closed_standard_error(program: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_bytes(lines(record(1)))
    line = f"{sys.executable} -m comment_monitor ingest {file} 2>&-"
    done = subprocess.run(line, shell=True, env=program, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S602
    assert (done.returncode, done.stdout[:17]) == (0, "1 read: 1 stored,")


@pytest.mark.parametrize("command", ["migrate", "check", "serve", "worker"])
def test_an_unknown_sslmode_is_reported(ingest: Run, command: str) -> None:
    done = ingest(command=command, POSTGRES_DSN="postgresql://u:hush@127.0.0.1:1/d?sslmode=bogus")
    assert done.code == 1
    assert "sslmode must be one of disable, allow" in done.only_error()
    assert "hush" not in done.err


OPTIONS: Final = {
    "up": "host port metrics-port data-dir",
    "serve": "host port metrics-port data-dir",
    "worker": "concurrency host metrics-port data-dir",
    "migrate": "down data-dir",
    "check": "oldest data-dir",
    "ingest": "format source post-id column delimiter dry-run data-dir encoding id-scope preset rejected",
    "cleanup": "days yes data-dir",
    "status": "url metrics-url watch interval json data-dir",
    "smoke-test": "url timeout keep data-dir",
    "load-test": "comments duration rate concurrency batch posts duplicates edits seed run-id file repeat api-key retry"
    " max-p95 max-p99 min-throughput max-error-rate json",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_lists_every_option(ingest: Run, command: str) -> None:
    done = ingest("--help", command=command)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: python -m comment_monitor {command} [OPTIONS]")
    named = set(re.findall(r"^  (?:-h, )?--([a-z0-9-]+)", done.out, re.MULTILINE))
    assert named == {*OPTIONS[command].split(), "help"}
