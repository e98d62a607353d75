"""Add tables for edits that Redis does not know of, and for the last check of each invariant.

Revision ID: 012
Revises: 010

It only adds two tables: the tables that the release before reads and writes do not change.
"""

from alembic import op

revision = "012"
down_revision = "010"
branch_labels = None
depends_on = None

TABLES = """
-- A row for each write with edits that could not be invalidated in Redis. While the table has a row, no process uses
-- the entries in Redis; a change of the key prefix deletes the rows. Writes only insert, so no write waits for another.
CREATE TABLE unannounced_edits (
    written_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE invariant_checks (
    name text COLLATE "C" PRIMARY KEY,
    -- The time of the last completed check; before the first check, the time when the invariant was added.
    checked_at timestamptz NOT NULL DEFAULT now(),
    -- NULL: not checked yet.
    violations bigint
);
"""

# Changes the prefix if there are noted edits, because the release before relies on the prefix alone.
DROP = """
UPDATE installation SET previous_namespace = cache_namespace, cache_namespace = gen_random_uuid(),
    namespace_since = clock_timestamp() WHERE EXISTS (SELECT FROM unannounced_edits);
DROP TABLE unannounced_edits, invariant_checks;
"""


def upgrade() -> None:
    """Creates both tables."""
    op.execute(TABLES)


def downgrade() -> None:
    """Invalidates the entries in Redis if it does not know of an edit, and drops the tables."""
    op.execute(DROP)
