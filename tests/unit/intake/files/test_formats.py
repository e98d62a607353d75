"""Reading files: each bad line is named by its number, the rest goes on, damage is told."""

import gzip
import io
import json
from collections.abc import Iterable

import pytest

from comment_monitor.intake.files.formats import BadLine, FileError, Numbered, open_stream, read_csv, read_json_lines

GOOD = {"post_id": "p", "id": "1", "text": "t", "author": "a"}


def lines(*items: object) -> bytes:
    """JSON Lines of these; a text stands for itself."""
    return "".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in items).encode()


def read(raw: bytes, *, post_id: str | None = None, source: str | None = None) -> list[Numbered | BadLine]:
    """All of a JSON Lines file."""
    return list(read_json_lines(open_stream(io.BytesIO(raw)), post_id=post_id, source=source))


def numbers(items: Iterable[Numbered | BadLine], kind: type) -> list[int]:
    """The line numbers of one kind."""
    return [item.line for item in items if isinstance(item, kind)]


def test_bad_lines_are_named_by_number_and_the_rest_is_read() -> None:
    """Blank lines are nothing; everything else is a comment or has a reason."""
    items = read(lines(GOOD, "nope", "", {**GOOD, "id": ""}, {"id": "1"}, [1], {**GOOD, "text": "\ud800"}, GOOD))

    assert numbers(items, Numbered) == [1, 8]
    assert numbers(items, BadLine) == [2, 4, 5, 6, 7]
    assert "surrogate" in [item for item in items if isinstance(item, BadLine)][-1].reason


def test_bytes_that_are_no_utf8_are_one_bad_line() -> None:
    """And only one."""
    items = read(lines(GOOD) + b'{"id":"\xff"}\n' + lines(GOOD))

    assert numbers(items, BadLine) == [2]


def test_a_line_without_end_is_bounded() -> None:
    """A line above the limit is named and skipped, however long it is."""
    items = read(lines(GOOD) + b"x" * (9 * 1024 * 1024) + b"\n" + lines(GOOD))

    assert numbers(items, BadLine) == [2]
    assert numbers(items, Numbered) == [1, 3]


def test_gzip_is_told_by_its_first_bytes_and_a_cut_file_says_where() -> None:
    """What came before the damage is read."""
    packed = gzip.compress(lines(*[{**GOOD, "id": str(n)} for n in range(5000)]))
    stream = read_json_lines(open_stream(io.BufferedReader(io.BytesIO(packed))), post_id=None, source=None)
    assert sum(1 for _ in stream) == 5000

    cut = open_stream(io.BufferedReader(io.BytesIO(packed[: len(packed) // 2])))
    with pytest.raises(FileError, match=r"after line [0-9]+"):
        list(read_json_lines(cut, post_id=None, source=None))


def test_defaults_stand_in_where_a_line_names_no_post() -> None:
    """A file of one post need not repeat it."""
    (one,) = read(lines({"id": "1", "text": "t", "author": "a"}), post_id="p9", source="youtube")

    assert isinstance(one, Numbered)
    assert (one.comment.post_id, one.comment.source) == ("p9", "youtube")


def test_csv_takes_other_column_names_quoted_newlines_and_a_byte_order_mark() -> None:
    """As spreadsheets write it."""
    raw = (
        '\ufeffCOMMENT_ID,AUTHOR,DATE,CONTENT,CLASS\n1,ana,2026-01-31T09:30:00Z,"two\nlines",0\n,ben,,x,1\n2,ben,,y,1\n'
    )
    columns = {"id": "COMMENT_ID", "author": "AUTHOR", "timestamp": "DATE", "text": "CONTENT"}
    items = list(read_csv(io.BytesIO(raw.encode()), post_id="p", source=None, columns=columns))

    assert [item.comment.text for item in items if isinstance(item, Numbered)] == ["two\nlines", "y"]
    (bad,) = [item for item in items if isinstance(item, BadLine)]
    assert bad.line == 4


def test_csv_without_a_needed_column_says_which_and_what_there_is() -> None:
    """The message names the way out."""
    with pytest.raises(FileError, match=r"no column post_id; it has 'id', 'text'.*--column"):
        list(read_csv(io.BytesIO(b"id,text\n1,x\n"), post_id=None, source=None, columns={}))


def test_a_row_of_another_length_than_the_header_is_rejected_by_name() -> None:
    """A text with a comma that nobody quoted would be cut there, and nobody would know."""
    raw = b'id,author,post_id,text\n1,ana,p,Hello, world\n2,ben,p\n\n3,eva,p,"Hello, world"\n'
    items = list(read_csv(io.BytesIO(raw), post_id=None, source=None, columns={}))

    assert [(item.line, item.id) for item in items if isinstance(item, BadLine)] == [(2, "1"), (3, "2")]
    assert [item.comment.text for item in items if isinstance(item, Numbered)] == ["Hello, world"]


def test_a_column_of_ours_stands_in_the_header_once() -> None:
    """Which of the two would be meant?"""
    with pytest.raises(FileError, match="column id more than once"):
        list(read_csv(io.BytesIO(b"id,id,author,text,post_id\n1,2,a,t,p\n"), post_id=None, source=None, columns={}))


def test_another_delimiter_and_an_empty_file_are_read() -> None:
    """Semicolons are what spreadsheets write in half of Europe."""
    raw = b"id;author;text;post_id\n1;ana;a, b;p\n"
    (item,) = read_csv(io.BytesIO(raw), post_id=None, source=None, columns={}, delimiter=";")

    assert isinstance(item, Numbered)
    assert item.comment.text == "a, b"
    assert list(read_csv(io.BytesIO(b""), post_id=None, source=None, columns={})) == []


def test_a_json_array_is_told_from_json_lines() -> None:
    """One message for the file, not one for each of its lines."""
    with pytest.raises(FileError, match="JSON array"):
        list(read_json_lines(io.BytesIO(b'[\n{"id": 1},\n{"id": 2}\n]\n'), post_id=None, source=None))


def test_a_csv_file_read_as_json_lines_gets_a_hint() -> None:
    """On its first line, where a person looks."""
    first, second = read_json_lines(io.BytesIO(b"id,text\n1,x\n"), post_id=None, source=None)

    assert isinstance(first, BadLine)
    assert isinstance(second, BadLine)
    assert ("--format csv" in first.reason, "--format csv" in second.reason) == (True, False)
