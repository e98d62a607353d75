"""Add the optional fields about a comment's author and edits, and keep late repeats from becoming edits.

Revision ID: 009
Revises: 008

New columns without a default and a dropped NOT NULL change the catalogue only: no table is rewritten, and the release
before continues to write and read.
"""

from alembic import op

revision = "009"
down_revision = "008"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE comments
    -- NULL: the platform withholds it.
    ALTER COLUMN author DROP NOT NULL,
    ADD COLUMN author_id text COLLATE "C",
    ADD COLUMN edited_at timestamptz,
    ADD COLUMN url text,
    ADD COLUMN likes bigint,
    -- Since when the text has been a platform's notice that the comment was removed.
    ADD COLUMN removed_at timestamptz,
    -- A time of posting that was more than a day in the future when the comment arrived: posted_at is NULL then, so
    -- that the comment sorts by its arrival.
    ADD COLUMN posted_ahead timestamptz,
    -- The revision before the latest update of the row. After an update that does not change the text, both revisions
    -- are equal; this is how the writing statement distinguishes it from an edit.
    ADD COLUMN previous_revision integer;
"""

# A received text that equals a version replaced within the last day is a late repeat, not an edit. So is the text of an
# older version, if the row has an `edited_at` and the repeat has none. If the received `edited_at` is after the
# replacement, it is an edit. A removal notice always counts as an edit. The number of versions compared is bounded, so
# that a comment with a thousand edits costs no more than a comment with a hundred edits.
VERSIONS = """
CREATE OR REPLACE FUNCTION keep_comment_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.removed_at IS NULL AND (NEW.edited_at > OLD.edited_at) IS NOT TRUE AND EXISTS (
        SELECT FROM (
            SELECT text, replaced_at FROM comment_versions WHERE comment_id = OLD.id ORDER BY revision DESC LIMIT 100
        ) AS kept
        WHERE kept.text = NEW.text AND CASE
            WHEN NEW.edited_at IS DISTINCT FROM OLD.edited_at
                THEN NEW.edited_at <= kept.replaced_at AND kept.replaced_at > now() - interval '1 day'
            ELSE OLD.edited_at IS NOT NULL OR kept.replaced_at > now() - interval '1 day'
        END
    ) THEN
        RETURN NULL;
    END IF;
    INSERT INTO comment_versions (comment_id, revision, text) VALUES (OLD.id, OLD.revision, OLD.text);
    NEW.revision := OLD.revision + 1;
    NEW.updated_at := now();
    RETURN NEW;
END
$$;
"""

# Comments with a time in the future come first in every list. The index by time finds them. Times that were in the
# future on arrival but are past by now stay.
AHEAD = """
UPDATE comments SET posted_ahead = posted_at, posted_at = NULL WHERE occurred_at > now() + interval '1 day';
"""

# The entries in Redis identify a comment by its text only, so they would report another post's comment as a duplicate.
NAMESPACE = """
UPDATE installation SET previous_namespace = cache_namespace, cache_namespace = gen_random_uuid(),
    namespace_since = clock_timestamp();
"""

UNDO = """
CREATE OR REPLACE FUNCTION keep_comment_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO comment_versions (comment_id, revision, text) VALUES (OLD.id, OLD.revision, OLD.text);
    NEW.revision := OLD.revision + 1;
    NEW.updated_at := now();
    RETURN NEW;
END
$$;
UPDATE comments SET author = '' WHERE author IS NULL;
UPDATE comments SET posted_at = posted_ahead WHERE posted_ahead IS NOT NULL;
ALTER TABLE comments
    ALTER COLUMN author SET NOT NULL,
    DROP COLUMN author_id,
    DROP COLUMN edited_at,
    DROP COLUMN url,
    DROP COLUMN likes,
    DROP COLUMN removed_at,
    DROP COLUMN posted_ahead,
    DROP COLUMN previous_revision;
"""


def upgrade() -> None:
    """Adds the columns, replaces the trigger's function, and moves future times to `posted_ahead`."""
    op.execute(COLUMNS)
    op.execute(VERSIONS)
    op.execute(AHEAD)
    op.execute(NAMESPACE)


def downgrade() -> None:
    """Drops the columns with their data; an unknown author becomes an empty author."""
    op.execute(UNDO)
