"""Add the comment monitoring tables.

Revision ID: 008
Revises: nothing. It is the first revision of this repository; the deployment guide sets its number.
"""

from datetime import UTC, datetime, timedelta

from alembic import op

revision = "008"
down_revision = None
branch_labels = None
depends_on = None

# Identifiers are compared byte by byte (COLLATE "C"): this is cheaper, and an upgrade of the system's collations can't
# corrupt their indexes. Texts keep the database's collation.
TABLES = """
CREATE TABLE installation (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    -- Prefix of this database's keys in Redis: a cache left over from another database must not call its comments
    -- duplicates.
    cache_namespace uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The prefix before the last change: for a short time some processes still use it.
    previous_namespace uuid NOT NULL DEFAULT gen_random_uuid(),
    -- Time of the last change: the next change waits until no process uses the previous prefix any more.
    namespace_since timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO installation DEFAULT VALUES;

CREATE TABLE comments (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz,
    posted_at timestamptz,
    -- The order of "newest first" and time ranges: the time of posting, or of arrival where that is unknown.
    occurred_at timestamptz NOT NULL GENERATED ALWAYS AS (COALESCE(posted_at, created_at)) STORED,
    revision integer NOT NULL DEFAULT 1,
    source text COLLATE "C" NOT NULL,
    comment_id text COLLATE "C" NOT NULL,
    post_id text COLLATE "C" NOT NULL,
    author text COLLATE "C" NOT NULL,
    parent_id text COLLATE "C",
    text text NOT NULL,
    -- json, not jsonb: keeps the received text, character for character.
    metadata json,
    CONSTRAINT comments_identity UNIQUE (source, comment_id)
);

CREATE TABLE comment_versions (
    comment_id bigint NOT NULL REFERENCES comments (id) ON DELETE CASCADE,
    revision integer NOT NULL,
    text text NOT NULL,
    replaced_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (comment_id, revision)
);

CREATE TABLE analysis_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz NOT NULL,
    comment_ids bigint[] NOT NULL CHECK (cardinality(comment_ids) > 0),
    -- resends: times that the sweep sent it again (-1: never sent). starts: times that a worker began it and did not
    -- end it, as with a batch that kills its worker. failures: times that an analyser raised on the comments left in
    -- it.
    resends integer NOT NULL DEFAULT 0,
    starts integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0
);

CREATE TABLE comment_analyses (
    comment_id bigint PRIMARY KEY REFERENCES comments (id) ON DELETE CASCADE,
    revision integer NOT NULL,
    status text COLLATE "C" NOT NULL CHECK (status IN ('done', 'failed')),
    analyser_version text COLLATE "C" NOT NULL,
    analysed_at timestamptz NOT NULL DEFAULT now(),
    language text COLLATE "C",
    language_confidence real,
    sentiment text COLLATE "C",
    sentiment_score real,
    labels text[] COLLATE "C" NOT NULL DEFAULT '{}',
    text_digest bigint,
    error text,
    CHECK ((status = 'failed') = (error IS NOT NULL))
);
"""

INDEXES = """
CREATE INDEX comments_post ON comments (post_id, occurred_at DESC, id DESC);
CREATE INDEX comments_author ON comments (author, occurred_at DESC, id DESC);
CREATE INDEX comments_time ON comments (occurred_at DESC, id DESC);
CREATE INDEX analysis_outbox_due ON analysis_outbox (due_at);
CREATE INDEX comment_analyses_text ON comment_analyses (text_digest) WHERE text_digest IS NOT NULL;
"""

# The database itself keeps the old text, so that no writer can omit it.
VERSIONS = """
CREATE FUNCTION keep_comment_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO comment_versions (comment_id, revision, text) VALUES (OLD.id, OLD.revision, OLD.text);
    NEW.revision := OLD.revision + 1;
    NEW.updated_at := now();
    RETURN NEW;
END
$$;
CREATE TRIGGER keep_comment_version BEFORE UPDATE OF text ON comments
    FOR EACH ROW WHEN (OLD.text IS DISTINCT FROM NEW.text) EXECUTE FUNCTION keep_comment_version();
"""

DROP = """
DROP TABLE comment_analyses, analysis_outbox, comment_versions, comments, installation;
DROP FUNCTION keep_comment_version();
"""


def upgrade() -> None:
    """Creates tables, indexes and the trigger that keeps versions."""
    op.execute(TABLES)
    op.execute(INDEXES)
    op.execute(VERSIONS)
    # A predicate can't call now(), so it has a fixed date, which `comment-monitor cleanup` moves forward.
    since = (datetime.now(UTC) - timedelta(days=7)).date()
    op.execute(
        f"CREATE INDEX comments_recent_{since:%Y%m%d} ON comments (occurred_at DESC, id DESC) "
        f"WHERE occurred_at >= '{since.isoformat()} 00:00:00+00'"
    )


def downgrade() -> None:
    """Drops all of it, including the data."""
    op.execute(DROP)
