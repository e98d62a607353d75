"""Triggers that make PostgreSQL refuse the program's statements."""

import asyncio

from tests.conftest import execute

DATA_EXCEPTION = "22000"
SERIALIZATION_FAILURE = "40001"
LOCK_NOT_AVAILABLE = "55P03"
INSUFFICIENT_PRIVILEGE = "42501"
# The code of an error that the program does not expect.
RAISED = "P0001"


async def change(dsn: str, statement: str) -> None:
    """Changes a table in a thread: the change waits for transactions that only the event loop can end."""
    await asyncio.to_thread(execute, dsn, statement)


async def refuse(
    dsn: str,
    event: str,
    table: str,
    condition: str = "true",
    code: str = RAISED,
    *,
    at_commit: bool = False,
) -> None:
    """Makes PostgreSQL refuse each row that meets the condition on NEW, at the statement or at the commit."""
    kind = "CONSTRAINT TRIGGER" if at_commit else "TRIGGER"
    moment = "AFTER" if at_commit else "BEFORE"
    deferred = "DEFERRABLE INITIALLY DEFERRED" if at_commit else ""
    await change(
        dsn,
        f"""
        CREATE SEQUENCE tries;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF {condition} THEN RAISE EXCEPTION 'refused by the test' USING ERRCODE = '{code}'; END IF;
            RETURN NEW;
        END $$;
        CREATE {kind} refuse {moment} {event} ON {table} {deferred} FOR EACH ROW EXECUTE FUNCTION refuse();
        """,
    )


async def refuse_first(dsn: str, times: int, code: str) -> None:
    """Fails this many writes of comments. The values of a sequence survive a rollback."""
    await refuse(dsn, "INSERT", "comments", f"nextval('tries') <= {times}", code)


def tries(dsn: str) -> int:
    """Returns how often the condition of `refuse_first` was evaluated."""
    ((count, is_called),) = execute(dsn, "SELECT last_value, is_called FROM tries")
    return int(count) if is_called else 0


async def allow(dsn: str) -> None:
    """Removes the trigger of `refuse` or `refuse_first`."""
    await change(dsn, "DROP FUNCTION refuse CASCADE; DROP SEQUENCE tries")


def replaced_long_ago(dsn: str) -> None:
    """Makes each replaced text count as replaced days ago, so that its return is an edit and no late repeat."""
    execute(
        dsn,
        """
        CREATE FUNCTION long_ago() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.replaced_at := NEW.replaced_at - interval '2 d'; RETURN NEW; END $$;
        CREATE TRIGGER long_ago BEFORE INSERT ON comment_versions FOR EACH ROW EXECUTE FUNCTION long_ago();
        """,
    )
