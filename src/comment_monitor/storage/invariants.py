"""What must be true of the data at every moment, each as a query for its violations.

Used by the tests, by `comment-monitor check` and by the service itself, once an interval.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from comment_monitor.storage.postgres import Connection, Query


class Invariant(NamedTuple):
    """A promise in words, and a statement that returns (count of violations, up to five examples as text).

    Each statement has a snapshot of its own that holds all it compares, so no two need the same.
    """

    promise: str
    query: Query


class InvariantResult(NamedTuple):
    """The outcome of one invariant."""

    name: str
    promise: str
    violations: int
    examples: list[str]


EXAMPLES: Final = 5
# Comments that one statement looks at: some tens of milliseconds, in which nothing else is held up.
SLICE: Final = 10_000

LAST_COMMENT: Final = Query("check_last_comment", "SELECT max(id) FROM comments")
# The last id of the slice after $1, of those up to $3.
NEXT_SLICE: Final = Query(
    "check_next_slice",
    "SELECT max(id) FROM (SELECT id FROM comments WHERE id > $1 AND id <= $3 ORDER BY id LIMIT $2) AS slice",
)
IDENTITY: Final = "no two rows share source and comment id"
# Whether the index is there by which the others of the same identity are found.
FIND_IDENTITY_INDEX: Final = Query(
    "check_identity_index",
    """
    SELECT EXISTS (
        SELECT FROM pg_index WHERE indrelid = 'comments'::regclass AND indisvalid
            AND pg_get_indexdef(indexrelid) LIKE 'CREATE UNIQUE INDEX % USING btree (source, comment_id)'
    )
    """,
)
# Without it, in one scan of the whole table.
IDENTITY_WITHOUT_INDEX: Final = Invariant(
    IDENTITY,
    Query(
        "check_identity_without_index",
        """
        SELECT coalesce(sum(rows - 1), 0)::bigint,
            (array_agg(source || ' ' || comment_id ORDER BY source, comment_id))[:5] FROM
            (SELECT source, comment_id, count(*) AS rows FROM comments GROUP BY 1, 2 HAVING count(*) > 1) AS twice
        """,
    ),
)

# Of the comments with ids above $1, up to $2.
OF_A_SLICE: Final = (
    Invariant(
        IDENTITY,
        Query(
            "check_identity",
            """
            SELECT count(*), (array_agg(c.source || ' ' || c.comment_id ORDER BY c.source, c.comment_id))[:5]
            FROM comments c WHERE c.id > $1 AND c.id <= $2 AND EXISTS (
                SELECT FROM comments o WHERE o.source = c.source AND o.comment_id = c.comment_id AND o.id < c.id
            )
            """,
        ),
    ),
    Invariant(
        "every comment has a result of its latest text, or a place in the analysis queue",
        Query(
            "check_analysed",
            """
            WITH missing AS MATERIALIZED (
                SELECT c.id FROM comments c WHERE c.id > $1 AND c.id <= $2 AND NOT EXISTS (
                    SELECT FROM comment_analyses a WHERE a.comment_id = c.id AND a.revision = c.revision
                        AND a.comment_id > $1 AND a.comment_id <= $2
                )
            ), waiting AS MATERIALIZED (
                SELECT unnest(comment_ids) AS id FROM analysis_outbox WHERE EXISTS (SELECT FROM missing)
            )
            SELECT count(*), (array_agg(m.id::text ORDER BY m.id))[:5] FROM missing m
            WHERE NOT EXISTS (SELECT FROM waiting w WHERE w.id = m.id)
            """,
        ),
    ),
    Invariant(
        "a version is kept for every edit",
        Query(
            "check_versions",
            """
            SELECT count(*), (array_agg(c.id::text ORDER BY c.id))[:5] FROM comments c
            LEFT JOIN (
                SELECT comment_id, count(*) AS kept FROM comment_versions
                WHERE comment_id > $1 AND comment_id <= $2 GROUP BY 1
            ) v ON v.comment_id = c.id
            WHERE c.id > $1 AND c.id <= $2 AND c.revision - 1 <> coalesce(v.kept, 0)
            """,
        ),
    ),
    Invariant(
        "no result is of a later text than the comment's own",
        Query(
            "check_results",
            """
            SELECT count(*), (array_agg(a.comment_id::text ORDER BY a.comment_id))[:5]
            FROM comment_analyses a JOIN comments c ON c.id = a.comment_id
            WHERE a.comment_id > $1 AND a.comment_id <= $2 AND c.id > $1 AND c.id <= $2 AND a.revision > c.revision
            """,
        ),
    ),
)
# Batches that have waited for more than $1 seconds.
OUTBOX_AGE: Final = Invariant(
    "nothing waits for its analysis longer than it may",
    Query(
        "check_outbox_age",
        """
        SELECT count(*), (array_agg(id::text || ' since ' || created_at ORDER BY id))[:5] FROM analysis_outbox
        WHERE created_at < now() - make_interval(secs => $1)
        """,
    ),
)
INVARIANTS: Final = (*OF_A_SLICE, OUTBOX_AGE)

# One process of the installation at a time.
CHECK_LOCK: Final = 0x636865636B
LOCK_CHECK: Final = Query("lock_check", "SELECT pg_try_advisory_lock($1)")
# When each invariant was last checked (seconds since 1970), what was found, and whether that is $1 seconds ago.
LAST_CHECKS: Final = Query(
    "last_checks",
    """
    SELECT name, violations, extract(epoch FROM checked_at)::float8 AS checked_at,
        clock_timestamp() - checked_at >= make_interval(secs => $1) AS due
    FROM invariant_checks WHERE name = ANY ($2::text[])
    """,
)
# An invariant that is new to the database is checked once an interval has passed.
ADD_CHECKS: Final = Query(
    "add_checks", "INSERT INTO invariant_checks (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"
)
SAVE_CHECKS: Final = Query(
    "save_checks",
    """
    UPDATE invariant_checks c SET checked_at = clock_timestamp(), violations = f.violations
    FROM unnest($1::text[], $2::bigint[]) AS f (name, violations) WHERE c.name = f.name
    """,
)


def name_of(invariant: Invariant) -> str:
    """Its name in metrics and tables, such as `analysed`."""
    return invariant.query.name.removeprefix("check_")


async def check(conn: Connection, *, oldest: float, slice_size: int = SLICE, pause: float = 0) -> list[InvariantResult]:
    """Looks at every invariant, in slices by id: each statement is short, and holds no snapshot after its end.

    Comments that come while it looks are left for the next look.

    Args:
        conn: a connection in autocommit.
        oldest: seconds that a batch may wait for its analysis.
        slice_size: comments that one statement looks at.
        pause: seconds between two slices, for whoever else needs the disk.
    """
    found = {one.promise: InvariantResult(name_of(one), one.promise, 0, []) for one in INVARIANTS}
    sliced: Sequence[Invariant] = OF_A_SLICE
    if not await conn.value(FIND_IDENTITY_INDEX):
        await _look(conn, IDENTITY_WITHOUT_INDEX, found)
        sliced = [one for one in OF_A_SLICE if one.promise != IDENTITY]
    after, end = 0, await conn.value(LAST_COMMENT) or 0
    while (last := await conn.value(NEXT_SLICE, after, slice_size, end)) is not None:
        for invariant in sliced:
            await _look(conn, invariant, found, after, last)
        after = last
        await asyncio.sleep(pause)
    await _look(conn, OUTBOX_AGE, found, oldest)
    return list(found.values())


async def _look(conn: Connection, invariant: Invariant, found: dict[str, InvariantResult], *arguments: float) -> None:
    """Adds what one statement finds."""
    [(violations, examples)] = await conn.fetch(invariant.query, *arguments)
    before = found[invariant.promise]
    shown = [*before.examples, *(examples or [])][:EXAMPLES]
    found[invariant.promise] = before._replace(violations=before.violations + violations, examples=shown)
