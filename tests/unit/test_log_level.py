"""LOG_LEVEL at run time, by a file."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from comment_monitor import log
from comment_monitor.loglevel import LevelFile


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    was = logging.getLogger().level
    yield
    logging.getLogger().setLevel(was)


def now() -> str:
    return logging.getLevelName(logging.getLogger().level)


def test_what_the_file_says_counts_and_without_it_what_was_set(tmp_path: Path) -> None:
    path = tmp_path / "log-level"
    log.set_level("INFO")
    file = LevelFile(path, "INFO")
    for written, counts in (("debug\n", "DEBUG"), ("  ERROR", "ERROR"), ("", "INFO"), ("WARNING", "WARNING")):
        path.write_text(written)
        file.look()
        assert now() == counts
    path.unlink()
    file.look()
    assert now() == "INFO"


def test_third_parties_that_would_drown_the_rest_stay_quiet_at_debug() -> None:
    log.set_level("DEBUG")
    assert logging.getLogger("amqp").getEffectiveLevel() == logging.WARNING
    log.set_level("ERROR")
    assert logging.getLogger("amqp").getEffectiveLevel() == logging.ERROR


def test_a_word_that_is_no_level_changes_nothing_and_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "log-level"
    log.set_level("INFO")
    file = LevelFile(path, "INFO")
    path.write_text("LOUD secret")
    with structlog.testing.capture_logs() as lines:
        file.look()
        file.look()
    assert now() == "INFO"
    [line] = lines
    assert (line["event"], line["stays"]) == ("log_level_unknown", "INFO")
    assert "secret" not in str(line)


def test_a_process_that_was_forked_at_another_level_goes_back_to_its_own(tmp_path: Path) -> None:
    log.set_level("DEBUG")
    LevelFile(tmp_path / "none", "INFO").follow()
    assert now() == "INFO"
