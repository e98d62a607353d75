"""A comment that `cleanup` removed is stored when it is sent again, also after an interrupted run.

Redis has an entry of every comment here, as in the first hours after a comment was sent.
"""

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from tests.conftest import execute, until
from tests.support.database import LONG_AGO, blocked, holding, names, terminate_blocked
from tests.support.requests import comment
from tests.support.system import Program, System

from comment_monitor.storage.retention import BATCH, SETTLED

AMOUNT: Final = BATCH + 100
HOLD: Final = 0x686F6C64
CLEANUP: Final = ("cleanup", "--yes", "--days", "30")


@contextmanager
def blocked_with(system: System, left: int) -> Iterator[None]:
    """Blocks the removal when this many old comments remain: the earlier batches are committed."""
    execute(
        system.dsn,
        f"""
        CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF (SELECT count(*) FROM comments WHERE created_at = '{LONG_AGO}') = {left} THEN
                PERFORM pg_advisory_xact_lock({HOLD});
            END IF;
            RETURN NULL;
        END $$;
        -- For each statement, so that it also blocks a statement that finds nothing to remove.
        CREATE TRIGGER hold BEFORE DELETE ON comments FOR EACH STATEMENT EXECUTE FUNCTION hold();
        """,  # noqa: S608 - constants
    )
    with holding(system.dsn, f"SELECT pg_advisory_xact_lock({HOLD})"):
        yield
    execute(system.dsn, "DROP FUNCTION hold CASCADE")


async def counts(system: System, ids: Sequence[str]) -> tuple[int, int]:
    """Sends the comments; returns how many were stored, and how many were duplicates."""
    stored = duplicates = 0
    for at in range(0, len(ids), 500):
        response = await system.post(*(comment(id_) for id_ in ids[at : at + 500]))
        assert response.status_code == 200, response.text
        answer = response.json()
        stored, duplicates = stored + answer["stored"], duplicates + answer["duplicates"]
    return stored, duplicates


async def old_comments(system: System) -> list[str]:
    """Stores old comments that have just been sent again."""
    await system.start(system.orchestrator)
    ids = [f"old{number}" for number in range(AMOUNT)]
    assert await counts(system, ids) == (AMOUNT, 0)
    execute(system.dsn, f"UPDATE comments SET created_at = '{LONG_AGO}'")  # noqa: S608 - a constant
    assert await counts(system, ids) == (0, AMOUNT)
    return ids


@pytest.mark.parametrize("left", [AMOUNT - BATCH, 0], ids=["middle", "end"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
async def test_removed_comments_are_stored_again_after_an_interrupted_cleanup(
    system: System, tmp_path: Path, how: signal.Signals, left: int
) -> None:
    ids = await old_comments(system)
    program = Program(tmp_path, system.environment, *CLEANUP)
    try:
        with blocked_with(system, left):
            program.start()
            await until(lambda: blocked(system.dsn), seconds=60)
            program.process.send_signal(how)
            assert await program.until_ended() == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 1}[how]
            # Otherwise the blocked removal would continue now.
            terminate_blocked(system.dsn)
        there = set(names(system.dsn))
        assert len(there) == left
        gone = [id_ for id_ in ids if id_ not in there]
        again, later = gone[:500], [*gone[500:], *there]
        # No waiting: at no moment is a missing comment reported as a duplicate.
        assert await counts(system, again) == (len(again), 0)
        program.start()
        assert await program.until_ended() == 0, program.output
    finally:
        program.kill()
    assert sorted(names(system.dsn)) == sorted(again)
    assert await counts(system, later) == (len(later), 0)
    assert sorted(names(system.dsn)) == sorted(ids)
    assert await system.violated_invariants() == []
    system.has_no_complaints()


async def test_a_process_that_cannot_refresh_the_prefix_ignores_redis(system: System, tmp_path: Path) -> None:
    """The refresh hangs, as it does when all reading connections are in use: the new prefix stays unknown."""
    ids = await old_comments(system)
    program = Program(tmp_path, system.environment, *CLEANUP)
    try:
        # Each refresh begins with the revision.
        with holding(system.dsn, "LOCK TABLE comment_monitor_version IN ACCESS EXCLUSIVE MODE"):
            await until(lambda: blocked(system.dsn))
            program.start()
            assert await program.until_ended() == 0, program.output
            assert names(system.dsn) == []
            assert await counts(system, ids) == (AMOUNT, 0)
    finally:
        program.kill()
    assert await system.violated_invariants() == []


async def test_comments_repeated_before_their_removal_are_stored_after_the_cleanup(
    system: System, tmp_path: Path
) -> None:
    await old_comments(system)
    program = Program(tmp_path, system.environment, *CLEANUP)
    try:
        with blocked_with(system, AMOUNT - BATCH):
            program.start()
            await until(lambda: blocked(system.dsn), seconds=60)
            left = names(system.dsn)
            # Redis has entries of the comments under the prefix from the beginning of the run.
            assert await counts(system, left) == (0, AMOUNT - BATCH)
        assert await program.until_ended() == 0, program.output
    finally:
        program.kill()
    assert names(system.dsn) == []
    # Until the process uses the prefix from the end of the run.
    await asyncio.sleep(SETTLED)
    assert await counts(system, left) == (AMOUNT - BATCH, 0)
