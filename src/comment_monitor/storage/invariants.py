"""The invariants of the data, each with a query for its violations.

Used by the tests, by `comment-monitor check`, and periodically by the service itself.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from comment_monitor.storage.postgres import Connection, Query


class Invariant(NamedTuple):
    """A description, and a statement that returns (count of violations, up to five examples as text).

    Each statement compares only data of its own snapshot, so no two statements need a common snapshot.
    """

    description: str
    query: Query


class InvariantResult(NamedTuple):
    """The outcome of one invariant."""

    name: str
    description: str
    violations: int
    examples: list[str]


EXAMPLES: Final = 5
# Comments that one statement checks, in some tens of milliseconds and without blocking other statements.
SLICE: Final = 10_000

LAST_COMMENT: Final = Query("check_last_comment", "SELECT max(id) FROM comments")
# The last id of the slice of $2 comments after id $1; no id is above $3.
NEXT_SLICE: Final = Query(
    "check_next_slice",
    "SELECT max(id) FROM (SELECT id FROM comments WHERE id > $1 AND id <= $3 ORDER BY id LIMIT $2) AS slice",
)
IDENTITY: Final = "no two rows share source and comment id"
# Whether the unique index exists by which the slices find other comments of the same identity.
FIND_IDENTITY_INDEX: Final = Query(
    "check_identity_index",
    """
    SELECT EXISTS (
        SELECT FROM pg_index WHERE indrelid = 'comments'::regclass AND indisvalid
            AND pg_get_indexdef(indexrelid) LIKE 'CREATE UNIQUE INDEX % USING btree (source, comment_id)'
    )
    """,
)
# Without that index: one scan of the whole table.
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

# Checked in slices: each statement checks the comments with ids above $1 and up to $2.
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
        "no result is newer than its comment's text",
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
    "no batch waits for its analysis longer than it may",
    Query(
        "check_outbox_age",
        """
        SELECT count(*), (array_agg(id::text || ' since ' || created_at ORDER BY id))[:5] FROM analysis_outbox
        WHERE created_at < now() - make_interval(secs => $1)
        """,
    ),
)
INVARIANTS: Final = (*OF_A_SLICE, OUTBOX_AGE)

# Key of the advisory lock: only one process of the installation checks at a time.
CHECK_LOCK: Final = 0x636865636B
LOCK_CHECK: Final = Query("lock_check", "SELECT pg_try_advisory_lock($1)")
# The time of each invariant's last check (seconds since 1970), its violations, and whether it is due after $1 seconds.
LAST_CHECKS: Final = Query(
    "last_checks",
    """
    SELECT name, violations, extract(epoch FROM checked_at)::float8 AS checked_at,
        clock_timestamp() - checked_at >= make_interval(secs => $1) AS due
    FROM invariant_checks WHERE name = ANY ($2::text[])
    """,
)
# Adds invariants that are new to the database. They are first checked after an interval has passed.
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
    """Returns the name of an invariant in metrics and tables, such as `analysed`."""
    return invariant.query.name.removeprefix("check_")


async def check(conn: Connection, *, oldest: float, slice_size: int = SLICE, pause: float = 0) -> list[InvariantResult]:
    """Checks every invariant, in slices by id, so that each statement is short and its snapshot ends with it.

    Comments that arrive during the check are left for the next check.

    Args:
        conn: a connection in autocommit.
        oldest: seconds that a batch may wait for its analysis.
        slice_size: comments that one statement checks.
        pause: seconds between two slices, in which other work can use the disk.
    """
    found = {
        invariant.description: InvariantResult(name_of(invariant), invariant.description, 0, [])
        for invariant in INVARIANTS
    }
    sliced: Sequence[Invariant] = OF_A_SLICE
    if not await conn.value(FIND_IDENTITY_INDEX):
        await _run(conn, IDENTITY_WITHOUT_INDEX, found)
        sliced = [invariant for invariant in OF_A_SLICE if invariant.description != IDENTITY]
    after, end = 0, await conn.value(LAST_COMMENT) or 0
    while (last := await conn.value(NEXT_SLICE, after, slice_size, end)) is not None:
        for invariant in sliced:
            await _run(conn, invariant, found, after, last)
        after = last
        await asyncio.sleep(pause)
    await _run(conn, OUTBOX_AGE, found, oldest)
    return list(found.values())


async def _run(conn: Connection, invariant: Invariant, found: dict[str, InvariantResult], *arguments: float) -> None:
    """Runs the statement of one invariant and adds its violations to `found`."""
    [(violations, examples)] = await conn.fetch(invariant.query, *arguments)
    before = found[invariant.description]
    shown = [*before.examples, *(examples or [])][:EXAMPLES]
    found[invariant.description] = before._replace(violations=before.violations + violations, examples=shown)
