"""Makes PostgreSQL refuse, from outside, what the program asks of it."""

import asyncio

from tests.conftest import execute

DATA_EXCEPTION = "22000"
SERIALIZATION_FAILURE = "40001"
LOCK_NOT_AVAILABLE = "55P03"
INSUFFICIENT_PRIVILEGE = "42501"
# What nobody foresaw.
RAISED = "P0001"


async def change(dsn: str, statement: str) -> None:
    """A change of a table, beside the loop: it waits for transactions that only the loop can end."""
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
    """Raises an error for each row that is touched and meets the condition on NEW, then or only at the commit."""
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
    """Fails so many tries to write comments, then none. A sequence's numbers survive a rollback."""
    await refuse(dsn, "INSERT", "comments", f"nextval('tries') <= {times}", code)


def tries(dsn: str) -> int:
    """How often `refuse_first` was asked."""
    ((count, asked),) = execute(dsn, "SELECT last_value, is_called FROM tries")
    return int(count) if asked else 0


async def allow(dsn: str) -> None:
    """Ends the refusal."""
    await change(dsn, "DROP FUNCTION refuse CASCADE; DROP SEQUENCE tries")


def replaced_long_ago(dsn: str) -> None:
    """From now on each text counts as replaced days ago, so that one that comes again is an edit and no late repeat."""
    execute(
        dsn,
        """
        CREATE FUNCTION long_ago() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.replaced_at := NEW.replaced_at - interval '2 d'; RETURN NEW; END $$;
        CREATE TRIGGER long_ago BEFORE INSERT ON comment_versions FOR EACH ROW EXECUTE FUNCTION long_ago();
        """,
    )
