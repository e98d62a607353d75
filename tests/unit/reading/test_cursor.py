"""Cursors of pages: decoding reverses encoding, and any other text is rejected."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comment_monitor.core.errors import BadRequest
from comment_monitor.reading.cursor import RowId, decode_cursor, encode_cursor


@given(st.datetimes(timezones=st.just(UTC)), st.integers(1, 2**63 - 1))
def test_decoding_reverses_encoding(moment: datetime, row: int) -> None:
    assert decode_cursor(encode_cursor(moment, row), RowId) == (moment, row)


@given(st.text())
def test_any_other_text_is_a_bad_request(text: str) -> None:
    with pytest.raises(BadRequest):
        decode_cursor(text, RowId)
