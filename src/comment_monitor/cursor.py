"""Cursors of keyset pages: opaque to the caller, the last row's sort key to us."""

import base64
import binascii
from datetime import datetime
from typing import Any

import msgspec

from comment_monitor.errors import BadRequest


def encode_cursor(moment: datetime, tie: int | str) -> str:
    """The sort key of a page's last row, as URL-safe text."""
    return base64.urlsafe_b64encode(msgspec.json.encode((moment, tie))).decode().rstrip("=")


def decode_cursor(cursor: str, *types: Any) -> tuple[Any, ...]:
    """The sort key behind a cursor.

    Raises:
        BadRequest: it is none of ours.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        values: tuple[Any, ...] = msgspec.json.decode(raw, type=tuple[types])  # type: ignore[valid-type]
        if any(isinstance(value, datetime) and value.tzinfo is None for value in values):
            raise BadRequest("`cursor` is not one that this service gave out.")
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise BadRequest("`cursor` is not one that this service gave out.") from None
    return values
