"""Locks and cut connections in PostgreSQL, caused by the tests."""

from contextlib import AbstractContextManager

from tests.conftest import execute
from tests.support.database import holding


def locked(dsn: str, table: str = "comments") -> AbstractContextManager[object]:
    """Blocks every write to a table until the end of the block; reads continue."""
    return holding(dsn, f"LOCK TABLE {table} IN EXCLUSIVE MODE")


def cut_blocked(dsn: str) -> set[int]:
    """Ends the connections that wait for a lock; returns their process ids."""
    return _cut(dsn, "wait_event_type = 'Lock'")


def cut_all(dsn: str) -> set[int]:
    """Ends all connections to the database; returns their process ids."""
    return _cut(dsn, "true")


def _cut(dsn: str, condition: str) -> set[int]:
    # Materialized, because otherwise the planner may end sessions before it checks the conditions.
    statement = f"""
        WITH found AS MATERIALIZED (
            SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND {condition}
        )
        SELECT pid FROM found WHERE pg_terminate_backend(pid)
    """  # noqa: S608 - the conditions are constants
    return {row[0] for row in execute(dsn, statement)}
