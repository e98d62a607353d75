"""Statements on the outbox rows that neither write comments nor store results. The caller commits.

`resends` of a row: -1 while its message has not been sent, 0 once it has been sent, then the number of times that the
sweep sent it again. `starts`: the number of times that a worker began it and did not come to an end. `failures`: the
number of times that an analyser raised on the comments left in it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from comment_monitor.core.removed import is_removed
from comment_monitor.storage.postgres import Connection, Query

# Rows, and their comments, that were sent to workers and are neither finished nor overdue. Also the number of results
# that all processes have inserted and updated since the statistics began. Reads at most $1 rows.
OUTSTANDING: Final = Query(
    "outstanding_batches",
    """
    SELECT count(*) AS rows, coalesce(sum(cardinality(comment_ids)), 0) AS comments,
        pg_stat_get_tuples_inserted('comment_analyses'::regclass) AS inserted,
        pg_stat_get_tuples_updated('comment_analyses'::regclass) AS updated,
        current_setting('track_counts')::boolean AS counted
    FROM (SELECT comment_ids FROM analysis_outbox WHERE due_at > now() AND resends >= 0 LIMIT $1) AS outstanding
    """,
)

# Postpones by $2 seconds the rows whose message was sent and that are due within $1 seconds. It runs before they are
# due: afterwards they would be mixed with the due rows that were never sent, of which there may be any number.
POSTPONE: Final = Query(
    "postpone_resending",
    """
    UPDATE analysis_outbox SET due_at = now() + make_interval(secs => $2)
    WHERE id IN (
        SELECT id FROM analysis_outbox
        WHERE due_at > now() AND due_at <= now() + make_interval(secs => $1) AND resends >= 0
        FOR UPDATE SKIP LOCKED
    )
    """,
)

# Takes due rows for sending; each is due again after a longer time. Any process may run it at any time.
SWEEP: Final = Query(
    "sweep_outbox",
    """
    UPDATE analysis_outbox SET resends = resends + 1,
        due_at = now() + make_interval(secs => least($2 * $3 ^ least(resends + 1, 20), 3600) * (0.75 + random() / 2))
    WHERE id IN (SELECT id FROM analysis_outbox WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING id, resends
    """,
)

# Counts a start of each of the rows $1 before the analysis begins, which distinguishes a row that kills its worker from
# a lost message. $2 has the counts before this delivery, so a statement that runs again because its response was lost
# counts once. A row whose failures differ from those in $3 was processed by another worker meanwhile.
COUNT_STARTS: Final = Query(
    "count_starts",
    """
    WITH begun AS (
        SELECT o.id, given.before
        FROM unnest($1::bigint[], $2::int[], $3::int[]) AS given (id, before, failures)
        JOIN analysis_outbox o ON o.id = given.id AND o.failures = given.failures
        ORDER BY o.id FOR UPDATE OF o
    )
    UPDATE analysis_outbox o SET starts = greatest(o.starts, begun.before + 1) FROM begun WHERE o.id = begun.id
    RETURNING o.id, o.starts
    """,
)

# Takes starts back that came to an end, even a bad end: they are no sign of a comment that kills its worker.
TAKE_BACK_STARTS: Final = Query(
    "take_back_starts",
    """
    UPDATE analysis_outbox SET starts = greatest(starts - 1, 0)
    WHERE id IN (SELECT id FROM analysis_outbox WHERE id = ANY ($1::bigint[]) ORDER BY id FOR UPDATE)
    """,
)

# Returns rows to the queue: the sweep sends them at once, as if for the first time. $2 has the rows whose start was
# counted. Skips a row that another worker is just finishing.
GIVE_BACK: Final = Query(
    "give_back_batches",
    """
    UPDATE analysis_outbox SET due_at = now(), resends = -1,
        starts = CASE WHEN id = ANY ($2::bigint[]) THEN greatest(starts - 1, 0) ELSE starts END
    WHERE id IN (SELECT id FROM analysis_outbox WHERE id = ANY ($1::bigint[]) ORDER BY id FOR UPDATE SKIP LOCKED)
    """,
)

# Removes comments with stored results from a row that has other comments; does nothing if another worker was faster.
SHRINK: Final = Query(
    "shrink_batch",
    """
    UPDATE analysis_outbox
    SET comment_ids = ARRAY(SELECT unnest(comment_ids) EXCEPT SELECT unnest($2::bigint[]) ORDER BY 1)
    WHERE id = $1 AND comment_ids && $2 AND NOT comment_ids <@ $2 RETURNING id
    """,
)

# Keeps only the failed comments in the outbox row, for another attempt in $3 seconds (with jitter, at most an hour).
# This attempt came to its end, so its start is no sign of a comment that kills its worker. If another worker was faster
# ($4 is no longer the row's count of failures), the row stays as that worker left it.
KEEP_FAILING: Final = Query(
    "keep_failing",
    """
    UPDATE analysis_outbox SET comment_ids = $2, failures = failures + 1, starts = 0, resends = -1,
        due_at = now() + make_interval(secs => least($3, 3600) * (0.75 + random() / 2))
    WHERE id = $1 AND failures = $4 RETURNING id
    """,
)

# As KEEP_FAILING, for a row with comments that were not begun: the failed comments move to a new row.
SPLIT_FAILING: Final = Query(
    "split_failing",
    """
    WITH old AS (
        UPDATE analysis_outbox
        SET comment_ids = ARRAY(SELECT unnest(comment_ids) EXCEPT SELECT unnest($2::bigint[]) ORDER BY 1)
        WHERE id = $1 AND failures = $4 AND comment_ids @> $2 AND NOT comment_ids <@ $2
        RETURNING created_at
    )
    INSERT INTO analysis_outbox (comment_ids, created_at, due_at, resends, failures)
    SELECT $2, created_at, now() + make_interval(secs => least($3, 3600) * (0.75 + random() / 2)), -1, $4 + 1 FROM old
    RETURNING id
    """,
)

# Splits a row into one row per comment, due now, so that a comment that kills its worker does not affect the others.
# Each new row begins with one counted start, so that workers do not analyse it in a group.
SPLIT_BATCH: Final = Query(
    "split_batch",
    """
    WITH old AS (DELETE FROM analysis_outbox WHERE id = $1 RETURNING comment_ids, created_at)
    INSERT INTO analysis_outbox (comment_ids, created_at, due_at, resends, starts)
    SELECT ARRAY[one], created_at, now(), -1, 1 FROM old, unnest(comment_ids) AS one
    """,
)

# The current comments of outbox rows. The rows stay until their results are stored.
LOAD_BATCHES: Final = Query(
    "load_batches",
    """
    SELECT o.id AS outbox_id, o.starts, o.resends, o.failures, c.id, c.revision, c.source, c.text
    FROM analysis_outbox o
    LEFT JOIN LATERAL unnest(o.comment_ids) AS wanted (id) ON true
    LEFT JOIN comments c ON c.id = wanted.id
    WHERE o.id = ANY ($1::bigint[])
    ORDER BY o.id, c.id
    """,
)


class Loaded(NamedTuple):
    """A batch to analyse: (id, revision, text) of each comment that still exists, and the counters of its row.

    The text is empty where the stored text is a removal notice, because a notice is not analysed. `more`: whether the
    row has further comments.
    """

    outbox_id: int
    comments: list[tuple[int, int, str]]
    starts: int
    resends: int
    failures: int
    more: bool = False


async def load_batches(conn: Connection, outbox_ids: Sequence[int]) -> list[Loaded]:
    """Returns the batches of outbox rows; a batch that is finished already is left out."""
    batches: dict[int, Loaded] = {}
    for outbox_id, starts, resends, failures, id_, revision, source, text in await conn.fetch(LOAD_BATCHES, outbox_ids):
        batch = batches.get(outbox_id)
        if batch is None:
            batch = batches[outbox_id] = Loaded(outbox_id, [], starts, resends, failures)
        if id_ is not None:
            batch.comments.append((id_, revision, "" if is_removed(source, text) else text))
    return list(batches.values())
