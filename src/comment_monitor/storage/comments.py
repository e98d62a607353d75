"""Writes and looks up comments. No function commits; `upsert.py` has the statements."""

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from asyncpg import Record

from comment_monitor.core.model import NO_DETAILS, STORED, UPDATED, Comment, Outcome
from comment_monitor.storage.postgres import Connection
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
    """What a write did: the outcome and revision of each comment that is new or edited, and the outbox rows made.

    The comments of `outcomes` fill the rows in this order, each row up to its size. `all_new`: every comment was
    stored, and `outcomes` does not name them; they fill the rows in the order in which they were given. `unchanged`
    names the others, but for those that are SAME.
    """

    outcomes: dict[tuple[str, str], tuple[Outcome, int]]
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
    outcomes = {
        (row["source"], row["comment_id"]): (STORED if row["revision"] == 1 else UPDATED, row["revision"])
        for row in written
    }
    if outbox and len(rows) == len(outbox):
        return Written(outcomes, outbox, all_new=True)
    unchanged = _unchanged(row for row in rows if row["source"] is not None and row["outcome"] != "written")
    same = sum(row["id"] for row in rows if row["source"] is None and row["outcome"] == "same")
    if not before_009 and len(outcomes) + len(unchanged) + same < len(comments):
        # Another writer stored one of them while the statement was under way.
        others = [one for one in comments if one.key not in outcomes and one.key not in unchanged]
        unchanged |= _unchanged(await conn.fetch(UNCHANGED, *_identity_columns(others)))
    return Written(outcomes, outbox, unchanged=unchanged)


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
