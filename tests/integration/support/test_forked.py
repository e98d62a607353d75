"""Forked programs behave as with `python -m`."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support import forked

PROGRAM = [sys.executable, "-m", "comment_monitor"]
NOWHERE = {"POSTGRES_DSN": "postgresql://nobody@127.0.0.1:1/x"}
WITHOUT = {name: value for name, value in os.environ.items() if not name.startswith(("POSTGRES", "COVERAGE"))}


@pytest.mark.parametrize("arguments", [["--version"], ["no-such-command"], ["migrate"], ["check", "--oldest", "x"]])
def test_exit_code_and_output_are_the_same(tmp_path: Path, arguments: list[str]) -> None:
    given: dict[str, Any] = {"env": WITHOUT, "cwd": tmp_path, "capture_output": True, "text": True}
    one = forked.run([*PROGRAM, *arguments], **given)
    other = subprocess.run([*PROGRAM, *arguments], check=False, **given)
    assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)


def test_standard_input_reaches_the_program(tmp_path: Path) -> None:
    line = '{"id": "1", "post_id": "p", "text": "x", "author": "a"}\n'
    done = forked.run([*PROGRAM, "ingest", "--dry-run", "-"], input=line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("1 read")


def test_the_program_has_only_the_given_variables(tmp_path: Path) -> None:
    done = forked.run([*PROGRAM, "migrate"], env=NOWHERE, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "connection refused" in done.stderr.lower()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_group_can_be_killed_at_once(number: signal.Signals) -> None:
    process = forked.Popen([*PROGRAM, "serve", "--port", "0"], env=NOWHERE, start_new_session=True)
    os.killpg(process.pid, number)
    assert process.wait(60) == -number


def test_a_program_that_runs_on_is_a_timeout() -> None:
    with forked.Popen([*PROGRAM, "ingest", "-"], env=NOWHERE, stdin=subprocess.PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        process.kill()


def test_other_commands_are_refused() -> None:
    with pytest.raises(AssertionError, match="only programs of this project"):
        forked.run(["true", "-m", "comment_monitor"])
