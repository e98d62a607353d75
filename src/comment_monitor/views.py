"""SQL that only reads. Pages are keysets: a page costs the same wherever it lies, and nothing is skipped or doubled."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, LiteralString

import msgspec
from asyncpg import Record

from comment_monitor.cursor import PostId, RowId, decode_cursor, encode_cursor
from comment_monitor.db import Database, Query
from comment_monitor.errors import NotFound

COLUMNS: Final = """
    c.id AS row_id, c.comment_id, c.source, c.post_id, c.author, c.text, c.posted_at, c.occurred_at, c.parent_id,
    c.created_at, c.revision, c.metadata, a.status, a.revision AS analysed_revision, a.language, a.sentiment,
    a.sentiment_score, a.labels, a.analyser_version, a.analysed_at, a.error
"""

# A filter's name, its condition and how its value is bound. All are given by position, in this order.
FILTERS: Final[dict[str, LiteralString]] = {
    "post_id": "c.post_id = {}",
    "author": "c.author = {}",
    "source": "c.source = {}",
    "parent_id": "c.parent_id = {}",
    "since": "c.occurred_at >= {}::timestamptz",
    "until": "c.occurred_at < {}::timestamptz",
    "q": "strpos(lower(c.text), lower({})) > 0",
    "label": "a.labels @> ARRAY[{}::text]",
    "language": "a.language = {}",
    "sentiment": "a.sentiment = {}",
}


class AnalysisView(msgspec.Struct, kw_only=True):
    """What the analysis found in the comment's latest text."""

    status: str
    language: str | None
    sentiment: str | None
    sentiment_score: float | None
    labels: list[str]
    analyser_version: str
    analysed_at: datetime
    error: str | None


class CommentView(msgspec.Struct, kw_only=True):
    """A stored comment; `analysis` is null until its latest text is analysed."""

    id: str
    source: str
    post_id: str
    author: str
    text: str
    timestamp: datetime | None
    parent_id: str | None
    created_at: datetime
    metadata: Any
    analysis: AnalysisView | None


class CommentPage(msgspec.Struct, kw_only=True):
    """Comments, newest first; `next_cursor` is null on the last page."""

    items: list[CommentView]
    next_cursor: str | None


class Post(msgspec.Struct, kw_only=True):
    """A post that has comments."""

    source: str
    post_id: str
    comments: int
    first_comment_at: datetime
    last_comment_at: datetime


class PostPage(msgspec.Struct, kw_only=True):
    """Posts, the one with the newest comment first."""

    items: list[Post]
    next_cursor: str | None


class PostSummary(msgspec.Struct, kw_only=True):
    """A post's comments in numbers."""

    source: str
    post_id: str
    comments: int
    authors: int
    replies: int
    edited: int
    pending: int
    failed: int
    first_comment_at: datetime
    last_comment_at: datetime
    sentiment: dict[str, int]
    language: dict[str, int]
    labels: dict[str, int]


async def comments(database: Database, filters: dict[str, Any], *, limit: int, cursor: str | None) -> CommentPage:
    """A page of comments, newest first.

    Args:
        database: where to read.
        filters: name in FILTERS to value; None means not asked for.
        limit: rows at the most.
        cursor: `next_cursor` of the page before.

    Raises:
        BadRequest: the cursor can't be read.
    """
    conditions: list[LiteralString] = []
    values: list[Any] = []
    for name, value in filters.items():
        if value is not None:
            values.append(value)
            conditions.append(FILTERS[name].format(f"${len(values)}"))
    if cursor is not None:
        moment, row_id = decode_cursor(cursor, RowId)
        values += [moment, row_id]
        conditions.append(f"(c.occurred_at, c.id) < (${len(values) - 1}::timestamptz, ${len(values)}::bigint)")
    where: LiteralString = " AND ".join(conditions) or "true"
    # Results are joined where they belong to the latest text: an older one would speak of words no longer there.
    sql: LiteralString = f"""
        SELECT {COLUMNS} FROM comments c
        LEFT JOIN comment_analyses a ON a.comment_id = c.id AND a.revision = c.revision
        WHERE {where} ORDER BY c.occurred_at DESC, c.id DESC LIMIT {limit + 1:d}
    """  # noqa: S608 - put together from constants; values are bound
    async with database.connection() as conn:
        rows = await conn.fetch(Query("list_comments", sql), *values)
    more = len(rows) > limit
    last = rows[limit - 1] if more else None
    return CommentPage(
        items=[_comment(row) for row in rows[:limit]],
        next_cursor=encode_cursor(last["occurred_at"], last["row_id"]) if last else None,
    )


# One comment by its identity.
ONE: Final = Query(
    "get_comment",
    f"""
    SELECT {COLUMNS} FROM comments c
    LEFT JOIN comment_analyses a ON a.comment_id = c.id AND a.revision = c.revision
    WHERE c.source = $1 AND c.comment_id = $2
    """,  # noqa: S608 - constants
)


async def comment(database: Database, source: str, comment_id: str) -> CommentView:
    """One comment.

    Raises:
        NotFound: it is not stored.
    """
    async with database.connection() as conn:
        rows = await conn.fetch(ONE, source, comment_id)
    if not rows:
        raise NotFound("No such comment is stored.")
    return _comment(rows[0])


def _comment(row: Record) -> CommentView:
    analysis = None
    if row["status"] is not None:
        analysis = AnalysisView(
            status=row["status"],
            language=row["language"],
            sentiment=row["sentiment"],
            sentiment_score=None if row["sentiment_score"] is None else round(row["sentiment_score"], 4),
            labels=row["labels"],
            analyser_version=row["analyser_version"],
            analysed_at=row["analysed_at"],
            error=row["error"],
        )
    return CommentView(
        id=row["comment_id"],
        source=row["source"],
        post_id=row["post_id"],
        author=row["author"],
        text=row["text"],
        timestamp=row["posted_at"],
        parent_id=row["parent_id"],
        created_at=row["created_at"],
        metadata=None if row["metadata"] is None else msgspec.Raw(row["metadata"].encode()),
        analysis=analysis,
    )


# The posts, newest comment first. Distinct post ids are found by leaping through the index from one to the next,
# each with its newest comment; only the posts of the page asked for are counted.
POSTS: Final = Query(
    "list_posts",
    """
    WITH RECURSIVE leap AS (
        (SELECT post_id, occurred_at FROM comments ORDER BY post_id, occurred_at DESC, id DESC LIMIT 1)
        UNION ALL
        SELECT next.* FROM leap, LATERAL (
            SELECT c.post_id, c.occurred_at FROM comments c WHERE c.post_id > leap.post_id
            ORDER BY c.post_id, c.occurred_at DESC, c.id DESC LIMIT 1
        ) AS next
    ), page AS (
        SELECT post_id, occurred_at FROM leap
        WHERE $1::timestamptz IS NULL OR (occurred_at, post_id) < ($1, $2::text COLLATE "C")
        ORDER BY occurred_at DESC, post_id DESC LIMIT $3
    )
    SELECT c.source, page.post_id, count(*) AS comments, min(c.occurred_at) AS first_comment_at,
        max(c.occurred_at) AS last_comment_at, page.occurred_at
    FROM page JOIN comments c USING (post_id)
    GROUP BY c.source, page.post_id, page.occurred_at
    ORDER BY page.occurred_at DESC, page.post_id DESC, c.source
    """,
)


async def posts(database: Database, *, limit: int, cursor: str | None) -> PostPage:
    """A page of posts. A post id that two sources share counts once towards `limit` and is listed for each.

    Raises:
        BadRequest: the cursor can't be read.
    """
    moment, post_id = decode_cursor(cursor, PostId) if cursor is not None else (None, None)
    async with database.connection() as conn:
        rows = await conn.fetch(POSTS, moment, post_id, limit + 1)
    keys = list(dict.fromkeys((row["occurred_at"], row["post_id"]) for row in rows))
    shown = set(keys[:limit])
    items = [
        Post(
            source=row["source"],
            post_id=row["post_id"],
            comments=row["comments"],
            first_comment_at=row["first_comment_at"],
            last_comment_at=row["last_comment_at"],
        )
        for row in rows
        if (row["occurred_at"], row["post_id"]) in shown
    ]
    return PostPage(items=items, next_cursor=encode_cursor(*keys[limit - 1]) if len(keys) > limit else None)


# A post's numbers in one pass over its comments.
SUMMARY: Final = Query(
    "post_summary",
    """
    WITH found AS (
        SELECT c.author, c.parent_id, c.revision, c.occurred_at, a.status, a.language, a.sentiment, a.labels
        FROM comments c LEFT JOIN comment_analyses a ON a.comment_id = c.id AND a.revision = c.revision
        WHERE c.post_id = $1 AND c.source = $2
    )
    SELECT 'total' AS kind, NULL AS name, count(*) AS amount, count(DISTINCT author) AS authors,
        count(parent_id) AS replies, count(*) FILTER (WHERE revision > 1) AS edited,
        count(*) FILTER (WHERE status IS NULL) AS pending, count(*) FILTER (WHERE status = 'failed') AS failed,
        min(occurred_at) AS first_comment_at, max(occurred_at) AS last_comment_at
    FROM found
    UNION ALL
    SELECT 'sentiment', sentiment, count(*), 0, 0, 0, 0, 0, NULL, NULL FROM found WHERE sentiment IS NOT NULL GROUP BY 2
    UNION ALL
    SELECT 'language', language, count(*), 0, 0, 0, 0, 0, NULL, NULL FROM found WHERE language IS NOT NULL GROUP BY 2
    UNION ALL
    SELECT 'labels', label, count(*), 0, 0, 0, 0, 0, NULL, NULL FROM found, unnest(labels) AS label GROUP BY 2
    ORDER BY 1, 3 DESC, 2
    """,
)


async def post_summary(database: Database, source: str, post_id: str) -> PostSummary:
    """The numbers of one post.

    Raises:
        NotFound: it has no comments.
    """
    async with database.connection() as conn:
        rows = await conn.fetch(SUMMARY, post_id, source)
    total = next(row for row in rows if row["kind"] == "total")
    if not total["amount"]:
        raise NotFound("No comment of such a post is stored.")
    return PostSummary(
        source=source,
        post_id=post_id,
        comments=total["amount"],
        authors=total["authors"],
        replies=total["replies"],
        edited=total["edited"],
        pending=total["pending"],
        failed=total["failed"],
        first_comment_at=total["first_comment_at"],
        last_comment_at=total["last_comment_at"],
        sentiment=_counts(rows, "sentiment"),
        language=_counts(rows, "language"),
        labels=_counts(rows, "labels"),
    )


def _counts(rows: Sequence[Record], kind: str) -> dict[str, int]:
    return {row["name"]: row["amount"] for row in rows if row["kind"] == kind}
