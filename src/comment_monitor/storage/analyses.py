"""Stores the results of the analysis and deletes their outbox rows. The caller commits."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from comment_monitor.core.model import Analysis, Failure
from comment_monitor.storage.postgres import Connection, Query

# Locks texts by their digest. Without the lock, two workers that store the same text at the same time would not see
# each other's result, and neither would find the repetition.
LOCK_TEXTS: Final = Query(
    "lock_texts",
    "SELECT pg_advisory_xact_lock(digest) FROM (SELECT DISTINCT unnest($1::bigint[]) AS digest ORDER BY 1) AS sorted",
)

# Stores results, except over results of a later revision, and deletes the outbox rows $1. A text that another comment
# has too is labelled `repeated` in both comments. The statement reads only one of the other comments with the text: it
# is either the only other one, and gets the label now, or all of them have the label already. Comments that were
# deleted in the meantime are skipped.
SAVE_RESULTS: Final = Query(
    "save_results",
    """
    WITH ended AS (
        DELETE FROM analysis_outbox WHERE id = ANY ($1::bigint[]) RETURNING id
    ), alive AS MATERIALIZED (
        -- Locked, so that no comment is deleted before its result is stored.
        SELECT id FROM comments WHERE id = ANY ($2) ORDER BY id FOR KEY SHARE
    ), new AS (
        SELECT r.*, other.comment_id AS other, other.comment_id IS NOT NULL
            OR r.digest IS NOT NULL AND count(*) OVER (PARTITION BY r.digest) > 1 AS repeated
        FROM unnest($2::bigint[], $3::int[], $4::text[], $5::text[], $6::real[], $7::text[], $8::real[], $9::text[],
                    $10::bigint[], $11::text[])
            AS r (comment_id, revision, status, language, language_confidence, sentiment, sentiment_score, labels,
                  digest, error)
        JOIN alive ON alive.id = r.comment_id
        LEFT JOIN LATERAL (
            SELECT o.comment_id FROM comment_analyses o
            WHERE o.text_digest = r.digest AND o.comment_id <> ALL ($2) LIMIT 1
        ) AS other ON true
    ), saved AS (
        INSERT INTO comment_analyses AS a (comment_id, revision, status, analyser_version, language,
            language_confidence, sentiment, sentiment_score, labels, text_digest, error)
        SELECT comment_id, revision, status, $12, language, language_confidence, sentiment, sentiment_score,
            string_to_array(labels, ',') || CASE WHEN repeated THEN '{repeated}'::text[] ELSE '{}' END, digest, error
        FROM new ORDER BY comment_id
        ON CONFLICT (comment_id) DO UPDATE SET revision = excluded.revision, status = excluded.status,
            analyser_version = excluded.analyser_version, analysed_at = now(), language = excluded.language,
            language_confidence = excluded.language_confidence, sentiment = excluded.sentiment,
            sentiment_score = excluded.sentiment_score, labels = excluded.labels,
            text_digest = excluded.text_digest, error = excluded.error
        WHERE a.revision <= excluded.revision
        RETURNING comment_id
    ), labelled AS (
        UPDATE comment_analyses SET labels = labels || '{repeated}'::text[]
        WHERE comment_id IN (SELECT other FROM new) AND NOT labels @> '{repeated}'
    )
    SELECT ARRAY(SELECT id FROM ended), ARRAY(SELECT comment_id FROM saved)
    """,
)


Results = Sequence[tuple[int, int, Analysis | Failure]]


class Saved(NamedTuple):
    """The ids of the outbox rows that this call deleted, and of the comments whose result it stored."""

    ended: frozenset[int]
    comments: frozenset[int]


async def save_results(conn: Connection, outbox_ids: Sequence[int], results: Results, version: str) -> Saved:
    """Stores results and deletes their outbox rows.

    Args:
        conn: a connection in a transaction.
        outbox_ids: the outbox rows to delete.
        results: (comment id, revision, result), each comment once.
        version: the version of the analysis.
    """
    done = [r if isinstance(r, Analysis) else None for _, _, r in results]
    digests = [d.text_digest if d else None for d in done]
    if found := [digest for digest in digests if digest is not None]:
        await conn.fetch(LOCK_TEXTS, found)
    [(ended, saved)] = await conn.fetch(
        SAVE_RESULTS,
        outbox_ids,
        [id_ for id_, _, _ in results],
        [revision for _, revision, _ in results],
        ["done" if d else "failed" for d in done],
        [d.language if d else None for d in done],
        [d.language_confidence if d else None for d in done],
        [d.sentiment if d else None for d in done],
        [d.sentiment_score if d else None for d in done],
        [",".join(d.labels) if d else "" for d in done],
        digests,
        [r.reason if isinstance(r, Failure) else None for _, _, r in results],
        version,
    )
    return Saved(frozenset(ended), frozenset(saved))
