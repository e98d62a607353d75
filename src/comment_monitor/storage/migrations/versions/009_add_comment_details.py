"""Add what a comment may tell of its author and edits, and keep late repeats from becoming edits.

Revision ID: 009
Revises: 008

Columns without a default and a dropped NOT NULL change the catalogue only: no table is rewritten, and the release
before goes on writing and reading.
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
    -- Since when the text is a platform's notice that the comment is gone.
    ADD COLUMN removed_at timestamptz,
    -- A time of posting that lay more than a day ahead when the comment came: posted_at is NULL then, so that the
    -- comment sorts by its arrival.
    ADD COLUMN posted_ahead timestamptz,
    -- The revision before the latest update of the row. An update that leaves the text alone leaves both equal, which
    -- is how the writing statement tells it from an edit.
    ADD COLUMN previous_revision integer;
"""

# The text of a version that was replaced within the last day comes again: a late repeat, not an edit. So does a text
# that is older, where the row knows the time of a later edit and the repeat tells none. A time of edit after the
# replacement says that it is an edit. A notice that the comment is gone always counts. The number of versions looked at
# is bounded, so that a comment edited a thousand times costs no more than one edited a hundred times.
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

# Times that lie ahead lead every list. The index of times finds them; what was ahead once and is past by now stays.
AHEAD = """
UPDATE comments SET posted_ahead = posted_at, posted_at = NULL WHERE occurred_at > now() + interval '1 day';
"""

# What Redis holds was noted by the text alone: it would take another post's comment for a duplicate.
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
    """Adds the columns, replaces the trigger's function, and lets no time ahead lead the lists."""
    op.execute(COLUMNS)
    op.execute(VERSIONS)
    op.execute(AHEAD)
    op.execute(NAMESPACE)


def downgrade() -> None:
    """Removes them, with what they hold; an unknown author becomes an empty one."""
    op.execute(UNDO)
