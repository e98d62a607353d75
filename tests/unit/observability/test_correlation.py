"""The header that tells whose comments are in a batch."""

from typing import Any

import pytest

from comment_monitor.observability.correlation import (
    MAX_REQUESTS,
    RequestContext,
    decode,
    encode,
    merge,
    request_ids,
    unique,
)

ONE, TWO = RequestContext("one", "00-aa-bb-01"), RequestContext("two")


def test_it_tells_what_it_was_told() -> None:
    known = {5: [ONE, TWO], 6: [TWO]}
    assert decode(encode(known)) == known
    assert unique(known) == [ONE, TWO]
    assert request_ids(known, [6, 7]) == ["two"]


def test_of_nothing_it_says_nothing() -> None:
    assert encode({}) == encode({1: []}) == ""
    assert decode("") == decode(None) == {}


@pytest.mark.parametrize("header", ["{}x", "5", '[["a"]]', '[["a", "b", 5]]', b"\xff", 7, '{"a": 1}'])
def test_what_is_none_of_ours_is_passed_over(header: Any) -> None:
    assert decode(header) == {}


def test_messages_that_become_one_have_one_header() -> None:
    assert decode(merge([encode({1: [ONE]}), None, encode({2: [ONE, TWO]})])) == {1: [ONE], 2: [ONE, TWO]}


def test_its_length_is_bounded() -> None:
    """The headers of a message have to fit into one frame of 128 KiB."""
    many = {
        batch: [RequestContext(f"{batch}-{one}".rjust(64, "x"), "00-" + "a" * 52) for one in range(25)]
        for batch in range(50)
    }
    header = encode(many)
    assert len(unique(decode(header))) == MAX_REQUESTS
    assert len(header) < 16_384
