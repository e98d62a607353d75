"""`comment-monitor check`, run as a process."""

import os
import sys

import pytest
from tests.conftest import MakeSettings, execute
from tests.support import forked
from tests.support.database import take_in
from tests.support.requests import comment

from comment_monitor.core.config import Settings
from comment_monitor.storage.invariants import INVARIANTS


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings()


def check(dsn: str, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Returns the exit code, the output and the error output."""
    done = forked.run(
        [sys.executable, "-m", "comment_monitor", "check", *arguments],
        env={**os.environ, "POSTGRES_DSN": dsn, **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


async def test_check_succeeds_and_lists_all_invariants_if_they_hold(settings: Settings) -> None:
    await take_in(settings, comment(1), comment(2))
    lines = [f"ok     {invariant.description}" for invariant in INVARIANTS]
    expected = "\n".join([*lines, f"{len(INVARIANTS)} of {len(INVARIANTS)} hold", ""])
    assert check(settings.postgres_dsn) == (0, expected, "")


async def test_check_fails_and_shows_examples_of_violated_invariants(settings: Settings) -> None:
    await take_in(settings, comment(1), comment(2), comment(3))
    execute(settings.postgres_dsn, "DELETE FROM analysis_outbox")
    execute(settings.postgres_dsn, "UPDATE comments SET revision = 2 WHERE id = 3")
    code, out, error = check(settings.postgres_dsn)
    assert (code, error) == (1, "")
    lines = out.splitlines()
    assert lines[0] == "ok     no two rows share source and comment id"
    assert lines[1].startswith("BROKEN every comment has a result")
    assert lines[2] == "       analysed: 3, such as 1; 2; 3"
    assert lines[3].startswith("BROKEN a version is kept")
    assert lines[4] == "       versions: 1, such as 3"
    assert lines[-1] == "3 of 5 hold"


async def test_the_waiting_limit_of_a_batch_follows_the_timeout_or_an_option(settings: Settings) -> None:
    await take_in(settings, comment(1))
    execute(settings.postgres_dsn, "UPDATE analysis_outbox SET created_at = now() - interval '200 s'")
    assert check(settings.postgres_dsn, COMMENT_PROCESSING_TIMEOUT="30")[0] == 0
    code, out, _ = check(settings.postgres_dsn, COMMENT_PROCESSING_TIMEOUT="15")
    assert code == 1
    assert "BROKEN no batch waits for its analysis longer than it may" in out
    assert check(settings.postgres_dsn, "--oldest", "100")[0] == 1
    assert check(settings.postgres_dsn, "--oldest", "1000", COMMENT_PROCESSING_TIMEOUT="15")[0] == 0


def test_a_database_without_tables_is_a_one_line_error(empty_dsn: str) -> None:
    error = "Error: The database has no tables yet: run `comment-monitor migrate`.\n"
    assert check(empty_dsn) == (1, "", error)


def test_an_unavailable_database_is_a_one_line_error_without_its_password() -> None:
    code, out, error = check("postgresql://ana:geheim@127.0.0.1:1/comments")
    assert (code, out) == (1, "")
    assert error.startswith("Error: The database can't be used: ")
    assert error.count("\n") == 1
    assert "geheim" not in error
