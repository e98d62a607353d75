"""Cursors come back as they went, and anything else is a clear error."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comment_monitor.core.errors import BadRequest
from comment_monitor.reading.cursor import RowId, decode_cursor, encode_cursor


@given(st.datetimes(timezones=st.just(UTC)), st.integers(1, 2**63 - 1))
def test_a_cursor_comes_back(moment: datetime, row: int) -> None:
    """Any moment with any row id."""
    assert decode_cursor(encode_cursor(moment, row), RowId) == (moment, row)


@given(st.text())
def test_any_other_text_is_a_bad_request(text: str) -> None:
    """No text that a client makes up gets further than this."""
    with pytest.raises(BadRequest):
        decode_cursor(text, RowId)
