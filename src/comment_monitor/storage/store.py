"""The statements that write comments, their place in the analysis queue and their results. None of them commits."""

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from asyncpg import Record

from comment_monitor.analysis.engine import VERSION, Analysis, Failure
from comment_monitor.core.model import NO_DETAILS, STORED, UPDATED, Comment, Fate
from comment_monitor.core.removed import is_removed
from comment_monitor.storage.postgres import Connection, Query
from comment_monitor.storage.upsert import (
    ADD,
    ADD_DETAILS,
    LOOK,
    LOOK_BEFORE_009,
    UNCHANGED,
    WRITE,
    WRITE_BEFORE_009,
    WRITE_DETAILS,
)

# Notes that this write holds edits which Redis was not told of: after the commit no process that looks believes it,
# until the prefix of its keys is changed. An appended row, which no other write waits for.
NOTE_UNANNOUNCED: Final = Query("note_unannounced_edits", "INSERT INTO unannounced_edits DEFAULT VALUES")

# The same for a database without that table, one write after the other: disowns all that Redis remembers.
NEW_NAMESPACE: Final = Query(
    "new_cache_namespace",
    """
    UPDATE installation SET previous_namespace = cache_namespace, cache_namespace = gen_random_uuid(),
        namespace_since = clock_timestamp()
    RETURNING cache_namespace
    """,
)

# The same, where it can wait: not within $1 seconds of the last change. Edits tell Redis under two prefixes, so no
# process may be two behind. (A change in the future is one by a server whose clock was ahead.)
NEW_NAMESPACE_LATER: Final = Query(
    "new_cache_namespace_later",
    """
    UPDATE installation SET previous_namespace = cache_namespace, cache_namespace = gen_random_uuid(),
        namespace_since = clock_timestamp()
    WHERE namespace_since NOT BETWEEN clock_timestamp() - make_interval(secs => $1) AND clock_timestamp()
    RETURNING cache_namespace
    """,
)

# The prefix in Redis that holds when this transaction commits (nobody can change it until then), and the one before;
# and whether neither may be believed.
NAMESPACES: Final = Query(
    "cache_namespaces",
    """
    SELECT cache_namespace, previous_namespace, EXISTS (SELECT FROM unannounced_edits) FROM installation FOR SHARE
    """,
)
NAMESPACES_BEFORE_012: Final = Query(
    "cache_namespaces_before_012", "SELECT cache_namespace, previous_namespace, false FROM installation FOR SHARE"
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

# Two workers that store the same text at once must see each other, or neither finds the repetition.
LOCK_TEXTS: Final = Query(
    "lock_texts",
    "SELECT pg_advisory_xact_lock(digest) FROM (SELECT DISTINCT unnest($1::bigint[]) AS digest ORDER BY 1) AS sorted",
)

# Stores results, never over those of a later revision, and ends their outbox rows ($1). A text that stands in
# another comment too is labelled `repeated`, here and there. Of the others one is looked at, whatever their number:
# either it is alone, and gets the label now, or all of them have it. Comments removed in the meantime are left out.
SAVE_RESULTS: Final = Query(
    "save_results",
    """
    WITH ended AS (
        DELETE FROM analysis_outbox WHERE id = ANY ($1::bigint[]) RETURNING id
    ), alive AS MATERIALIZED (
        -- Locked, so that none is removed before its result is stored.
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


class Unchanged(NamedTuple):
    """A stored comment whose text a write left as it was, and why.

    `outcome`: `same` (the row holds what came), `version` (what came is an earlier text, or an earlier edit) or
    `conflict` (it is another comment, of the post `post_id`).
    """

    outcome: str
    revision: int
    post_id: str | None


# A row that holds just what came, whose revision was not asked for.
SAME: Final = Unchanged("same", 0, None)


class Written(NamedTuple):
    """What a write did: the fate and revision of each comment that is new or edited, and the outbox rows made.

    The comments of `fates` fill the rows in this order, each row up to its size. `all_new`: every comment was stored,
    and `fates` does not name them; they fill the rows in the order in which they were given. `unchanged` names the
    others, but for those that are SAME.
    """

    fates: dict[tuple[str, str], tuple[Fate, int]]
    outbox: list[int]
    all_new: bool = False
    unchanged: dict[tuple[str, str], Unchanged] = {}  # noqa: RUF012 - nobody changes it


async def write(
    conn: Connection,
    comments: Sequence[Comment],
    *,
    batch_size: int,
    resend_after: float | None,
    before_009: bool = False,
) -> Written:
    """Stores comments of distinct identity, sorted by it.

    Args:
        conn: a connection in a transaction.
        comments: what to store.
        batch_size: comments at most in an outbox row.
        resend_after: seconds after which the sweep sends the rows again; None: they are not going to be sent by the
            caller, so the sweep sends them as soon as it can.
        before_009: whether the schema is still that of the release before.
    """
    columns = _columns(comments)
    query = WRITE_BEFORE_009 if before_009 else WRITE
    if not before_009 and _any_details(comments):
        query = WRITE_DETAILS
        columns += _detail_columns(comments)
    rows = await conn.fetch(query, *columns, resend_after or 0, batch_size, -1 if resend_after is None else 0)
    outbox = sorted(row["id"] for row in rows if row["outcome"] is None)
    written = sorted((row for row in rows if row["outcome"] == "written"), key=itemgetter("id"))
    fates = {
        (row["source"], row["comment_id"]): (STORED if row["revision"] == 1 else UPDATED, row["revision"])
        for row in written
    }
    if outbox and len(rows) == len(outbox):
        return Written(fates, outbox, all_new=True)
    unchanged = _unchanged(row for row in rows if row["source"] is not None and row["outcome"] != "written")
    same = sum(row["id"] for row in rows if row["source"] is None and row["outcome"] == "same")
    if not before_009 and len(fates) + len(unchanged) + same < len(comments):
        # Another writer stored one of them while the statement was under way.
        others = [one for one in comments if one.key not in fates and one.key not in unchanged]
        unchanged |= _unchanged(await conn.fetch(UNCHANGED, *_identity_columns(others)))
    return Written(fates, outbox, unchanged=unchanged)


async def add(conn: Connection, comments: Sequence[Comment], *, batch_size: int, resend_after: float | None) -> Written:
    """Stores those of the comments that are new, as `write` would, and leaves the others alone.

    Args:
        conn: a connection in autocommit: this is a transaction of its own.
        comments: of distinct identity, sorted by it.
        batch_size: as for `write`.
        resend_after: as for `write`.
    """
    columns = _columns(comments)
    query = ADD
    if _any_details(comments):
        query = ADD_DETAILS
        columns += _detail_columns(comments)
    rows = await conn.fetch(query, *columns, resend_after or 0, batch_size, -1 if resend_after is None else 0)
    outbox = sorted(row["id"] for row in rows if row["source"] is None)
    added = sorted((row for row in rows if row["source"] is not None), key=itemgetter("id"))
    fates = {(row["source"], row["comment_id"]): (STORED, 1) for row in added}
    return Written(fates, outbox, all_new=bool(outbox) and not added)


def _unchanged(rows: Iterable[Record]) -> dict[tuple[str, str], Unchanged]:
    return {
        (row["source"], row["comment_id"]): Unchanged(row["outcome"], row["revision"], row["post_id"]) for row in rows
    }


def _columns(comments: Sequence[Comment]) -> list[list[Any]]:
    return [
        [c.source for c in comments],
        [c.id for c in comments],
        [c.post_id for c in comments],
        [c.author for c in comments],
        [c.text for c in comments],
        [c.timestamp for c in comments],
        [c.parent_id for c in comments],
        [c.metadata for c in comments],
    ]


def _any_details(comments: Sequence[Comment]) -> bool:
    return any(one.removed or one.details != NO_DETAILS for one in comments)


def _detail_columns(comments: Sequence[Comment]) -> list[list[Any]]:
    return [*map(list, zip(*(one.details for one in comments), strict=True)), [one.removed for one in comments]]


def _identity_columns(comments: Sequence[Comment]) -> list[list[Any]]:
    return [*_columns(comments)[:5], *_detail_columns(comments)]


async def look_for(conn: Connection, comments: Sequence[Comment], *, before_009: bool = False) -> list[int]:
    """Which of these, by their place, are stored just like this, so that a write would change nothing."""
    if before_009:
        rows = await conn.fetch(LOOK_BEFORE_009, *_columns(comments)[:5])
    else:
        rows = await conn.fetch(LOOK, *_identity_columns(comments))
    return [place for (place,) in rows]


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


Results = Sequence[tuple[int, int, Analysis | Failure]]


class Saved(NamedTuple):
    """The outbox rows that were still there and are ended now, and the comments whose result was stored."""

    ended: frozenset[int]
    comments: frozenset[int]


async def save_results(conn: Connection, outbox_ids: Sequence[int], results: Results) -> Saved:
    """Stores (comment id, revision, result), each comment once, and ends the outbox rows that are named."""
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
        VERSION,
    )
    return Saved(frozenset(ended), frozenset(saved))
