"""Queries for comments. Pages use keysets: every page costs the same, and no comment is skipped."""

from datetime import datetime
from typing import Any, Final, LiteralString

import msgspec

from comment_monitor.core.errors import NotFound
from comment_monitor.core.model import spellings
from comment_monitor.reading.cursor import RowId, decode_cursor, encode_cursor
from comment_monitor.storage.postgres import Database, Query, Record

_DETAILS: Final = """
    coalesce(c.posted_ahead, c.posted_at) AS posted_at, c.author_id, c.edited_at, c.url, c.likes, c.removed_at
"""
# On a schema before revision 009.
_NO_DETAILS: Final = """
    c.posted_at, NULL AS author_id, NULL::timestamptz AS edited_at, NULL AS url, NULL::bigint AS likes,
    NULL::timestamptz AS removed_at
"""
_COLUMNS: Final = """
    c.id AS row_id, c.comment_id, c.source, c.post_id, c.author, c.text, c.occurred_at, c.parent_id,
    c.created_at, c.revision, c.metadata, a.status, a.revision AS analysed_revision, a.language, a.sentiment,
    a.sentiment_score, a.labels, a.analyser_version, a.analysed_at, a.error
"""

# Maximum number of earlier texts that a comment shows, the latest first.
MAX_VERSIONS: Final = 100
_VERSIONS: Final[LiteralString] = f"""
    LEFT JOIN LATERAL (
        SELECT array_agg(revision) AS revisions, array_agg(text) AS texts, array_agg(replaced_at) AS times
        FROM (SELECT revision, text, replaced_at FROM comment_versions WHERE comment_id = c.id
            ORDER BY revision DESC LIMIT {MAX_VERSIONS:d}) AS kept
    ) AS versions ON true
"""  # noqa: S608 - constants

# The condition of each filter; its value is bound as a positional parameter.
FILTERS: Final[dict[str, LiteralString]] = {
    "post_id": "c.post_id = {}",
    "author": "c.author = {}",
    # In the requested spelling or the canonical one: rows older than the canonical spelling may have another.
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
    """The result of the analysis of the comment's latest text."""

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

    `author` is null where the platform withholds it. `removed_at`: since when `text` has been a removal notice.
    `versions`, only if the comment is requested by its id: its earlier texts, the latest first.
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


def _select(*, versions: bool, before_009: bool) -> LiteralString:
    """Returns the SELECT of comments and their results, without results of an older text."""
    details = _NO_DETAILS if before_009 else _DETAILS
    more = ", versions.*" if versions else ""
    return f"""
        SELECT {_COLUMNS}, {details}{more} FROM comments c
        LEFT JOIN comment_analyses a ON a.comment_id = c.id AND a.revision = c.revision
        {_VERSIONS if versions else ""}
    """  # noqa: S608 - constants


async def comments(
    database: Database, filters: dict[str, Any], *, limit: int, cursor: str | None, before_009: bool = False
) -> CommentPage:
    """Returns a page of comments, newest first; with their versions if the filter `id` is given.

    Args:
        database: the pool for reading.
        filters: name in FILTERS to value; None: no filter.
        limit: maximum number of rows.
        cursor: `next_cursor` of the page before.
        before_009: whether migration 009 has not run yet.

    Raises:
        BadRequest: the cursor can't be decoded.
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
    """Returns one comment by its identity.

    Raises:
        NotFound: the comment is not stored.
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
