"""A reference model of the rules of identity and edits: the row that must result from each comment.

It uses no SQL, caches or requests. Times of edits are whole seconds here, and all versions are younger than a day.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Row:
    """A stored comment."""

    post_id: str
    author: str | None
    author_id: str | None
    text: str
    edited_at: str | None
    url: str | None
    likes: int | None
    removed: bool
    versions: list[str] = field(default_factory=list)


NOTICES = ("[removed]", "[deleted]")


class Table:
    """The comments of one source, by id."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def take(self, post_id: str, comment: dict[str, Any]) -> str:
        """Applies a comment; returns `stored`, `updated`, `duplicate` or `rejected`."""
        new = Row(
            post_id,
            comment.get("author") or None,
            comment.get("author_id"),
            comment["text"],
            comment.get("edited_at"),
            comment.get("url"),
            comment.get("likes"),
            comment["text"] in NOTICES,
        )
        if new.author in NOTICES:
            new.author = None
        row = self.rows.get(comment["id"])
        if row is None:
            self.rows[comment["id"]] = new
            return "stored"
        if row.post_id != post_id or (row.author_id and new.author_id and row.author_id != new.author_id):
            return "rejected"
        if row.text == new.text or (row.removed and new.removed):
            self._refresh(row, new)
            return "duplicate"
        return self._another_text(row, new)

    def _another_text(self, row: Row, new: Row) -> str:
        same_id = row.author_id and row.author_id == new.author_id
        other_name = row.author and new.author and row.author != new.author and not same_id and not new.removed
        if other_name:
            return "duplicate" if new.text in row.versions else "rejected"
        later = new.edited_at and row.edited_at and new.edited_at > row.edited_at
        earlier = new.edited_at and row.edited_at and new.edited_at < row.edited_at
        if not new.removed and (earlier or (not later and new.text in row.versions)):
            return "duplicate"
        row.versions.append(row.text)
        row.text, row.removed = new.text, new.removed
        self._refresh(row, new)
        return "updated"

    @staticmethod
    def _refresh(row: Row, new: Row) -> None:
        if not new.removed and new.author:
            row.author = new.author
        row.author_id = row.author_id or new.author_id
        row.edited_at = max(filter(None, (row.edited_at, new.edited_at)), default=None)
        row.url = new.url or row.url
        row.likes = row.likes if new.likes is None else new.likes
