"""LOG_LEVEL at run time, by a file."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from comment_monitor.observability import log_level, logs
from comment_monitor.observability.log_level import LevelFile


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    was = logging.getLogger().level
    yield
    logging.getLogger().setLevel(was)


def now() -> str:
    return logging.getLevelName(logging.getLogger().level)


def test_what_the_file_says_counts_and_without_it_what_was_set(tmp_path: Path) -> None:
    path = tmp_path / "log-level"
    logs.set_level("INFO")
    file = LevelFile(path, "INFO")
    for written, counts in (("debug\n", "DEBUG"), ("  ERROR", "ERROR"), ("", "INFO"), ("WARNING", "WARNING")):
        path.write_text(written)
        file.refresh()
        assert now() == counts
    path.unlink()
    file.refresh()
    assert now() == "INFO"


def test_third_parties_that_would_drown_the_rest_stay_quiet_at_debug() -> None:
    logs.set_level("DEBUG")
    assert logging.getLogger("amqp").getEffectiveLevel() == logging.WARNING
    logs.set_level("ERROR")
    assert logging.getLogger("amqp").getEffectiveLevel() == logging.ERROR


def test_a_word_that_is_no_level_changes_nothing_and_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "log-level"
    logs.set_level("INFO")
    file = LevelFile(path, "INFO")
    path.write_text("LOUD secret")
    with structlog.testing.capture_logs() as lines:
        file.refresh()
        file.refresh()
    assert now() == "INFO"
    [line] = lines
    assert (line["event"], line["stays"]) == ("log_level_unknown", "INFO")
    assert "secret" not in str(line)


def test_what_the_file_says_at_the_start_counts_from_then_on(tmp_path: Path) -> None:
    """A worker that is still loading its models when the file is written is not left out."""
    path = tmp_path / "log-level"
    path.write_text("WARNING")
    logs.set_level("INFO")
    LevelFile(path, "INFO").follow()
    assert now() == "WARNING"


@pytest.mark.parametrize("seen", [True, False])
def test_a_forked_process_goes_on_where_its_parent_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    """Also where the file changed just before the fork and the parent had not looked."""
    path = tmp_path / "log-level"
    monkeypatch.setattr(log_level, "_followed", None)
    monkeypatch.setattr(log_level, "READ_EVERY", 0.05 if seen else 3600)
    logs.set_level("INFO")
    log_level.follow(str(path), "INFO")
    path.write_text("DEBUG")
    deadline = time.monotonic() + 60
    while seen and now() != "DEBUG":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    monkeypatch.setattr(log_level, "READ_EVERY", 0.05)
    if not (child := os.fork()):
        log_level.follow_after_fork()
        time.sleep(0.5)
        os._exit(now() != "DEBUG")
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_passed_over_and_keeps_nobody(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log-level"
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda to: to.symlink_to("/dev/zero")}[kind](path)
    logs.set_level("INFO")
    file = LevelFile(path, "INFO")
    file.refresh()
    assert now() == "INFO"
    path.rmdir() if kind == "folder" else path.unlink()
    path.write_text("DEBUG")
    file.refresh()
    assert now() == "DEBUG"
