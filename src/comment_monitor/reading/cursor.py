"""Cursors of pages. A cursor holds the sort key of a page's last row, in a form that clients do not interpret."""

import base64
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec

from comment_monitor.core.errors import BadRequest

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
# The range of a row's id in PostgreSQL.
RowId: Final = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
PostId: Final = Annotated[str, msgspec.Meta(pattern="^[^\\x00]+$")]


def encode_cursor(moment: datetime, tie: int | str) -> str:
    """Returns the sort key of a page's last row as URL-safe text.

    Args:
        moment: the time by which the rows are sorted.
        tie: the value that orders rows with an equal time, such as the row's id.
    """
    return base64.urlsafe_b64encode(msgspec.json.encode((moment, tie))).decode().rstrip("=")


def decode_cursor(cursor: str, tie: Any) -> tuple[datetime, Any]:
    """Returns the sort key in a cursor; `tie` is the type of the key's second value.

    Raises:
        BadRequest: the cursor is malformed.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        moment, key = msgspec.json.decode(raw, type=tuple[Moment, tie])
        return moment.astimezone(UTC), key
    except (ValueError, OverflowError, msgspec.MsgspecError):
        raise BadRequest("`cursor` is malformed: it must be the `next_cursor` of a page.") from None
