"""Give every source its one spelling: lower case, without blanks around it.

Revision ID: 010
Revises: 009

Works in small transactions beside live traffic. Cut short, it runs again from the start, which costs nothing for what
is done. Where nobody ever sent `Threads` beside `threads`, it reads one index entry for each source.
"""

from alembic import op
from sqlalchemy import text

revision = "010"
down_revision = "009"
branch_labels = None
depends_on = None

ROWS = 2000

# Leaps through the unique index from one source to the next.
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

# One comment that was stored under two spellings. A comment of the same id that says something else stays: it is
# listed as before, and found under the spelling that it has.
MERGE = """
DELETE FROM comments WHERE id IN (
    SELECT c.id FROM comments c JOIN comments o ON o.source = :new AND o.comment_id = c.comment_id
    WHERE c.source = :old AND c.post_id = o.post_id AND c.text = o.text AND c.author IS NOT DISTINCT FROM o.author
        AND c.revision = 1
    LIMIT :rows
)
"""


def upgrade() -> None:
    """Renames batch by batch; a comment stored under two spellings is stored once afterwards."""
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        for (old,) in connection.execute(text(SOURCES)).fetchall():
            # A name of blanks only has no other spelling.
            new = old.strip().lower() or old
            for statement in (RENAME, MERGE) if new != old else ():
                while connection.execute(text(statement), {"old": old, "new": new, "rows": ROWS}).rowcount:
                    pass


def downgrade() -> None:
    """Nothing: the spellings that senders used are not known any more, and the release before takes any."""
