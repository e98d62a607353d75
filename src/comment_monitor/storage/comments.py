"""Writes and finds comments. The caller commits; `upsert.py` has the statements."""

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from asyncpg import Record

from comment_monitor.core.model import NO_DETAILS, STORED, UPDATED, Comment, Outcome
from comment_monitor.storage.postgres import Connection
from comment_monitor.storage.upsert import (
    ADD,
    ADD_DETAILS,
    FIND_STORED,
    FIND_STORED_BEFORE_009,
    UNCHANGED,
    WRITE,
    WRITE_BEFORE_009,
    WRITE_DETAILS,
)


class Unchanged(NamedTuple):
    """A stored comment whose text a write did not change, and why.

    `outcome`: `same` (the row has the received text), `version` (the received text is an earlier text or edit) or
    `conflict` (the stored comment is another comment, of the post `post_id`).
    """

    outcome: str
    revision: int
    post_id: str | None


# A row that is identical to the received comment, and whose revision was not read.
SAME: Final = Unchanged("same", 0, None)


class Written(NamedTuple):
    """The result of a write: outcome and revision of each new or edited comment, and the ids of the new outbox rows.

    The comments fill the outbox rows in the order of `outcomes`, each row up to its size. `all_new`: every comment was
    new; then `outcomes` is empty, and the comments fill the rows in the order of the input. `unchanged` has the other
    comments, except those that are SAME.
    """

    outcomes: dict[tuple[str, str], tuple[Outcome, int]]
    outbox: list[int]
    all_new: bool = False
    unchanged: dict[tuple[str, str], Unchanged] = {}  # noqa: RUF012 - never changed


async def write(
    conn: Connection,
    comments: Sequence[Comment],
    *,
    batch_size: int,
    resend_after: float | None,
    before_009: bool = False,
) -> Written:
    """Stores comments.

    Args:
        conn: a connection in a transaction.
        comments: comments of distinct identity, sorted by it.
        batch_size: maximum number of comments in an outbox row.
        resend_after: seconds after which the sweep sends the rows again; None: the caller does not send them, so the
            sweep sends them as soon as it can.
        before_009: whether migration 009 has not run yet.
    """
    columns = _columns(comments)
    query = WRITE_BEFORE_009 if before_009 else WRITE
    if not before_009 and _any_details(comments):
        query = WRITE_DETAILS
        columns += _detail_columns(comments)
    rows = await conn.fetch(query, *columns, resend_after or 0, batch_size, -1 if resend_after is None else 0)
    outbox = sorted(row["id"] for row in rows if row["outcome"] is None)
    written = sorted((row for row in rows if row["outcome"] == "written"), key=itemgetter("id"))
    outcomes = {
        (row["source"], row["comment_id"]): (STORED if row["revision"] == 1 else UPDATED, row["revision"])
        for row in written
    }
    if outbox and len(rows) == len(outbox):
        return Written(outcomes, outbox, all_new=True)
    unchanged = _unchanged(row for row in rows if row["source"] is not None and row["outcome"] != "written")
    same = sum(row["id"] for row in rows if row["source"] is None and row["outcome"] == "same")
    if not before_009 and len(outcomes) + len(unchanged) + same < len(comments):
        # Another writer stored some of them while the statement was running.
        others = [comment for comment in comments if comment.key not in outcomes and comment.key not in unchanged]
        unchanged |= _unchanged(await conn.fetch(UNCHANGED, *_identity_columns(others)))
    return Written(outcomes, outbox, unchanged=unchanged)


async def add(conn: Connection, comments: Sequence[Comment], *, batch_size: int, resend_after: float | None) -> Written:
    """Stores only the new comments, as `write` would.

    Args:
        conn: a connection in autocommit, so that this statement is its own transaction.
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
    outcomes = {(row["source"], row["comment_id"]): (STORED, 1) for row in added}
    return Written(outcomes, outbox, all_new=bool(outbox) and not added)


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
    return any(comment.removed or comment.details != NO_DETAILS for comment in comments)


def _detail_columns(comments: Sequence[Comment]) -> list[list[Any]]:
    return [*map(list, zip(*(c.details for c in comments), strict=True)), [c.removed for c in comments]]


def _identity_columns(comments: Sequence[Comment]) -> list[list[Any]]:
    return [*_columns(comments)[:5], *_detail_columns(comments)]


async def find_stored(conn: Connection, comments: Sequence[Comment], *, before_009: bool = False) -> list[int]:
    """Returns the indexes of the comments that are stored identically, so that a write would change nothing."""
    if before_009:
        rows = await conn.fetch(FIND_STORED_BEFORE_009, *_columns(comments)[:5])
    else:
        rows = await conn.fetch(FIND_STORED, *_identity_columns(comments))
    return [index for (index,) in rows]
