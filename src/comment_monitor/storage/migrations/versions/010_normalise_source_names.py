"""Give every source its canonical spelling: lower case, without surrounding blanks.

Revision ID: 010
Revises: 009

Works in small transactions during live traffic. After an interruption it runs again from the start, and the finished
rows cost nothing. If all stored sources are canonical, it reads only one index entry for each source.
"""

from alembic import op
from sqlalchemy import text

revision = "010"
down_revision = "009"
branch_labels = None
depends_on = None

ROWS = 2000

# Finds the distinct sources by jumping through the unique index from each source to the next.
SOURCES = """
WITH RECURSIVE leap AS (
    (SELECT source FROM comments ORDER BY source LIMIT 1)
    UNION ALL
    SELECT (SELECT c.source FROM comments c WHERE c.source > leap.source ORDER BY c.source LIMIT 1)
    FROM leap WHERE leap.source IS NOT NULL
)
SELECT source FROM leap WHERE source IS NOT NULL
"""

RENAME = """
WITH part AS (
    SELECT c.id FROM comments c WHERE c.source = :old AND NOT EXISTS (
        SELECT FROM comments o WHERE o.source = :new AND o.comment_id = c.comment_id
    ) LIMIT :rows
)
UPDATE comments SET source = :new FROM part WHERE comments.id = part.id
"""

# Deletes the copy of a comment that was stored under two spellings. A comment with the same id but other content stays:
# it is listed as before, and found under its own spelling.
MERGE = """
DELETE FROM comments WHERE id IN (
    SELECT c.id FROM comments c JOIN comments o ON o.source = :new AND o.comment_id = c.comment_id
    WHERE c.source = :old AND c.post_id = o.post_id AND c.text = o.text AND c.author IS NOT DISTINCT FROM o.author
        AND c.revision = 1
    LIMIT :rows
)
"""


def upgrade() -> None:
    """Renames sources in batches; a comment stored under two spellings is stored once afterwards."""
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        for (old,) in connection.execute(text(SOURCES)).fetchall():
            # A name that has only blanks keeps its spelling.
            new = old.strip().lower() or old
            for statement in (RENAME, MERGE) if new != old else ():
                while connection.execute(text(statement), {"old": old, "new": new, "rows": ROWS}).rowcount:
                    pass


def downgrade() -> None:
    """Does nothing: the original spellings are not known any more, and the release before accepts any spelling."""
