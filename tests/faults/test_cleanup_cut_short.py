"""What `cleanup` removed is stored when it comes again, and not called a duplicate: also where it was cut short.

Redis remembers every comment here, as it does for an hour or two after a comment came, or came again.
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
def held_with(system: System, left: int) -> Iterator[None]:
    """Holds up a removal that goes on when so many old comments are left: what it removed before is committed."""
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
        -- For the statement, so that it also holds up one that finds nothing more to remove.
        CREATE TRIGGER hold BEFORE DELETE ON comments FOR EACH STATEMENT EXECUTE FUNCTION hold();
        """,  # noqa: S608 - constants
    )
    with holding(system.dsn, f"SELECT pg_advisory_xact_lock({HOLD})"):
        yield
    execute(system.dsn, "DROP FUNCTION hold CASCADE")


async def sums(system: System, ids: Sequence[str]) -> tuple[int, int]:
    """Sends the comments; how many were stored, and how many called duplicates."""
    stored = duplicates = 0
    for at in range(0, len(ids), 500):
        response = await system.post(*(comment(id_) for id_ in ids[at : at + 500]))
        assert response.status_code == 200, response.text
        answer = response.json()
        stored, duplicates = stored + answer["stored"], duplicates + answer["duplicates"]
    return stored, duplicates


async def old_comments(system: System) -> list[str]:
    """Comments as they are long after they came, when they just came again."""
    await system.start(system.orchestrator)
    ids = [f"old{number}" for number in range(AMOUNT)]
    assert await sums(system, ids) == (AMOUNT, 0)
    execute(system.dsn, f"UPDATE comments SET created_at = '{LONG_AGO}'")  # noqa: S608 - a constant
    assert await sums(system, ids) == (0, AMOUNT)
    return ids


@pytest.mark.parametrize("left", [AMOUNT - BATCH, 0], ids=["in the middle", "after the last removal"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
async def test_what_it_removed_is_stored_when_it_comes_again(
    system: System, tmp_path: Path, how: signal.Signals, left: int
) -> None:
    ids = await old_comments(system)
    program = Program(tmp_path, system.environment, *CLEANUP)
    try:
        with held_with(system, left):
            program.start()
            await until(lambda: blocked(system.dsn), seconds=60)
            program.process.send_signal(how)
            assert await program.until_ended() == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 1}[how]
            # Or what was held up would be done now.
            terminate_blocked(system.dsn)
        there = set(names(system.dsn))
        assert len(there) == left
        gone = [id_ for id_ in ids if id_ not in there]
        again, later = gone[:500], [*gone[500:], *there]
        # Nothing is waited for: at no moment is a sender told that one is stored which is not.
        assert await sums(system, again) == (len(again), 0)
        program.start()
        assert await program.until_ended() == 0, program.output
    finally:
        program.kill()
    assert sorted(names(system.dsn)) == sorted(again)
    assert await sums(system, later) == (len(later), 0)
    assert sorted(names(system.dsn)) == sorted(ids)
    assert await system.broken_promises() == []
    system.has_no_complaints()


async def test_a_process_whose_look_at_the_database_hangs_does_not_go_by_what_redis_remembers(
    system: System, tmp_path: Path
) -> None:
    """As where all connections for reading are taken: it does not hear of the new prefix."""
    ids = await old_comments(system)
    program = Program(tmp_path, system.environment, *CLEANUP)
    try:
        # Each look begins with the revision.
        with holding(system.dsn, "LOCK TABLE comment_monitor_version IN ACCESS EXCLUSIVE MODE"):
            await until(lambda: blocked(system.dsn))
            program.start()
            assert await program.until_ended() == 0, program.output
            assert names(system.dsn) == []
            assert await sums(system, ids) == (AMOUNT, 0)
    finally:
        program.kill()
    assert await system.broken_promises() == []


async def test_what_came_again_before_its_removal_is_stored_once_the_run_is_over(
    system: System, tmp_path: Path
) -> None:
    await old_comments(system)
    program = Program(tmp_path, system.environment, *CLEANUP)
    try:
        with held_with(system, AMOUNT - BATCH):
            program.start()
            await until(lambda: blocked(system.dsn), seconds=60)
            left = names(system.dsn)
            # Redis remembers them under the prefix that the run began with.
            assert await sums(system, left) == (0, AMOUNT - BATCH)
        assert await program.until_ended() == 0, program.output
    finally:
        program.kill()
    assert names(system.dsn) == []
    # Until the process has noticed the prefix of the end.
    await asyncio.sleep(SETTLED)
    assert await sums(system, left) == (AMOUNT - BATCH, 0)
