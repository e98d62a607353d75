"""Add where writes note edits that Redis was not told of, and when each invariant was last checked.

Revision ID: 012
Revises: 010

Two new tables: nothing that the release before reads or writes changes.
"""

from alembic import op

revision = "012"
down_revision = "010"
branch_labels = None
depends_on = None

TABLES = """
-- A row for each write that holds edits which Redis could not be told of. While there is one, no process believes what
-- Redis holds; the prefix of its keys is changed, and the rows go. Appended to, so that no write waits for another.
CREATE TABLE unannounced_edits (
    written_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE invariant_checks (
    name text COLLATE "C" PRIMARY KEY,
    -- When it was last checked to its end; before that, since when it has been known.
    checked_at timestamptz NOT NULL DEFAULT now(),
    -- NULL: not checked yet.
    violations bigint
);
"""

# What is noted must not be forgotten: the release before goes by the prefix alone.
DROP = """
UPDATE installation SET previous_namespace = cache_namespace, cache_namespace = gen_random_uuid(),
    namespace_since = clock_timestamp() WHERE EXISTS (SELECT FROM unannounced_edits);
DROP TABLE unannounced_edits, invariant_checks;
"""


def upgrade() -> None:
    """Makes both tables."""
    op.execute(TABLES)


def downgrade() -> None:
    """Disowns what Redis holds, where it was not told of an edit, and removes the tables."""
    op.execute(DROP)
