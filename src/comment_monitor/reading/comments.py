"""Comments as they are asked for. Pages are keysets: a page costs the same wherever it lies, and none is skipped."""

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


def _select(*, versions: bool, before_009: bool) -> LiteralString:
    """The comments with their results; those of an older text would speak of words no longer there."""
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
    """A page of comments, newest first; with their versions where one is asked for by its id.

    Args:
        database: where to read.
        filters: name in FILTERS to value; None means not asked for.
        limit: rows at most.
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
