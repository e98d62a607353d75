"""Cursors of keyset pages: opaque to the caller, the last row's sort key to us."""

import base64
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec

from comment_monitor.core.errors import BadRequest

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
# What a row's number in PostgreSQL can be.
RowId: Final = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
PostId: Final = Annotated[str, msgspec.Meta(pattern="^[^\\x00]+$")]


def encode_cursor(moment: datetime, tie: int | str) -> str:
    """The sort key of a page's last row, as URL-safe text."""
    return base64.urlsafe_b64encode(msgspec.json.encode((moment, tie))).decode().rstrip("=")


def decode_cursor(cursor: str, tie: Any) -> tuple[datetime, Any]:
    """The sort key behind a cursor; `tie` is the type of its second part.

    Raises:
        BadRequest: it is none of ours.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        moment, key = msgspec.json.decode(raw, type=tuple[Moment, tie])
        return moment.astimezone(UTC), key
    except (ValueError, OverflowError, msgspec.MsgspecError):
        raise BadRequest("`cursor` is not one that this service gave out.") from None
