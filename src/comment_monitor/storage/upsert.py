"""The statements that store comments, and the conditions that decide between new, edit, rename, repeat and conflict.

In the conditions, `c` is the stored row and `{new}` the received comment. WRITE evaluates them on a row that it has
locked, so they apply to the row's latest state, whatever other transactions do. UNCHANGED, in the same transaction,
reads rows that WRITE has locked. Only FIND_STORED reads rows without a lock.
"""

from typing import Final, LiteralString

from comment_monitor.storage.postgres import Query

# An `edited_at` more than a day in the future is not used for ordering, because it would always win. It is stored only
# if the row has no `edited_at`.
_BELIEVED: Final = "CASE WHEN {0}.edited_at <= now() + interval '1 day' THEN {0}.edited_at END"
_NEW_EDIT: Final = _BELIEVED.replace("{0}", "{new}")
_OLD_EDIT: Final = _BELIEVED.replace("{0}", "c")

# The columns of the row after the write. A removal notice does not change `author`, and a second notice changes neither
# `text` nor `removed_at`. Fields that the sender does not give keep their values.
AFTER: Final[dict[str, LiteralString]] = {
    "text": "CASE WHEN c.removed_at IS NOT NULL AND {new}.removed_at IS NOT NULL THEN c.text ELSE {new}.text END",
    "author": "CASE WHEN {new}.removed_at IS NULL THEN coalesce({new}.author, c.author) ELSE c.author END",
    "author_id": "coalesce(c.author_id, {new}.author_id)",
    "edited_at": f"coalesce(greatest({_NEW_EDIT}, {_OLD_EDIT}), c.edited_at, {{new}}.edited_at)",
    "url": "coalesce({new}.url, c.url)",
    "likes": "coalesce({new}.likes, c.likes)",
    "removed_at": "CASE WHEN {new}.removed_at IS NOT NULL THEN coalesce(c.removed_at, {new}.removed_at) END",
}
_CHANGED: Final = f"({', '.join(AFTER.values())}) IS DISTINCT FROM ({', '.join(f'c.{column}' for column in AFTER)})"
_SAME_TEXT: Final = f"({AFTER['text']}) = c.text"
# Two comments with the same source, id and post count as the same comment if both have an `author_id` and these are
# equal. If one of them lacks an `author_id`, an equal author name or an equal text is enough; an unknown name equals
# every name, and a removal notice needs neither.
_ELSEWHERE: Final = "c.post_id <> {new}.post_id OR coalesce(c.author_id <> {new}.author_id, false)"
_OTHER_NAME: Final = (
    "coalesce(c.author <> {new}.author, false) AND coalesce(c.author_id <> {new}.author_id, true)"
    " AND {new}.removed_at IS NULL"
)
_STALE: Final = f"coalesce({_NEW_EDIT} < {_OLD_EDIT}, false) AND {{new}}.removed_at IS NULL"
# Whether the row takes the new values: no, if they belong to another comment, if their text is older than the stored
# one, or if they change nothing. An earlier text that arrives again late passes this condition; then the trigger
# `keep_comment_version` (migration 009) may skip the update. It compares the text with the last 100 versions, and asks
# how long ago the version was replaced and whether `edited_at` changes. It never skips a removal notice or an update
# with a later `edited_at`.
TAKEN: Final = f"NOT ({_ELSEWHERE}) AND ({_SAME_TEXT} OR NOT (({_OTHER_NAME}) OR ({_STALE}))) AND {_CHANGED}"
# Why the row did not take the new values: the received comment is another comment (`conflict`), has the row's text
# (`same`), or is an earlier text or edit (`version`).
WHY: Final = f"""
    CASE WHEN {_ELSEWHERE} THEN 'conflict'
        WHEN {_SAME_TEXT} THEN 'same'
        WHEN ({_OTHER_NAME}) AND NOT EXISTS (
            SELECT FROM comment_versions v WHERE v.comment_id = c.id AND v.text = {{new}}.text
                AND v.replaced_at > now() - interval '1 day'
        ) THEN 'conflict'
        ELSE 'version' END
"""

# The columns of a comment as parameters: $1 to $8, and also $9 to $13 where a comment has one of the optional fields.
_PLAIN: Final = "source, comment_id, post_id, author, text, posted_at, parent_id, metadata"
_PLAIN_ARRAYS: Final = (
    "$1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[], $8::text[]"
)
_DETAILS: Final = "author_id, edited_at, url, likes, removed"
_DETAIL_ARRAYS: Final = "$9::text[], $10::timestamptz[], $11::text[], $12::bigint[], $13::boolean[]"
_NO_DETAILS: Final = (
    "NULL::text AS author_id, NULL::timestamptz AS edited_at, NULL::text AS url, NULL::bigint AS likes, "
    "NULL::timestamptz AS removed_at"
)
_GIVEN_DETAILS: Final = "author_id, edited_at, url, likes, CASE WHEN removed THEN now() END AS removed_at"

_INSERT: Final = """
        INSERT INTO comments AS c (source, comment_id, post_id, author, text, posted_at, posted_ahead, parent_id,
            metadata{columns})
        SELECT source, comment_id, post_id, author, text,
            CASE WHEN posted_at <= now() + interval '1 day' THEN posted_at END,
            CASE WHEN posted_at > now() + interval '1 day' THEN posted_at END,
            parent_id, metadata::json{values}
        FROM unnest({arrays}) AS new ({names})
"""
# {resends}: -1 for rows that are left to the sweep, else 0.
_OUTBOX: Final = """
        INSERT INTO analysis_outbox (comment_ids, due_at, resends)
        SELECT array_agg(id ORDER BY id), now() + make_interval(secs => {after}), {resends} FROM numbered GROUP BY part
        ORDER BY part
        RETURNING id
"""

# One statement for any number of comments: it stores new comments, updates known comments (a trigger keeps an old text
# as a version), and queues new and edited comments for analysis, in outbox rows of at most {size} comments.
# The comments are sorted by identity, so that all writers lock in the same order.
# If all comments are new, the result has only the outbox rows. The comments get ascending `id`s in the order of the
# input, so the caller knows which comments each outbox row holds.
# Otherwise the result also has a row for each comment that is new, an edit, a change of other fields, a conflict or an
# earlier version, and one row with the number of comments that change nothing.
# The CTE `unchanged` locks its rows a second time, because a SELECT with a lock reads the rows' current state, and one
# without a lock reads the state in this statement's snapshot. It finds each row by the unique index, whatever table
# size the planner assumes.
_WRITE: Final = f"""
    WITH written AS ({_INSERT}
        ON CONFLICT (source, comment_id) DO UPDATE SET {{set}}, previous_revision = c.revision
            WHERE {{taken}}
        RETURNING c.id, c.source, c.comment_id, c.revision, c.revision IS DISTINCT FROM c.previous_revision AS queued
    ), numbered AS (
        SELECT id, (row_number() OVER (ORDER BY id) - 1) / {{size}} AS part FROM written WHERE queued
    ), outbox AS ({_OUTBOX}
    ), rest AS (
        SELECT source, comment_id, post_id, author, text, {{details}} FROM unnest({{arrays}}) AS new ({{names}})
        WHERE (SELECT count(*) FROM written) < cardinality($2)
            AND (source, comment_id) NOT IN (SELECT source, comment_id FROM written)
    ), unchanged AS (
        SELECT rest.source, rest.comment_id, c.revision, c.post_id, {{why}} AS outcome
        FROM rest CROSS JOIN LATERAL (
            SELECT * FROM comments WHERE source = rest.source AND comment_id = rest.comment_id FOR NO KEY UPDATE
        ) AS c
    )
    SELECT id, source, comment_id, revision, CASE WHEN queued THEN 'written' ELSE 'same' END AS outcome,
        NULL AS post_id
    FROM written
    WHERE (SELECT count(*) FILTER (WHERE queued AND revision = 1) FROM written) < cardinality($2)
    UNION ALL
    SELECT NULL, source, comment_id, revision, outcome, post_id FROM unchanged WHERE outcome <> 'same'
    UNION ALL
    SELECT count(*), NULL, NULL, NULL, 'same', NULL FROM unchanged WHERE outcome = 'same' HAVING count(*) > 0
    UNION ALL
    SELECT id, NULL, NULL, NULL, NULL, NULL FROM outbox
"""  # noqa: S608 - constants

# Stores and queues only the new comments. `Pipeline` writes the others in a transaction, because edits need further
# steps before their commit. If all comments are new, the result has only the outbox rows; otherwise also a row for each
# new comment.
_ADD: Final = f"""
    WITH written AS ({_INSERT}
        ON CONFLICT (source, comment_id) DO NOTHING
        RETURNING id, source, comment_id
    ), numbered AS (
        SELECT id, (row_number() OVER (ORDER BY id) - 1) / {{size}} AS part FROM written
    ), outbox AS ({_OUTBOX}
    )
    SELECT id, source, comment_id FROM written WHERE (SELECT count(*) FROM written) < cardinality($2)
    UNION ALL
    SELECT id, NULL, NULL FROM outbox
"""  # noqa: S608 - constants


def _query(sql: LiteralString, *, details: bool) -> Query:
    first = 14 if details else 9
    names: LiteralString = f"{_PLAIN}, {_DETAILS}" if details else _PLAIN
    return Query(
        "write_comments",
        sql.format(
            columns=", author_id, edited_at, url, likes, removed_at" if details else "",
            values=f", {_GIVEN_DETAILS}" if details else "",
            details=_GIVEN_DETAILS if details else _NO_DETAILS,
            arrays=f"{_PLAIN_ARRAYS}, {_DETAIL_ARRAYS}" if details else _PLAIN_ARRAYS,
            names=names,
            set=", ".join(f"{column} = {value}" for column, value in AFTER.items()).replace("{new}", "excluded"),
            taken=TAKEN.replace("{new}", "excluded"),
            why=WHY.replace("{new}", "rest"),
            # The parameters after those of the comments' fields.
            after=f"${first:d}",
            size=f"${first + 1:d}::int",
            resends=f"${first + 2:d}",
        ),
    )


WRITE: Final = _query(_WRITE, details=False)
WRITE_DETAILS: Final = _query(_WRITE, details=True)
ADD: Final = _query(_ADD, details=False)
ADD_DETAILS: Final = _query(_ADD, details=True)

# WRITE for a database whose migration 009 has not run yet: there, any other text is an edit.
WRITE_BEFORE_009: Final = Query(
    "write_comments_before_009",
    """
    WITH written AS (
        INSERT INTO comments AS c (source, comment_id, post_id, author, text, posted_at, parent_id, metadata)
        SELECT source, comment_id, post_id, author, text, posted_at, parent_id, metadata::json
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[],
                    $8::text[])
            AS new (source, comment_id, post_id, author, text, posted_at, parent_id, metadata)
        ON CONFLICT (source, comment_id) DO UPDATE SET text = excluded.text
            WHERE c.text IS DISTINCT FROM excluded.text
        RETURNING c.id, c.source, c.comment_id, c.revision
    ), numbered AS (
        SELECT id, (row_number() OVER (ORDER BY id) - 1) / $10::int AS part FROM written
    ), outbox AS (
        INSERT INTO analysis_outbox (comment_ids, due_at, resends)
        SELECT array_agg(id ORDER BY id), now() + make_interval(secs => $9), $11 FROM numbered GROUP BY part
        ORDER BY part
        RETURNING id
    )
    SELECT id, source, comment_id, revision, 'written' AS outcome, NULL AS post_id FROM written
    WHERE (SELECT count(*) FROM written WHERE revision = 1) < cardinality($2)
    UNION ALL
    SELECT id, NULL, NULL, NULL, NULL, NULL FROM outbox
    """,
)

# Parameters of the queries that only read: the fields that identify a comment, and those that decide whether its row
# takes the new values.
_IDENTITY: Final = """
    unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::text[],
        $9::bigint[], $10::boolean[]) WITH ORDINALITY
        AS given (source, comment_id, post_id, author, text, author_id, edited_at, url, likes, removed, place)
    CROSS JOIN LATERAL (SELECT CASE WHEN removed THEN now() END AS removed_at) AS gone
"""
_NEW: Final = f"(SELECT * FROM {_IDENTITY}) AS new"  # noqa: S608 - constants

# Finds the comments that are stored identically, so that a write would change nothing. ON CONFLICT in WRITE
# locks the row even if nothing changes, which dirties a page and writes WAL; this query does neither.
FIND_STORED: Final = Query(
    "look_for_comments",
    f"""
    SELECT place - 1 FROM {_NEW} CROSS JOIN LATERAL (
        SELECT * FROM comments WHERE source = new.source AND comment_id = new.comment_id OFFSET 0
    ) AS c
    WHERE NOT ({_ELSEWHERE}) AND {_SAME_TEXT} AND NOT ({_CHANGED})
    """.replace("{new}", "new"),  # noqa: S608 - constants
)
FIND_STORED_BEFORE_009: Final = Query(
    "look_for_comments_before_009",
    """
    SELECT place - 1 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
        WITH ORDINALITY AS new (source, id, post_id, author, text, place)
    JOIN comments c ON c.source = new.source AND c.comment_id = new.id AND c.post_id = new.post_id
        AND c.author = new.author AND c.text = new.text
    """,
)

# Why the stored rows of some comments did not change. It is a separate query for comments that another writer stored
# while the writing statement was running, because that statement's snapshot does not have them.
UNCHANGED: Final = Query(
    "unchanged_comments",
    f"""
    SELECT c.source, c.comment_id, c.revision, {WHY} AS outcome, c.post_id
    FROM {_NEW} JOIN comments c ON c.source = new.source AND c.comment_id = new.comment_id
    """.replace("{new}", "new"),  # noqa: S608 - constants
)
