"""The log level changes at run time with the content of LOG_LEVEL_FILE."""

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
def restored_level() -> Iterator[None]:
    previous = logging.getLogger().level
    yield
    logging.getLogger().setLevel(previous)


def level() -> str:
    return logging.getLevelName(logging.getLogger().level)


def test_the_file_replaces_the_level_and_without_a_file_the_default_applies(tmp_path: Path) -> None:
    path = tmp_path / "log-level"
    logs.set_level("INFO")
    file = LevelFile(path, "INFO")
    for content, expected in (("debug\n", "DEBUG"), ("  ERROR", "ERROR"), ("", "INFO"), ("WARNING", "WARNING")):
        path.write_text(content)
        file.refresh()
        assert level() == expected
    path.unlink()
    file.refresh()
    assert level() == "INFO"


def test_verbose_libraries_stay_at_warning_when_the_level_is_debug() -> None:
    logs.set_level("DEBUG")
    assert logging.getLogger("amqp").getEffectiveLevel() == logging.WARNING
    logs.set_level("ERROR")
    assert logging.getLogger("amqp").getEffectiveLevel() == logging.ERROR


def test_an_unknown_level_changes_nothing_and_is_logged_once(tmp_path: Path) -> None:
    path = tmp_path / "log-level"
    logs.set_level("INFO")
    file = LevelFile(path, "INFO")
    path.write_text("LOUD secret")
    with structlog.testing.capture_logs() as lines:
        file.refresh()
        file.refresh()
    assert level() == "INFO"
    [line] = lines
    assert (line["event"], line["stays"]) == ("log_level_unknown", "INFO")
    assert "secret" not in str(line)


def test_the_file_is_read_as_soon_as_it_is_followed(tmp_path: Path) -> None:
    """So a level that was written while a worker loaded its models applies at once."""
    path = tmp_path / "log-level"
    path.write_text("WARNING")
    logs.set_level("INFO")
    LevelFile(path, "INFO").follow()
    assert level() == "WARNING"


@pytest.mark.parametrize("read_by_parent", [True, False], ids=["read", "unread"])
def test_a_forked_process_uses_the_level_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_by_parent: bool
) -> None:
    """Also if the parent has not read the file's latest change before the fork."""
    path = tmp_path / "log-level"
    monkeypatch.setattr(log_level, "_followed", None)
    monkeypatch.setattr(log_level, "READ_EVERY", 0.05 if read_by_parent else 3600)
    logs.set_level("INFO")
    log_level.follow(str(path), "INFO")
    path.write_text("DEBUG")
    deadline = time.monotonic() + 60
    while read_by_parent and level() != "DEBUG":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    monkeypatch.setattr(log_level, "READ_EVERY", 0.05)
    if not (child := os.fork()):
        log_level.follow_after_fork()
        time.sleep(0.5)
        os._exit(level() != "DEBUG")
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_a_path_that_is_no_regular_file_is_ignored_and_does_not_block(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log-level"
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda to: to.symlink_to("/dev/zero")}[kind](path)
    logs.set_level("INFO")
    file = LevelFile(path, "INFO")
    file.refresh()
    assert level() == "INFO"
    path.rmdir() if kind == "folder" else path.unlink()
    path.write_text("DEBUG")
    file.refresh()
    assert level() == "DEBUG"
