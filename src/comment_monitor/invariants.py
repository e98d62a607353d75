"""What must be true of the data at every moment, each as a query for its violations.

Used by the tests, by `comment-monitor check` and by whoever watches the system.
"""

from typing import Final, NamedTuple

from comment_monitor.db import Connection, Query


class Invariant(NamedTuple):
    """A promise in words, and a statement that returns (count of violations, up to five examples as text)."""

    promise: str
    query: Query


class Finding(NamedTuple):
    """The outcome of one invariant."""

    name: str
    promise: str
    violations: int
    examples: list[str]


INVARIANTS: Final = (
    Invariant(
        "no two rows share source and comment id",
        Query(
            "check_identity",
            """
            SELECT count(*), (array_agg(source || ' ' || comment_id ORDER BY source, comment_id))[:5] FROM
                (SELECT source, comment_id FROM comments GROUP BY 1, 2 HAVING count(*) > 1) AS twice
            """,
        ),
    ),
    Invariant(
        "every comment has a result of its latest text, or a place in the analysis queue",
        Query(
            "check_analysed",
            """
            WITH waiting AS MATERIALIZED (SELECT unnest(comment_ids) AS id FROM analysis_outbox)
            SELECT count(*), (array_agg(c.id::text ORDER BY c.id))[:5] FROM comments c
            WHERE NOT EXISTS (SELECT FROM comment_analyses a WHERE a.comment_id = c.id AND a.revision = c.revision)
                AND NOT EXISTS (SELECT FROM waiting w WHERE w.id = c.id)
            """,
        ),
    ),
    Invariant(
        "a version is kept for every edit",
        Query(
            "check_versions",
            """
            SELECT count(*), (array_agg(c.id::text ORDER BY c.id))[:5] FROM comments c
            LEFT JOIN (SELECT comment_id, count(*) AS kept FROM comment_versions GROUP BY 1) v ON v.comment_id = c.id
            WHERE c.revision - 1 <> coalesce(v.kept, 0)
            """,
        ),
    ),
    Invariant(
        "no result is of a later text than the comment's own",
        Query(
            "check_results",
            """
            SELECT count(*), (array_agg(a.comment_id::text ORDER BY a.comment_id))[:5]
            FROM comment_analyses a JOIN comments c ON c.id = a.comment_id WHERE a.revision > c.revision
            """,
        ),
    ),
    Invariant(
        "nothing waits for its analysis longer than it may",
        Query(
            "check_outbox_age",
            """
            SELECT count(*), (array_agg(id::text || ' since ' || created_at ORDER BY id))[:5] FROM analysis_outbox
            WHERE created_at < now() - make_interval(secs => $1)
            """,
        ),
    ),
)


async def check(conn: Connection, *, oldest: float) -> list[Finding]:
    """Looks at every invariant, in one snapshot where `conn` is in a repeatable-read transaction.

    Args:
        conn: a connection.
        oldest: seconds that a batch may wait for its analysis.
    """
    result = []
    for promise, query in INVARIANTS:
        arguments = (oldest,) if "$1" in query.sql else ()
        (row,) = await conn.fetch(query, *arguments)
        result.append(Finding(query.name.removeprefix("check_"), promise, row[0], row[1] or []))
    return result
