"""Cursors of pages: decoding reverses encoding, and any other text is rejected."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comment_monitor.core.errors import BadRequest
from comment_monitor.reading.cursor import PostId, RowId, decode_cursor, encode_cursor


@given(st.datetimes(timezones=st.just(UTC)), st.integers(1, 2**63 - 1))
def test_decoding_reverses_encoding(moment: datetime, row: int) -> None:
    assert decode_cursor(encode_cursor(moment, row), RowId) == (moment, row)


@given(st.text())
def test_any_other_text_is_a_bad_request(text: str) -> None:
    with pytest.raises(BadRequest):
        decode_cursor(text, RowId)


@pytest.mark.parametrize("tie", ["a", "ab", "abc", "???>>>~~~", " ???>>>~~~", "  ???>>>~~~"])
def test_a_cursor_needs_no_escaping_in_a_url(tie: str) -> None:
    """Neither padding nor `+` nor `/`: a client pastes the cursor into a query."""
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    cursor = encode_cursor(moment, tie)

    assert re.fullmatch("[A-Za-z0-9_-]+", cursor)
    assert decode_cursor(cursor, PostId) == (moment, tie)


def test_the_moment_of_a_cursor_is_in_utc() -> None:
    moment = datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2)))
    decoded, _ = decode_cursor(encode_cursor(moment, 1), RowId)

    assert decoded == moment
    assert decoded.tzinfo is UTC


@pytest.mark.parametrize("junk", ["    ", "\n\n\n\n", "!!!!"])
def test_a_cursor_with_foreign_characters_is_a_bad_request(junk: str) -> None:
    """They are not skipped. The message names the parameter."""
    with pytest.raises(BadRequest, match="`cursor`"):
        decode_cursor(encode_cursor(datetime(2026, 1, 2, tzinfo=UTC), 1) + junk, RowId)
