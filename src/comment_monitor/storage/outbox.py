"""The rows of the analysis queue: the statements on them that neither write comments nor store results. None commits.

`resends` of a row: -1 while its message has not been sent, 0 once it has been, then the times that the sweep sent it
again. `starts`: the times that a worker began it and did not come to an end. `failures`: the times that an analyser
raised on what is left in it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from comment_monitor.core.removed import is_removed
from comment_monitor.storage.postgres import Connection, Query

# What workers have been sent and have not yet ended, unless it is overdue: rows and comments. Beside it the results
# stored since the statistics began, new and overwritten ones, whichever process stored them. Reads at most $1 rows.
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

# Puts off, by $2 seconds, the rows whose message was sent and that are due within $1 seconds. It comes before they are
# due: by then they would lie among those that were never sent, however many these are.
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

# Takes due rows for sending, each due again after a longer time. Any process may run it at any time.
SWEEP: Final = Query(
    "sweep_outbox",
    """
    UPDATE analysis_outbox SET resends = resends + 1,
        due_at = now() + make_interval(secs => least($2 * $3 ^ least(resends + 1, 20), 3600) * (0.75 + random() / 2))
    WHERE id IN (SELECT id FROM analysis_outbox WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING id, resends
    """,
)

# Counts a start on each of the rows $1, before the analysis begins: how a row that kills its worker is told from one
# that was lost. $2 holds the counts as they were before this delivery: the statement may run again where its answer
# was lost, and counts once. A row whose failures are not those of $3 any more was dealt with by another worker.
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

# A start that came to an end, if to no good one, says nothing of a comment that kills its worker.
TAKE_BACK_STARTS: Final = Query(
    "take_back_starts",
    """
    UPDATE analysis_outbox SET starts = greatest(starts - 1, 0)
    WHERE id IN (SELECT id FROM analysis_outbox WHERE id = ANY ($1::bigint[]) ORDER BY id FOR UPDATE)
    """,
)

# Leaves rows to the next worker: the sweep sends them at once, as if for the first time. $2 names those whose start was
# counted. A row that another worker is just ending is left to that one.
GIVE_BACK: Final = Query(
    "give_back_batches",
    """
    UPDATE analysis_outbox SET due_at = now(), resends = -1,
        starts = CASE WHEN id = ANY ($2::bigint[]) THEN greatest(starts - 1, 0) ELSE starts END
    WHERE id IN (SELECT id FROM analysis_outbox WHERE id = ANY ($1::bigint[]) ORDER BY id FOR UPDATE SKIP LOCKED)
    """,
)

# Takes comments whose results are stored out of a row that has others; nothing where another worker was faster.
SHRINK: Final = Query(
    "shrink_batch",
    """
    UPDATE analysis_outbox
    SET comment_ids = ARRAY(SELECT unnest(comment_ids) EXCEPT SELECT unnest($2::bigint[]) ORDER BY 1)
    WHERE id = $1 AND comment_ids && $2 AND NOT comment_ids <@ $2 RETURNING id
    """,
)

# Keeps in the outbox row only the comments that failed, for a later try in $3 seconds (with jitter, at most an hour).
# This try came to its end, so it says nothing of a comment that ends its worker. Where another worker was faster ($4 is
# not the row's count any more), the row is as that one left it.
KEEP_FAILING: Final = Query(
    "keep_failing",
    """
    UPDATE analysis_outbox SET comment_ids = $2, failures = failures + 1, starts = 0, resends = -1,
        due_at = now() + make_interval(secs => least($3, 3600) * (0.75 + random() / 2))
    WHERE id = $1 AND failures = $4 RETURNING id
    """,
)

# The same where the row has comments that were not begun: those that failed get a row of their own.
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

# Gives each comment of a row a row of its own, due now: one that kills its worker must not take others with it. A start
# is counted on each from the beginning, so that workers do not analyse them in groups.
SPLIT_BATCH: Final = Query(
    "split_batch",
    """
    WITH old AS (DELETE FROM analysis_outbox WHERE id = $1 RETURNING comment_ids, created_at)
    INSERT INTO analysis_outbox (comment_ids, created_at, due_at, resends, starts)
    SELECT ARRAY[one], created_at, now(), -1, 1 FROM old, unnest(comment_ids) AS one
    """,
)

# The comments of outbox rows as they are now; the rows stay until their results are stored.
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
    """A batch to analyse: (id, revision, text) of each comment that still exists, and its row's counters.

    The text is empty where it is a notice that the comment is gone: nothing is to be read out of it. `more`: these are
    not all of the row's comments.
    """

    outbox_id: int
    comments: list[tuple[int, int, str]]
    starts: int
    resends: int
    failures: int
    more: bool = False


async def load_batches(conn: Connection, outbox_ids: Sequence[int]) -> list[Loaded]:
    """The batches behind outbox rows; one that is done already is left out."""
    batches: dict[int, Loaded] = {}
    for outbox_id, starts, resends, failures, id_, revision, source, text in await conn.fetch(LOAD_BATCHES, outbox_ids):
        batch = batches.get(outbox_id)
        if batch is None:
            batch = batches[outbox_id] = Loaded(outbox_id, [], starts, resends, failures)
        if id_ is not None:
            batch.comments.append((id_, revision, "" if is_removed(source, text) else text))
    return list(batches.values())
