"""Reading of files: bad lines are reported by number, the others are read, and damage is an error."""

import gzip
import io
import json
from collections.abc import Iterable

import pytest

from comment_monitor.intake.files.formats import BadLine, FileError, Numbered, open_stream, read_csv, read_json_lines

GOOD = {"post_id": "p", "id": "1", "text": "t", "author": "a"}


def lines(*items: object) -> bytes:
    """Returns JSON Lines of these items; a text is written unchanged."""
    return "".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in items).encode()


def read(raw: bytes, *, post_id: str | None = None, source: str | None = None) -> list[Numbered | BadLine]:
    """Returns all items of a JSON Lines file."""
    return list(read_json_lines(open_stream(io.BytesIO(raw)), post_id=post_id, source=source))


def numbers(items: Iterable[Numbered | BadLine], kind: type) -> list[int]:
    """Returns the line numbers of the items of this kind."""
    return [item.line for item in items if isinstance(item, kind)]


def test_bad_lines_are_reported_by_number_and_the_others_are_read() -> None:
    """Blank lines are ignored; any other line is a comment or has a reason."""
    items = read(lines(GOOD, "nope", "", {**GOOD, "id": ""}, {"id": "1"}, [1], {**GOOD, "text": "\ud800"}, GOOD))

    assert numbers(items, Numbered) == [1, 8]
    assert numbers(items, BadLine) == [2, 4, 5, 6, 7]
    assert "surrogate" in [item for item in items if isinstance(item, BadLine)][-1].reason


def test_invalid_utf8_is_a_single_bad_line() -> None:
    items = read(lines(GOOD) + b'{"id":"\xff"}\n' + lines(GOOD))

    assert numbers(items, BadLine) == [2]


def test_a_line_above_the_size_limit_is_reported_and_skipped() -> None:
    items = read(lines(GOOD) + b"x" * (9 * 1024 * 1024) + b"\n" + lines(GOOD))

    assert numbers(items, BadLine) == [2]
    assert numbers(items, Numbered) == [1, 3]


def test_gzip_is_detected_and_a_truncated_file_is_reported_with_its_line() -> None:
    """The lines before the damage are read."""
    packed = gzip.compress(lines(*[{**GOOD, "id": str(n)} for n in range(5000)]))
    stream = read_json_lines(open_stream(io.BufferedReader(io.BytesIO(packed))), post_id=None, source=None)
    assert sum(1 for _ in stream) == 5000

    cut = open_stream(io.BufferedReader(io.BytesIO(packed[: len(packed) // 2])))
    with pytest.raises(FileError, match=r"after line [0-9]+"):
        list(read_json_lines(cut, post_id=None, source=None))


def test_defaults_apply_to_a_line_without_a_post() -> None:
    """A file with the comments of one post need not repeat the post."""
    (item,) = read(lines({"id": "1", "text": "t", "author": "a"}), post_id="p9", source="youtube")

    assert isinstance(item, Numbered)
    assert (item.comment.post_id, item.comment.source) == ("p9", "youtube")


def test_csv_may_have_other_columns_quoted_newlines_and_a_byte_order_mark() -> None:
    """Spreadsheets write such files."""
    raw = (
        '\ufeffCOMMENT_ID,AUTHOR,DATE,CONTENT,CLASS\n1,ana,2026-01-31T09:30:00Z,"two\nlines",0\n,ben,,x,1\n2,ben,,y,1\n'
    )
    columns = {"id": "COMMENT_ID", "author": "AUTHOR", "timestamp": "DATE", "text": "CONTENT"}
    items = list(read_csv(io.BytesIO(raw.encode()), post_id="p", source=None, columns=columns))

    assert [item.comment.text for item in items if isinstance(item, Numbered)] == ["two\nlines", "y"]
    (bad,) = [item for item in items if isinstance(item, BadLine)]
    assert bad.line == 4


def test_csv_without_a_required_column_is_rejected_with_advice() -> None:
    """The message lists the existing columns and the option that maps them."""
    with pytest.raises(FileError, match=r"no column post_id; it has 'id', 'text'.*--column"):
        list(read_csv(io.BytesIO(b"id,text\n1,x\n"), post_id=None, source=None, columns={}))


def test_a_row_whose_length_differs_from_the_header_is_rejected() -> None:
    """Otherwise a text with an unquoted comma would be truncated without a report."""
    raw = b'id,author,post_id,text\n1,ana,p,Hello, world\n2,ben,p\n\n3,eva,p,"Hello, world"\n'
    items = list(read_csv(io.BytesIO(raw), post_id=None, source=None, columns={}))

    assert [(item.line, item.id) for item in items if isinstance(item, BadLine)] == [(2, "1"), (3, "2")]
    assert [item.comment.text for item in items if isinstance(item, Numbered)] == ["Hello, world"]


def test_a_known_column_that_occurs_twice_is_rejected() -> None:
    """It is unknown which of both is meant."""
    with pytest.raises(FileError, match="column id more than once"):
        list(read_csv(io.BytesIO(b"id,id,author,text,post_id\n1,2,a,t,p\n"), post_id=None, source=None, columns={}))


def test_another_delimiter_and_an_empty_file_are_accepted() -> None:
    """Spreadsheets write semicolons in many European countries."""
    raw = b"id;author;text;post_id\n1;ana;a, b;p\n"
    (item,) = read_csv(io.BytesIO(raw), post_id=None, source=None, columns={}, delimiter=";")

    assert isinstance(item, Numbered)
    assert item.comment.text == "a, b"
    assert list(read_csv(io.BytesIO(b""), post_id=None, source=None, columns={})) == []


def test_a_json_array_is_rejected_as_json_lines() -> None:
    """A single message for the file instead of a message for each line."""
    with pytest.raises(FileError, match="JSON array"):
        list(read_json_lines(io.BytesIO(b'[\n{"id": 1},\n{"id": 2}\n]\n'), post_id=None, source=None))


def test_a_csv_file_read_as_json_lines_gets_a_hint_on_its_first_line() -> None:
    first, second = read_json_lines(io.BytesIO(b"id,text\n1,x\n"), post_id=None, source=None)

    assert isinstance(first, BadLine)
    assert isinstance(second, BadLine)
    assert ("--format csv" in first.reason, "--format csv" in second.reason) == (True, False)
