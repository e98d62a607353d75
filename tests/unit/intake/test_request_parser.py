"""Parsing: a bad comment is named, the good rest goes on, and what comes is kept character for character."""

import json
import time
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from tests.support.requests import body, comment

from comment_monitor.core.errors import InvalidRequest, NotJson, TooLarge
from comment_monitor.intake.comment_decoder import id_of
from comment_monitor.intake.request_parser import parse_request


def reasons(*comments: Any) -> list[str | None]:
    """For each comment why it was rejected, None where it was taken."""
    parsed = parse_request(json.dumps(body(*comments)).encode(), max_comments=1000)
    by_index = {one.index: one.reason for one in parsed.rejected}
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
)
def test_a_bad_comment_is_rejected_by_name_and_its_neighbours_are_not(bad: Any, word: str) -> None:
    """The one in the middle is rejected with a reason that names what is wrong."""
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
def test_what_is_within_the_bounds_is_taken(good: Any) -> None:
    """The limits themselves, an unknown time, and fields that are not ours."""
    assert reasons(good) == [None]


UNKNOWN_AUTHORS = [{}, {"author": None}, {"author": ""}, {"author": " \u3000"}]


@pytest.mark.parametrize("author", UNKNOWN_AUTHORS)
@pytest.mark.parametrize("neighbour", [comment("other"), {"id": ""}])
def test_an_author_that_is_withheld_is_unknown(author: dict[str, Any], neighbour: dict[str, Any]) -> None:
    """Null, empty, blank or absent; beside a comment that is decoded one by one as well."""
    parsed = parse_request(json.dumps(body({"id": "1", "text": "t", **author}, neighbour)).encode(), max_comments=10)

    assert parsed.comments[0].author is None


@pytest.mark.parametrize("neighbour", [comment("other"), {"id": ""}])
def test_the_optional_fields_are_read(neighbour: dict[str, Any]) -> None:
    details: dict[str, Any] = {
        "author_id": "17",
        "edited_at": "2026-01-31T10:30:00+01:00",
        "url": "https://example.com/1",
        "likes": 3,
    }
    parsed = parse_request(json.dumps(body(comment(1, **details), neighbour)).encode(), max_comments=10)

    edited_at = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    assert parsed.comments[0].details == ("17", edited_at, "https://example.com/1", 3)


@pytest.mark.parametrize("source", ["threads", "Threads", " THREADS ", "\tthreads\n"])
def test_a_source_has_one_spelling(source: str) -> None:
    parsed = parse_request(json.dumps(body(comment(1), source=source)).encode(), max_comments=10)

    assert parsed.comments[0].source == "threads"


def test_text_and_metadata_are_kept_as_they_came() -> None:
    """Nothing is trimmed, normalised or re-encoded, also beside a comment that takes the careful way."""
    text = "  e\u0301 \ufeff\r\n trailing \u200d"
    raw = '{"post_id":"p","comments":[{"id":"1","text":%s,"author":" a ","metadata":{"b": 1.0,  "a":1e400}},{"id":""}]}'
    parsed = parse_request((raw % json.dumps(text)).encode(), max_comments=10)

    (one,) = parsed.comments
    assert (one.text, one.author, one.metadata) == (text, " a ", '{"b": 1.0,  "a":1e400}')


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
)
def test_a_reason_is_in_words_of_json(bad: Any, words: str) -> None:
    """Whoever sends JSON need not know what Python calls its types."""
    assert reasons(bad) == [words]


def test_a_lone_surrogate_costs_its_neighbours_nothing() -> None:
    """Numbers beside it stay as they came, also those that no Python float or int would give back."""
    numbers = '{"a": 1.0, "b": 1e400, "c": ' + "9" * 5000 + "}"
    good = '{"id":"1","text":"\\\\ud800 \\ud83d\\ude42","author":"a","metadata":%s}' % numbers  # noqa: UP031
    raw = '{"post_id":"p","comments":[' + good + r',{"id":"2\udc00","text":"x","author":"a"}]}'

    parsed = parse_request(raw.encode(), max_comments=10)

    (one,) = parsed.comments
    assert (one.text, one.metadata) == ("\\ud800 🙂", numbers)
    assert [(bad.index, bad.id) for bad in parsed.rejected] == [(1, "2\ufffd")]
    assert "surrogate" in parsed.rejected[0].reason


def test_timestamps_are_read_as_utc() -> None:
    """An offset is taken into account; no timestamp means unknown."""
    parsed = parse_request(
        json.dumps(body(comment(1, timestamp="2026-01-31T10:30:00+01:00"), comment(2))).encode(), max_comments=10
    )

    assert [one.timestamp for one in parsed.comments] == [datetime(2026, 1, 31, 9, 30, tzinfo=UTC), None]


@pytest.mark.parametrize(
    "raw",
    [b"", b"nope", b"{", b"\xff", b'{"post_id": "p", "comments": [NaN]}', b"[" * 100_000, b'{"post_id":"\xff"}'],
)
def test_what_is_not_json_says_so(raw: bytes) -> None:
    """Whatever bytes come, the error is ours."""
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
def test_another_shape_is_not_a_request(value: Any) -> None:
    """JSON without what a request needs."""
    with pytest.raises(InvalidRequest):
        parse_request(json.dumps(value).encode(), max_comments=10)


def test_more_comments_than_allowed_are_too_large() -> None:
    """The limit itself is allowed."""
    raw = json.dumps(body(*map(comment, range(10)))).encode()

    assert len(parse_request(raw, max_comments=10).comments) == 10
    with pytest.raises(TooLarge, match="more than 9 comments"):
        parse_request(raw, max_comments=9)


@pytest.mark.parametrize("before", range(8))
@pytest.mark.parametrize("inside", ['"%s"', '["x", {"a": "y%s"}]', '{"%s": 1}'])
def test_metadata_holds_nul_where_an_odd_number_of_backslashes_begins_it(inside: str, before: int) -> None:
    written = inside % ("\\" * before + "\\u0000")
    raw = f'{{"id":"1","text":"t","author":"a","metadata":{{"m":{written}}}}}'
    parsed = parse_request(f'{{"post_id":"p","comments":[{raw}]}}'.encode(), max_comments=10)
    holds = "\0" in texts_of(json.loads(written))
    assert bool(parsed.rejected) == holds


def texts_of(value: object) -> str:
    """All texts of a value."""
    if isinstance(value, dict):
        return "".join(texts_of(one) for pair in value.items() for one in pair)
    return "".join(map(texts_of, value)) if isinstance(value, list) else str(value)


@pytest.mark.parametrize("depth", [300, 480, 520, 700])
def test_metadata_that_holds_nul_is_rejected_by_name_however_deep_it_is(depth: int) -> None:
    raw = '{"id":"%s","text":"t","author":"a","metadata":{"y":%s,"x":"\\u0000"}}'
    bad, good = raw % ("bad", "[" * depth + "]" * depth), '{"id":"ok","text":"t","author":"a"}'
    parsed = parse_request(f'{{"post_id":"p","comments":[{bad},{good}]}}'.encode(), max_comments=10)
    assert [one.id for one in parsed.comments] == ["ok"]
    assert [one.id for one in parsed.rejected] == ["bad"]


def test_metadata_with_many_values_takes_no_longer_for_an_escape_in_it() -> None:
    def seconds(text: str) -> float:
        values = ",".join(["[]"] * 21_000)
        one = f'{{"id":"1","text":"a","author":"a","metadata":{{"y":[{values}],"x":"{text}"}}}}'
        body = f'{{"post_id":"p","comments":[{",".join([one] * 50)}]}}'.encode()
        started = time.process_time()
        parse_request(body, max_comments=100)
        return time.process_time() - started

    plain = min(seconds("u0000") for _ in range(3))
    assert min(seconds("\\\\u0000") for _ in range(3)) < 10 * plain
    assert min(seconds("\\u0000") for _ in range(3)) < 10 * plain


def test_too_many_comments_are_counted_before_they_are_made() -> None:
    one = '{"id":"1","text":"a","author":"a"}'
    raw = f'{{"post_id":"p","comments":[{",".join([one] * 200_000)}]}}'.encode()
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="more than 1000 comments"):
            parse_request(raw, max_comments=1000)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3 * len(raw)


def test_comments_with_many_braces_are_not_too_many() -> None:
    parsed = parse_request(json.dumps(body(comment(1, metadata={"a": [{}] * 50}))).encode(), max_comments=1)
    assert len(parsed.comments) == 1


DEEP = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize("member", ["metadata", "unknown"])
@pytest.mark.parametrize("deep", [DEEP, '{"a":' * 5000 + "1" + "}" * 5000])
def test_deep_nesting_in_one_comment_rejects_that_one_by_name(member: str, deep: str) -> None:
    """More brackets than any decoder follows do not take their neighbours with them."""
    bad = f'{{"id":"deep","text":"t","author":"a","{member}":{{"a":{deep}}}}}'
    good = '{"id":"ok","text":"t","author":"a"}'

    parsed = parse_request(f'{{"post_id":"p","comments":[{good},{bad},{good}]}}'.encode(), max_comments=10)

    assert [one.id for one in parsed.comments] == ["ok", "ok"]
    assert [(bad.index, bad.id, bad.reason) for bad in parsed.rejected] == [(1, "deep", "nested too deeply")]


@pytest.mark.parametrize("deep", [DEEP, "[" * 1100 + "}nonsense NaN" + "]" * 1099])
def test_deep_nesting_beside_the_comments_can_not_be_told_from_nonsense(deep: str) -> None:
    """Whether it is JSON at all nobody knows."""
    raw = '{"x":%s,"post_id":"p","comments":[{"id":"1","text":"t","author":"a"}]}' % deep  # noqa: UP031

    with pytest.raises(NotJson, match=r"Nested too deeply \(byte 5\)"):
        parse_request(raw.encode(), max_comments=10)


def test_a_rejected_comment_is_named_by_the_id_that_counts() -> None:
    """Written with escapes, or twice."""
    raw = r'{"post_id":"p","comments":[{"\u0069d":"escaped"},{"id":"first","id":"last"},{"id":"1"}]}'

    parsed = parse_request(raw.replace("\\\\", "\\").encode(), max_comments=10)

    assert [one.id for one in parsed.rejected] == ["escaped", "last", "1"]


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
)
def test_a_body_that_breaks_off_is_not_json_also_beside_what_the_decoder_does_not_take(raw: str, words: str) -> None:
    """The careful way finds it too, and says where."""
    with pytest.raises(NotJson, match=words):
        parse_request(raw.encode(), max_comments=10)


def test_a_request_that_takes_long_to_look_through_is_refused_where_something_is_wrong_with_it() -> None:
    """An array or object is a step: those of an honest request are looked through, millions are not."""
    nested = ",".join(["[]"] * 24)
    honest = ",".join(f'{{"id":"{n or ""}","text":"t","metadata":{{"x":[{nested}]}}}}' for n in range(10_000))
    parsed = parse_request(f'{{"post_id":"p","comments":[{honest}]}}'.encode(), max_comments=10_000)
    assert (len(parsed.comments), parsed.rejected[0].index) == (9_999, 0)

    many = "[]," * 600_000
    for raw in (
        f'{{"post_id":5,"x":[{many}1],"comments":[]}}',
        f'{{"post_id":"p","comments":[{{"id":"1","text":[{many}1]}},7]}}',
        f'{{"post_id":"p","x":[{many}"\\ud800"],"comments":[7]}}',
    ):
        with pytest.raises(TooLarge, match=r"more than 500000 arrays and objects.*send fewer"):
            parse_request(raw.encode(), max_comments=10)
    # Where nothing is wrong the decoder passes them by.
    good = f'{{"post_id":"p","x":[{many}1],"comments":[{{"id":"1","text":"t","author":"a"}}]}}'
    assert len(parse_request(good.encode(), max_comments=10).comments) == 1
    assert id_of(msgspec.Raw(f'{{"id":"1","x":[{many}1]}}'.encode())) is None


def test_too_many_of_anything_are_counted_no_further_than_needed() -> None:
    """Millions of elements cost neither their memory nor their time."""
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
)
def test_the_careful_way_reads_json_as_any_reader_does(raw: str) -> None:
    """Blanks, escaped and repeated names, members that are not ours."""
    parsed = parse_request(raw.encode(), max_comments=10)

    assert [one.id for one in parsed.comments] == ["2"]
    assert [one.index for one in parsed.rejected] == [0]


def test_a_body_of_a_great_many_members_is_no_request() -> None:
    """They would cost their time, and nobody sends them in earnest."""
    raw = '{"\\ud800":1,' + '"a":1,' * 1000 + '"post_id":"p","comments":[]}'

    with pytest.raises(InvalidRequest, match="more than 1000 members"):
        parse_request(raw.encode(), max_comments=10)
