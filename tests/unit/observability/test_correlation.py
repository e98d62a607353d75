"""The message header with the requests of the comments in a batch."""

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

TRACED, UNTRACED = RequestContext("traced", "00-aa-bb-01"), RequestContext("untraced")


def test_decoding_reverses_encoding() -> None:
    contexts = {5: [TRACED, UNTRACED], 6: [UNTRACED]}
    assert decode(encode(contexts)) == contexts
    assert unique(contexts) == [TRACED, UNTRACED]
    assert request_ids(contexts, [6, 7]) == ["untraced"]


def test_no_contexts_make_an_empty_header() -> None:
    assert encode({}) == encode({1: []}) == ""
    assert decode("") == decode(None) == {}


@pytest.mark.parametrize(
    "header",
    ["{}x", "5", '[["a"]]', '[["a", "b", 5]]', b"\xff", 7, '{"a": 1}'],
    ids=["not-json", "number", "short-entry", "no-batches", "not-utf-8", "not-text", "object"],
)
def test_a_foreign_header_is_ignored(header: Any) -> None:
    assert decode(header) == {}


def test_headers_of_combined_messages_are_merged() -> None:
    assert decode(merge([encode({1: [TRACED]}), None, encode({2: [TRACED, UNTRACED]})])) == {
        1: [TRACED],
        2: [TRACED, UNTRACED],
    }


def test_the_length_of_a_header_is_bounded() -> None:
    """The headers of a message must fit into one frame of 128 KiB."""
    many = {
        batch: [RequestContext(f"{batch}-{number}".rjust(64, "x"), "00-" + "a" * 52) for number in range(25)]
        for batch in range(50)
    }
    header = encode(many)
    assert len(unique(decode(header))) == MAX_REQUESTS
    assert len(header) < 16_384
