"""Queries for posts: their list, and the statistics of one post."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from comment_monitor.core.errors import NotFound
from comment_monitor.core.model import normalise_source, spellings
from comment_monitor.reading.cursor import PostId, decode_cursor, encode_cursor
from comment_monitor.storage.postgres import Database, Query, Record


class Post(msgspec.Struct, kw_only=True):
    """A post that has comments."""

    source: str
    post_id: str
    comments: int
    first_comment_at: datetime
    last_comment_at: datetime


class PostPage(msgspec.Struct, kw_only=True):
    """Posts, the post with the newest comment first."""

    items: list[Post]
    next_cursor: str | None


class PostSummary(msgspec.Struct, kw_only=True):
    """Statistics of a post's comments."""

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


# The posts, newest comment first. The query finds the distinct post ids by jumping through the index from each id to
# the next, each with its newest comment, and counts only the comments of the requested page's posts.
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
    """Returns a page of posts. A post id of two sources counts once towards `limit`, and is listed for each source.

    Raises:
        BadRequest: the cursor can't be decoded.
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


# A post's statistics in one pass over its comments.
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
    """Returns the statistics of one post.

    Raises:
        NotFound: the post has no comments.
    """
    async with database.connection() as conn:
        rows = await conn.fetch(SUMMARY, post_id, spellings(source))
    total = next(row for row in rows if row["kind"] == "total")
    if not total["amount"]:
        raise NotFound("No comment of this post is stored.")
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
