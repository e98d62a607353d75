"""SQL that only reads. Pages are keysets: a page costs the same wherever it lies, and nothing is skipped or doubled."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, LiteralString

import msgspec
from asyncpg import Record

from comment_monitor.core.errors import NotFound
from comment_monitor.core.model import normalise_source
from comment_monitor.reading.cursor import PostId, RowId, decode_cursor, encode_cursor
from comment_monitor.storage.postgres import Database, Query

_DETAILS: Final = """
    coalesce(c.posted_ahead, c.posted_at) AS posted_at, c.author_id, c.edited_at, c.url, c.likes, c.removed_at
"""
# On the schema of the release before.
_NO_DETAILS: Final = """
    c.posted_at, NULL AS author_id, NULL::timestamptz AS edited_at, NULL AS url, NULL::bigint AS likes,
    NULL::timestamptz AS removed_at
"""
_COLUMNS: Final = """
    c.id AS row_id, c.comment_id, c.source, c.post_id, c.author, c.text, c.occurred_at, c.parent_id,
    c.created_at, c.revision, c.metadata, a.status, a.revision AS analysed_revision, a.language, a.sentiment,
    a.sentiment_score, a.labels, a.analyser_version, a.analysed_at, a.error
"""

# The earlier texts of a comment, the latest first, of which so many are shown.
MAX_VERSIONS: Final = 100
_VERSIONS: Final[LiteralString] = f"""
    LEFT JOIN LATERAL (
        SELECT array_agg(revision) AS revisions, array_agg(text) AS texts, array_agg(replaced_at) AS times
        FROM (SELECT revision, text, replaced_at FROM comment_versions WHERE comment_id = c.id
            ORDER BY revision DESC LIMIT {MAX_VERSIONS:d}) AS kept
    ) AS versions ON true
"""  # noqa: S608 - constants

# A filter's name, its condition and how its value is bound. All are given by position, in this order.
FILTERS: Final[dict[str, LiteralString]] = {
    "post_id": "c.post_id = {}",
    "author": "c.author = {}",
    # In the spelling that is asked for, or in the one that every source has: rows older than that rule may differ.
    "source": "c.source = ANY ({}::text[])",
    "id": "c.comment_id = {}",
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


class VersionView(msgspec.Struct, kw_only=True):
    """An earlier text of a comment."""

    revision: int
    text: str
    replaced_at: datetime


class CommentView(msgspec.Struct, kw_only=True):
    """A stored comment; `analysis` is null until its latest text is analysed.

    `author` is null where the platform withholds it. `removed_at`: since when `text` is a notice that the comment is
    gone. `versions`, of a comment that is asked for by its id: its earlier texts, the latest first.
    """

    id: str
    source: str
    post_id: str
    author: str | None
    author_id: str | None
    text: str
    timestamp: datetime | None
    edited_at: datetime | None
    parent_id: str | None
    url: str | None
    likes: int | None
    created_at: datetime
    removed_at: datetime | None
    metadata: Any
    analysis: AnalysisView | None
    versions: list[VersionView] | msgspec.UnsetType = msgspec.UNSET


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


def _select(*, versions: bool, before_009: bool) -> LiteralString:
    """The comments with their results; those of an older text would speak of words no longer there."""
    details = _NO_DETAILS if before_009 else _DETAILS
    more = ", versions.*" if versions else ""
    return f"""
        SELECT {_COLUMNS}, {details}{more} FROM comments c
        LEFT JOIN comment_analyses a ON a.comment_id = c.id AND a.revision = c.revision
        {_VERSIONS if versions else ""}
    """  # noqa: S608 - constants


def spellings(source: str) -> list[str]:
    """The source as it is asked for, and in its one spelling."""
    return list(dict.fromkeys((source, normalise_source(source))))


async def comments(
    database: Database, filters: dict[str, Any], *, limit: int, cursor: str | None, before_009: bool = False
) -> CommentPage:
    """A page of comments, newest first; with their versions where one is asked for by its id.

    Args:
        database: where to read.
        filters: name in FILTERS to value; None means not asked for.
        limit: rows at the most.
        cursor: `next_cursor` of the page before.
        before_009: whether the schema is still that of the release before.

    Raises:
        BadRequest: the cursor can't be read.
    """
    conditions: list[LiteralString] = []
    values: list[Any] = []
    for name, value in filters.items():
        if value is not None:
            values.append(spellings(value) if name == "source" else value)
            conditions.append(FILTERS[name].format(f"${len(values)}"))
    if cursor is not None:
        moment, row_id = decode_cursor(cursor, RowId)
        values += [moment, row_id]
        conditions.append(f"(c.occurred_at, c.id) < (${len(values) - 1}::timestamptz, ${len(values)}::bigint)")
    where: LiteralString = " AND ".join(conditions) or "true"
    sql: LiteralString = f"""
        {_select(versions=filters.get("id") is not None, before_009=before_009)}
        WHERE {where} ORDER BY c.occurred_at DESC, c.id DESC LIMIT {limit + 1:d}
    """
    async with database.connection() as conn:
        rows = await conn.fetch(Query("list_comments", sql), *values)
    more = len(rows) > limit
    last = rows[limit - 1] if more else None
    return CommentPage(
        items=[_comment(row) for row in rows[:limit]],
        next_cursor=encode_cursor(last["occurred_at"], last["row_id"]) if last else None,
    )


async def comment(database: Database, source: str, comment_id: str, *, before_009: bool = False) -> CommentView:
    """One comment by its identity.

    Raises:
        NotFound: it is not stored.
    """
    sql: LiteralString = f"""
        {_select(versions=True, before_009=before_009)}
        WHERE c.source = ANY ($1::text[]) AND c.comment_id = $2 ORDER BY array_position($1, c.source) LIMIT 1
    """
    async with database.connection() as conn:
        rows = await conn.fetch(Query("get_comment", sql), spellings(source), comment_id)
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
        author_id=row["author_id"],
        text=row["text"],
        timestamp=row["posted_at"],
        edited_at=row["edited_at"],
        parent_id=row["parent_id"],
        url=row["url"],
        likes=row["likes"],
        created_at=row["created_at"],
        removed_at=row["removed_at"],
        metadata=None if row["metadata"] is None else msgspec.Raw(row["metadata"].encode()),
        analysis=analysis,
        versions=_versions(row) if "revisions" in row else msgspec.UNSET,
    )


def _versions(row: Record) -> list[VersionView]:
    kept = zip(row["revisions"] or (), row["texts"] or (), row["times"] or (), strict=True)
    return [VersionView(revision=revision, text=text, replaced_at=moment) for revision, text, moment in kept]


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
        WHERE c.post_id = $1 AND c.source = ANY ($2::text[])
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
        rows = await conn.fetch(SUMMARY, post_id, spellings(source))
    total = next(row for row in rows if row["kind"] == "total")
    if not total["amount"]:
        raise NotFound("No comment of such a post is stored.")
    return PostSummary(
        source=normalise_source(source),
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
