"""Parsing of requests: a bad comment is rejected by name, and the others are kept character for character."""

import json
import time
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from tests.support.requests import body, comment
from tests.unit.case_ids import case_id

from comment_monitor.core.errors import InvalidRequest, NotJson, TooLarge
from comment_monitor.intake.comment_decoder import id_of
from comment_monitor.intake.request_parser import parse_request


def reasons(*comments: Any) -> list[str | None]:
    """Returns for each comment the reason for its rejection; None: it was accepted."""
    parsed = parse_request(json.dumps(body(*comments)).encode(), max_comments=1000)
    by_index = {rejection.index: rejection.reason for rejection in parsed.rejected}
    assert len(parsed.comments) == len(parsed.indexes) == len(comments) - len(by_index)
    return [by_index.get(index) for index in range(len(comments))]


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (comment(""), "id"),
        ({"text": "t", "author": "a"}, "id"),
        ({"id": 5, "text": "t", "author": "a"}, "id"),
        (comment("x" * 201), "id"),
        (comment("a\0b"), "NUL"),
        (comment(1, ""), "text"),
        (comment(1, " \n\t　"), "blank"),
        (comment(1, "x" * 10_001), "text"),
        (comment(1, "a\0b"), "NUL"),
        (comment(1, "\ud800"), "surrogate"),
        (comment(1, author=17), "`author` must be a string or null"),
        (comment(1, author="a\0"), "NUL"),
        (comment(1, author_id="x" * 201), "`author_id` is longer than 200"),
        (comment(1, author_id=17), "author_id"),
        (comment(1, author_id="a\0"), "`author_id` holds a NUL"),
        (comment(1, edited_at="yesterday"), "`edited_at` must be RFC 3339"),
        (comment(1, edited_at="2026-01-01T00:00:00"), "`edited_at` has no offset"),
        (comment(1, edited_at="0001-01-01T00:00:00Z"), "`edited_at` lies at"),
        (comment(1, url="x" * 2001), "`url` is longer than 2000"),
        (comment(1, url=["https://example.com"]), "url"),
        (comment(1, url="a\0"), "`url` holds a NUL"),
        (comment(1, likes="12"), "`likes` must be a whole number or null, not a string"),
        (comment(1, likes=1.5), "`likes` must be a whole number or null, not a number with a fraction"),
        (comment(1, likes=True), "likes"),
        (comment(1, likes=2**63), "`likes` is too large"),
        (comment(1, likes=-(2**63) - 1), "`likes` is too large"),
        (comment(1, author="x" * 201), "author"),
        (comment(1, timestamp="yesterday"), "RFC 3339"),
        (comment(1, timestamp="2026-01-01T00:00:00"), "`timestamp` has no offset"),
        (comment(1, timestamp="2026-01-31 10:00:00"), "`timestamp` has no offset"),
        (comment(1, timestamp="2026-01-31"), "RFC 3339"),
        (comment(1, timestamp="1769852400"), "RFC 3339"),
        (comment(1, timestamp=17), "timestamp"),
        (comment(1, timestamp="0001-01-01T00:00:00+05:00"), "`timestamp` lies at or beyond the ends of the years"),
        (comment(1, parent_id="x" * 201), "200"),
        (comment(1, metadata=[1]), "metadata"),
        (comment(1, metadata={"a": ["\0"]}), "NUL"),
        (comment(1, metadata={"a": "x" * 65_536}), "longer than 65536"),
        (comment(1, metadata={"\0": 1}), "NUL"),
        (comment(1, metadata={"a": "\udfff"}), "surrogate"),
        (17, "object"),
        (None, "object"),
    ],
    ids=case_id,
)
def test_a_bad_comment_is_rejected_with_a_reason_and_the_others_are_not(bad: Any, word: str) -> None:
    """The bad comment is between two good ones."""
    first, middle, last = reasons(comment("before"), bad, comment("after"))

    assert first is None
    assert last is None
    assert middle is not None
    assert word in middle


@pytest.mark.parametrize(
    "good",
    [
        comment("x" * 200, "x" * 10_000, author="y" * 200),
        comment(1, "\ufeff"),
        comment(1, "🙂" * 10_000),
        comment(1, timestamp=None),
        comment(1, timestamp=""),
        comment(1, timestamp="  "),
        comment(1, parent_id=""),
        comment(1, metadata=None),
        comment(1, metadata={"a": "\\u0000"}),
        comment(1, metadata={}),
        comment(1, unknown_field=3),
        comment(1, author_id="x" * 200, url="y" * 2000, likes=2**63 - 1, edited_at="2026-01-31 09:30:00+00:00"),
        comment(1, author_id=None, url=None, likes=None, edited_at=None),
        comment(1, author_id=" ", url="", edited_at=" "),
        comment(1, likes=-3),
    ],
)
def test_a_comment_within_the_bounds_is_accepted(good: Any) -> None:
    """The limits themselves, missing optional values, and unknown fields."""
    assert reasons(good) == [None]


UNKNOWN_AUTHORS = [{}, {"author": None}, {"author": ""}, {"author": " \u3000"}]


@pytest.mark.parametrize("author", UNKNOWN_AUTHORS)
@pytest.mark.parametrize("neighbour", [comment("other"), {"id": ""}])
def test_a_missing_or_blank_author_is_unknown(author: dict[str, Any], neighbour: dict[str, Any]) -> None:
    """On the fast path and on the slow path, which the bad neighbour requires."""
    parsed = parse_request(json.dumps(body({"id": "1", "text": "t", **author}, neighbour)).encode(), max_comments=10)

    assert parsed.comments[0].author is None


@pytest.mark.parametrize("neighbour", [comment("other"), {"id": ""}])
def test_optional_fields_are_decoded(neighbour: dict[str, Any]) -> None:
    details: dict[str, Any] = {
        "author_id": "17",
        "edited_at": "2026-01-31T10:30:00+01:00",
        "url": "https://example.com/1",
        "likes": 3,
    }
    parsed = parse_request(json.dumps(body(comment(1, **details), neighbour)).encode(), max_comments=10)

    edited_at = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    assert parsed.comments[0].details == ("17", edited_at, "https://example.com/1", 3)


@pytest.mark.parametrize("source", ["threads", "Threads", " THREADS ", "\tthreads\n"], ids=case_id)
def test_the_source_is_normalised(source: str) -> None:
    parsed = parse_request(json.dumps(body(comment(1), source=source)).encode(), max_comments=10)

    assert parsed.comments[0].source == "threads"


def test_text_and_metadata_are_kept_unchanged() -> None:
    """Nothing is trimmed, normalised or encoded again, even on the slow path, which the bad neighbour requires."""
    text = "  e\u0301 \ufeff\r\n trailing \u200d"
    raw = '{"post_id":"p","comments":[{"id":"1","text":%s,"author":" a ","metadata":{"b": 1.0,  "a":1e400}},{"id":""}]}'
    parsed = parse_request((raw % json.dumps(text)).encode(), max_comments=10)

    (kept,) = parsed.comments
    assert (kept.text, kept.author, kept.metadata) == (text, " a ", '{"b": 1.0,  "a":1e400}')


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (comment(1) | {"id": 1}, "`id` must be a string, not a number"),
        (comment(1, parent_id=3), "`parent_id` must be a string or null, not a number"),
        (comment(1, "x" * 10_001), "`text` is longer than 10000 characters"),
        (comment(""), "`id` is empty"),
        ({"id": "1"}, "`text` is missing"),
        ([], "the comment must be an object, not an array"),
    ],
    ids=case_id,
)
def test_a_reason_uses_the_names_of_json_types(bad: Any, words: str) -> None:
    """A client that sends JSON need not know the names of Python's types."""
    assert reasons(bad) == [words]


def test_a_lone_surrogate_does_not_affect_other_comments() -> None:
    """Numbers in metadata are kept too, even if no float or int of Python could represent them."""
    numbers = '{"a": 1.0, "b": 1e400, "c": ' + "9" * 5000 + "}"
    good = '{"id":"1","text":"\\\\ud800 \\ud83d\\ude42","author":"a","metadata":%s}' % numbers  # noqa: UP031
    raw = '{"post_id":"p","comments":[' + good + r',{"id":"2\udc00","text":"x","author":"a"}]}'

    parsed = parse_request(raw.encode(), max_comments=10)

    (kept,) = parsed.comments
    assert (kept.text, kept.metadata) == ("\\ud800 🙂", numbers)
    assert [(bad.index, bad.id) for bad in parsed.rejected] == [(1, "2\ufffd")]
    assert "surrogate" in parsed.rejected[0].reason


def test_timestamps_are_converted_to_utc() -> None:
    """A comment without a timestamp has an unknown time."""
    parsed = parse_request(
        json.dumps(body(comment(1, timestamp="2026-01-31T10:30:00+01:00"), comment(2))).encode(), max_comments=10
    )

    assert [accepted.timestamp for accepted in parsed.comments] == [datetime(2026, 1, 31, 9, 30, tzinfo=UTC), None]


@pytest.mark.parametrize(
    "raw",
    [b"", b"nope", b"{", b"\xff", b'{"post_id": "p", "comments": [NaN]}', b"[" * 100_000, b'{"post_id":"\xff"}'],
    ids=case_id,
)
def test_a_body_that_is_not_json_is_rejected(raw: bytes) -> None:
    """For any bytes, the exception is one of this program's own."""
    with pytest.raises((NotJson, InvalidRequest)):
        parse_request(raw, max_comments=10)


@pytest.mark.parametrize(
    "value",
    [
        [],
        3,
        {},
        {"post_id": "p"},
        {"comments": []},
        {"post_id": "", "comments": []},
        {"post_id": "p", "comments": {}},
        {"post_id": "p\0", "comments": []},
        {"post_id": "\ud800", "comments": []},
        {"post_id": "p", "source": "", "comments": []},
        {"post_id": "p", "source": " \t", "comments": []},
        {"post_id": "x" * 201, "comments": []},
    ],
)
def test_json_without_the_fields_of_a_request_is_rejected(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        parse_request(json.dumps(value).encode(), max_comments=10)


def test_a_request_with_too_many_comments_is_too_large() -> None:
    """The limit itself is allowed."""
    raw = json.dumps(body(*map(comment, range(10)))).encode()

    assert len(parse_request(raw, max_comments=10).comments) == 10
    with pytest.raises(TooLarge, match="more than 9 comments"):
        parse_request(raw, max_comments=9)


@pytest.mark.parametrize("before", range(8))
@pytest.mark.parametrize("inside", ['"%s"', '["x", {"a": "y%s"}]', '{"%s": 1}'], ids=case_id)
def test_an_escape_in_metadata_is_nul_after_an_odd_number_of_backslashes(inside: str, before: int) -> None:
    written = inside % ("\\" * before + "\\u0000")
    raw = f'{{"id":"1","text":"t","author":"a","metadata":{{"m":{written}}}}}'
    parsed = parse_request(f'{{"post_id":"p","comments":[{raw}]}}'.encode(), max_comments=10)
    holds = "\0" in texts_of(json.loads(written))
    assert bool(parsed.rejected) == holds


def texts_of(value: object) -> str:
    """Returns all texts of a value, joined."""
    if isinstance(value, dict):
        return "".join(texts_of(part) for pair in value.items() for part in pair)
    return "".join(map(texts_of, value)) if isinstance(value, list) else str(value)


@pytest.mark.parametrize("depth", [300, 480, 520, 700])
def test_metadata_with_nul_is_rejected_by_id_at_any_depth(depth: int) -> None:
    raw = '{"id":"%s","text":"t","author":"a","metadata":{"y":%s,"x":"\\u0000"}}'
    bad, good = raw % ("bad", "[" * depth + "]" * depth), '{"id":"ok","text":"t","author":"a"}'
    parsed = parse_request(f'{{"post_id":"p","comments":[{bad},{good}]}}'.encode(), max_comments=10)
    assert [accepted.id for accepted in parsed.comments] == ["ok"]
    assert [rejection.id for rejection in parsed.rejected] == ["bad"]


def test_an_escape_in_metadata_with_many_values_takes_little_more_time() -> None:
    def seconds(text: str) -> float:
        values = ",".join(["[]"] * 21_000)
        item = f'{{"id":"1","text":"a","author":"a","metadata":{{"y":[{values}],"x":"{text}"}}}}'
        body = f'{{"post_id":"p","comments":[{",".join([item] * 50)}]}}'.encode()
        started = time.process_time()
        parse_request(body, max_comments=100)
        return time.process_time() - started

    plain = min(seconds("u0000") for _ in range(3))
    assert min(seconds("\\\\u0000") for _ in range(3)) < 10 * plain
    assert min(seconds("\\u0000") for _ in range(3)) < 10 * plain


def test_too_many_comments_are_counted_before_they_are_decoded() -> None:
    item = '{"id":"1","text":"a","author":"a"}'
    raw = f'{{"post_id":"p","comments":[{",".join([item] * 200_000)}]}}'.encode()
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="more than 1000 comments"):
            parse_request(raw, max_comments=1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(raw)


def test_braces_in_metadata_do_not_count_as_comments() -> None:
    parsed = parse_request(json.dumps(body(comment(1, metadata={"a": [{}] * 50}))).encode(), max_comments=1)
    assert len(parsed.comments) == 1


DEEP = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize("member", ["metadata", "unknown"])
@pytest.mark.parametrize("deep", [DEEP, '{"a":' * 5000 + "1" + "}" * 5000])
def test_deep_nesting_rejects_only_its_comment(member: str, deep: str) -> None:
    """The nesting is deeper than the decoder's limit."""
    bad = f'{{"id":"deep","text":"t","author":"a","{member}":{{"a":{deep}}}}}'
    good = '{"id":"ok","text":"t","author":"a"}'

    parsed = parse_request(f'{{"post_id":"p","comments":[{good},{bad},{good}]}}'.encode(), max_comments=10)

    assert [accepted.id for accepted in parsed.comments] == ["ok", "ok"]
    assert [(bad.index, bad.id, bad.reason) for bad in parsed.rejected] == [(1, "deep", "nested too deeply")]


@pytest.mark.parametrize("deep", [DEEP, "[" * 1100 + "}nonsense NaN" + "]" * 1099])
def test_deep_nesting_outside_of_comments_rejects_the_request(deep: str) -> None:
    """The decoder cannot check whether the nested part is JSON."""
    raw = '{"x":%s,"post_id":"p","comments":[{"id":"1","text":"t","author":"a"}]}' % deep  # noqa: UP031

    with pytest.raises(NotJson, match=r"Nested too deeply \(byte 5\)"):
        parse_request(raw.encode(), max_comments=10)


def test_a_rejected_comment_has_the_id_that_a_decoder_would_use() -> None:
    """The name of the member may have escapes, or occur twice."""
    raw = r'{"post_id":"p","comments":[{"\u0069d":"escaped"},{"id":"first","id":"last"},{"id":"1"}]}'

    parsed = parse_request(raw.encode(), max_comments=10)

    assert [rejection.id for rejection in parsed.rejected] == ["escaped", "last", "1"]


GOOD = '{"id":"1","text":"t","author":"a"}'


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ('{"post_id":"p","comments":[' + GOOD + ' {"id":""}]}', r"expected ',' or '\]'|expected ','"),
        ('{"post_id":"p","comments":[' + GOOD + ",]}", "byte 62"),
        ('{"post_id":"p","comments":[{"id":"\\ud800"},tru]}', "within a value .byte 43"),
        ('{"post_id":"p","comments":[{"id":"\\ud800"}]', "expected"),
        ('{"post_id":"p","comments":[{"id":"\\ud800"}', "closing brackets|expected ','"),
        ('{"post_id":"p","comments":[{"id":"\\ud800"}]} x', "nothing more"),
        ('{"post_id":"p" "comments":[{"id":"\\ud800"}]}', "expected ','"),
        ('{"post_id" "p","comments":[{"id":"\\ud800"}]}', "expected ':'"),
        ('{"post_id":"p",comments:[{"id":"\\ud800"}]}', "expected a string"),
        ('{"post_id":,"comments":[{"id":"\\ud800"}]}', "expected a value"),
        ('{"post_id":"p","comments":[' + DEEP[:-1] + "}", "expected ','"),
        ('{"post_id":"p","comments":[{"x":' + DEEP[:-1], "closing brackets"),
        ('{"post_id":"p","comments":[{"id":"\\ud800","text":"\\x"}]}', "escape"),
        ('{"comments":[{"\\ud800" garbage}],"post_id":"p","comments":[]}', "expected"),
    ],
    ids=case_id,
)
def test_malformed_json_is_rejected_on_the_slow_path_too(raw: str, words: str) -> None:
    """A decoding error sends the body to the slow path, which reports the position of the fault."""
    with pytest.raises(NotJson, match=words):
        parse_request(raw.encode(), max_comments=10)


def test_a_faulty_request_with_too_many_arrays_and_objects_is_too_large() -> None:
    """Arrays and objects are searched for the fault up to a limit that no normal request reaches."""
    nested = ",".join(["[]"] * 24)
    normal = ",".join(f'{{"id":"{n or ""}","text":"t","metadata":{{"x":[{nested}]}}}}' for n in range(10_000))
    parsed = parse_request(f'{{"post_id":"p","comments":[{normal}]}}'.encode(), max_comments=10_000)
    assert (len(parsed.comments), parsed.rejected[0].index) == (9_999, 0)

    many = "[]," * 600_000
    for raw in (
        f'{{"post_id":5,"x":[{many}1],"comments":[]}}',
        f'{{"post_id":"p","comments":[{{"id":"1","text":[{many}1]}},7]}}',
        f'{{"post_id":"p","x":[{many}"\\ud800"],"comments":[7]}}',
    ):
        with pytest.raises(TooLarge, match=r"more than 500000 arrays and objects.*send fewer"):
            parse_request(raw.encode(), max_comments=10)
    # A request without a fault needs no search.
    good = f'{{"post_id":"p","x":[{many}1],"comments":[{{"id":"1","text":"t","author":"a"}}]}}'
    assert len(parse_request(good.encode(), max_comments=10).comments) == 1
    assert id_of(msgspec.Raw(f'{{"id":"1","x":[{many}1]}}'.encode())) is None


def test_elements_beyond_the_limit_are_not_counted() -> None:
    """So millions of elements need little memory."""
    raw = b'{"post_id":"p","comments":[' + b"0," * 1_000_000 + b"0]}"

    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="more than 10000 comments"):
            parse_request(raw, max_comments=10_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(raw)


@pytest.mark.parametrize(
    "raw",
    [
        '{"post_id":"p","comments":[{"id":"1","text":"\\ud800","author":"a"},{"id":"2","text":"t","author":"a"}],"z":1}',
        '{"z":"\\ud800","c\\u006fmments":[17,{"id":"2","text":"t","author":"a"}],"post_id":"p"}',
        ' {"\\ud800":0,"comments":[],"post_id":"p" , "comments" : [ 17 , {"id":"2","text":"t","author":"a"} ] } ',
    ],
    ids=case_id,
)
def test_the_slow_path_reads_names_blanks_and_unknown_members_correctly(raw: str) -> None:
    """A lone surrogate or a bad comment requires the slow path."""
    parsed = parse_request(raw.encode(), max_comments=10)

    assert [accepted.id for accepted in parsed.comments] == ["2"]
    assert [rejection.index for rejection in parsed.rejected] == [0]


def test_a_body_with_too_many_members_is_rejected() -> None:
    """Many members would take much time on the slow path, and no normal request has them."""
    raw = '{"\\ud800":1,' + '"a":1,' * 1000 + '"post_id":"p","comments":[]}'

    with pytest.raises(InvalidRequest, match="more than 1000 members"):
        parse_request(raw.encode(), max_comments=10)
