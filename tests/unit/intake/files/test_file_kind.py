"""The kind and the encoding of a file are detected from its content, and every skipped line is reported."""

import codecs
import gzip
import io
import json
import time
import zipfile
from contextlib import suppress
from typing import Any

import pytest
from tests.support.reading import bad, comments, ids, read
from tests.unit.case_ids import case_id

from comment_monitor.intake.files.formats import FileError, Numbered, Reading, open_comments
from comment_monitor.intake.request_parser import parse_request

HEADER = "id,author,post_id,text\n"
ROWS = HEADER + "1,ana,p,x\n2,ben,p,y\n"


def line(number: int, **more: Any) -> str:
    record = {"id": str(number), "post_id": "p", "text": "é", "author": "a", **more}
    return json.dumps(record, ensure_ascii=False) + "\n"


def archive(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name in names:
            file.writestr(name, "application/vnd.oasis.opendocument.spreadsheet" if name == "mimetype" else "x")
    return out.getvalue()


class Pieces(io.RawIOBase):
    """An input that returns one of these pieces at each read, and counts the reads."""

    def __init__(self, *pieces: bytes):
        self._pieces = list(pieces)
        self.reads = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        self.reads += 1
        data = self._pieces.pop(0) if self._pieces else b""
        buffer[: len(data)] = data
        return len(data)


class Repeating(io.RawIOBase):
    """An input with a beginning, and then the same bytes again and again up to a size."""

    def __init__(self, head: bytes, unit: bytes, size: int):
        self._head, self._unit, self._left = head, unit * max(1, 60_000 // len(unit)), size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        data, self._head = self._head, b""
        if not data and self._left > 0:
            data = self._unit
            self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize(
    ("rows", "skipped", "kept"),
    [
        ('1,a,p,one\n2,b,p,"Great" he said\n3,c,p,three\n', [3], ["1", "3"]),
        ('1,a,p,"never closed\n2,b,p,two\n3,c,p,three\n', [2], ["2", "3"]),
        ('1,a,p,one\n2,b,p,"never closed\n', [3], ["1"]),
        ('1,a,p,"never\n2,b,p,"two\nlines"\n3,c,p,three\n', [2], ["2", "3"]),
        ('1,a,p,"x\n2,b,p,"y\n3,c,p,"z\n4,d,p,ok\n', [2, 3, 4], ["4"]),
        ('1,a,"p,x\n2,b,p,"y"\n3,c,p,z\n', [2], ["2", "3"]),
        ('1,a,p,"two\n\n""lines"""\n2,b,p,y\n', [], ["1", "2"]),
        ('1,a,p,say ""hi""\n2,b,p,5" disk\n', [], ["1", "2"]),
    ],
    ids=case_id,
)
def test_a_malformed_csv_line_is_skipped_by_number_and_the_others_are_read(
    rows: str, skipped: list[int], kept: list[str]
) -> None:
    items = read(HEADER + rows)
    assert [item.line for item in bad(items) if item.is_csv_fault] == skipped
    assert ids(items) == kept


def test_quoted_line_ends_are_kept_unchanged() -> None:
    (comment,) = comments(read((HEADER + '1,a,p,"x\r\n\ny\rz\n"\r\n').encode()))
    assert comment.text == "x\r\n\ny\rz\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n", "\r"], ids=["lf", "crlf", "crcrlf", "cr"])
def test_every_kind_of_line_end_is_accepted(end: str) -> None:
    assert ids(read(ROWS.replace("\n", end))) == ["1", "2"]


def test_a_carriage_return_within_a_text_is_kept() -> None:
    items = read(HEADER + "1,a,p,first half\rsecond half\n2,b,p,y\n")
    assert [comment.text for comment in comments(items)] == ["first half\rsecond half", "y"]


def test_a_carriage_return_before_another_row_is_reported() -> None:
    items = read(HEADER + "1,a,p,x\r2,b,p,y\n3,c,p,z\n")
    assert ([item.line for item in bad(items)], ids(items)) == ([2], ["3"])


@pytest.mark.parametrize(
    "rows", ["1,ana,p,x,,\n,,,,,\n2,ben,p,y,,\n", "1,ana,p,x,\n , ,,\n2,ben,p,y, \n\n,\n"], ids=["empty", "blank"]
)
@pytest.mark.parametrize("header", [HEADER, "id,author,post_id,text,,\n"], ids=["four-columns", "six-columns"])
def test_surplus_empty_columns_and_empty_rows_are_ignored(header: str, rows: str) -> None:
    items = read(header + rows)
    assert (ids(items), bad(items)) == (["1", "2"], [])


@pytest.mark.parametrize(
    ("unit", "head"),
    [
        (b'1,a,p,"x\n', HEADER.encode()),
        (b'x","\n', HEADER.encode()),
        (b'"\n', HEADER.encode()),
        (b'"', HEADER.encode() + b"1,a,p,"),
        (b'a"",""""\n', HEADER.encode()),
        (b"a\rb\n", HEADER.encode()),
        (b"2,b,p,plain\n", HEADER.encode() + b'1,a,p,"never closed\n'),
        (b"\r", HEADER.encode()),
        (b",", HEADER.encode()),
        (b'{"id":\n', b"{}\n"),
        (b"[[{", b'{"comments": '),
    ],
    ids=case_id,
)
def test_hostile_files_are_read_in_linear_time(unit: bytes, head: bytes) -> None:
    def seconds(size: int) -> float:
        started = time.process_time()
        with suppress(FileError):
            for _ in open_comments(io.BufferedReader(Repeating(head, unit, size)), Reading()):
                pass
        return time.process_time() - started

    small, large = seconds(150_000), seconds(1_500_000)
    assert large < 20 * small + 1


@pytest.mark.parametrize(
    "raw",
    [
        "\ufeff" + line(1) + "\ufeff" + line(2),
        line(1) + "\ufeff\n" + line(2),
        line(1).strip() + "\ufeff" + line(2),
        line(1).strip() + line(2).strip(),
        "\ufeff" + ROWS,
        "\ufeff" + HEADER + "1,a,p,x\n\ufeff" + HEADER + "2,b,p,y\n",
        "\ufeff" + HEADER + "1,a,p,x\n\ufeff2,b,p,y\n",
        HEADER + "1,a,p,x\ntext,ID,post_id,author\ny,2,p,b\n",
        HEADER + '1,a,p,x\n\ufeff"text","id","post_id"\n"y","2","p"\n',
        "text,id,post_id\nx,1,p\n\ufefftext,id,post_id\ny,2,p\n",
    ],
    ids=case_id,
)
def test_joined_files_have_the_comments_of_their_parts(raw: str) -> None:
    for data in (raw.encode(), gzip.compress(raw.encode()), raw.encode("utf-16")):
        items = read(data)
        assert (ids(items), bad(items)) == (["1", "2"], [])


def test_a_second_gzip_member_may_begin_with_a_byte_order_mark() -> None:
    assert ids(read(b"".join(gzip.compress(("\ufeff" + line(n)).encode()) for n in (1, 2)))) == ["1", "2"]


def test_a_byte_order_mark_at_the_start_of_a_text_is_kept() -> None:
    (comment,) = comments(read("text,id,post_id\n\ufeffx,1,p\n"))
    assert comment.text == "\ufeffx"


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["without-mark", "with-mark"])
@pytest.mark.parametrize(
    "more", [b'{"id":"1","text":"t"}', b'{"id":"1","text":"t"},{"id":2}'], ids=["good", "with-a-bad-comment"]
)
def test_a_byte_order_mark_before_a_request_is_skipped(mark: bytes, more: bytes) -> None:
    body = mark + b'{"post_id":"p","comments":[' + more + b"]}"
    assert [comment.id for comment in parse_request(body, max_comments=5).comments] == ["1"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"], ids=["comma", "semicolon", "tab", "bar"])
@pytest.mark.parametrize(
    "header",
    [
        "id,author,post_id,text",
        ' ID ,"Author",Post_ID, text',
        "sep=,\r\nid,author,post_id,text",
        '"sep=,"\nid,author,post_id,text',
    ],
    ids=case_id,
)
def test_the_format_and_the_delimiter_are_detected_from_the_content(header: str, delimiter: str) -> None:
    table = f"{header}\n1,ana,p,x\n2,ben,p,y\n".replace(",", delimiter)
    for data in (table.encode(), gzip.compress(table.encode())):
        items = read(data)
        assert (ids(items), [comment.author for comment in comments(items)]) == (["1", "2"], ["ana", "ben"])


def test_a_foreign_first_line_before_json_lines_is_a_single_bad_line() -> None:
    items = read("# comments, of 2026\n" + line(1))
    assert (len(bad(items)), ids(items)) == (1, ["1"])


@pytest.mark.parametrize("name", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32"])
def test_a_byte_order_mark_determines_the_encoding(name: str) -> None:
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(name, b"")
    text = HEADER + "1,Zoé,p,日本 🙂\n"
    assert [comment.text for comment in comments(read(mark + text.encode(name)))] == ["日本 🙂"]


@pytest.mark.parametrize(
    ("text", "encoding", "words"),
    [
        (HEADER + "1,Zoé,p,“hi”\n2,b,p,x\n", "windows-1252", "--encoding windows-1252"),
        (line(1).replace("é", "schön"), "latin-1", "--encoding windows-1252"),
        (HEADER + "1,Иван,p,Привет мир\n", "windows-1251", "windows-1251"),
        (HEADER + "1,田中,p,おはよう\n", "shift_jis", "shift_jis"),
        (ROWS, "utf-16-le", "--encoding utf-16-le"),
        (ROWS, "utf-16-be", "--encoding utf-16-be"),
        (ROWS.replace("1,", "1,é"), "utf-16-le", "--encoding utf-16-le"),
    ],
    ids=case_id,
)
def test_another_encoding_is_suggested_and_read_with_the_option(text: str, encoding: str, words: str) -> None:
    with pytest.raises(FileError, match=words):
        read(text.encode(encoding))
    assert bad(read(text.encode(encoding), Reading(encoding=encoding))) == []


@pytest.mark.parametrize("named", ["windows-1252", "latin-1", "shift_jis", "utf-16", "utf-32-le"])
def test_an_option_that_contradicts_the_content_is_rejected(named: str) -> None:
    with pytest.raises(FileError, match="leave --encoding out"):
        read(("\ufeff" + HEADER + "1,a,p,x\n").encode(), Reading(encoding=named))
    with pytest.raises(FileError, match="leave --encoding out"):
        read((HEADER + "1,a,p,x\n").encode("utf-16"), Reading(encoding="windows-1252"))
    if not named.startswith("utf"):
        with pytest.raises(FileError, match="it is UTF-8"):
            read((HEADER + "1,Zoë,p,Grüße\n").encode(), Reading(encoding=named))


@pytest.mark.parametrize("named", ["utf-8", "utf-8-sig"])
def test_an_option_that_matches_the_content_is_accepted(named: str) -> None:
    assert ids(read("\ufeff" + ROWS, Reading(encoding=named))) == ["1", "2"]
    assert ids(read(ROWS, Reading(encoding=named))) == ["1", "2"]
    assert ids(read(ROWS.encode("utf-16"), Reading(encoding="utf-16"))) == ["1", "2"]


@pytest.mark.parametrize("control", ["\0", "\x1e", "\x07"], ids=["nul", "record-separator", "bell"])
def test_a_control_character_in_a_short_file_affects_at_most_its_line(control: str) -> None:
    items = read(f"{HEADER}1,a,p,x\n2,b,p,a{control}b\n3,c,p,z\n")
    assert {"1", "3"} <= set(ids(items))
    assert len(ids(items)) + len(bad(items)) == 3


def test_a_single_late_line_that_is_not_utf8_is_rejected() -> None:
    for good, odd, head in ((line(1), line(2), ""), ("1,a,p,plain\n", "2,é,p,x\n", HEADER)):
        items = read((head + good * 9000).encode() + odd.encode("latin-1") + good.encode())
        assert [item.line for item in bad(items)] == [9001 + bool(head)]
        assert "--encoding" in bad(items)[0].reason
        assert len(comments(items)) == 9001


def test_bytes_undefined_in_the_given_encoding_are_a_single_bad_line() -> None:
    items = read((HEADER + "1,a,p,x\n").encode() + b"2,a,p,\x81\n3,a,p,z\n", Reading(encoding="windows-1252"))
    assert ([item.line for item in bad(items)], ids(items)) == ([3], ["1", "3"])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (archive("[Content_Types].xml", "xl/workbook.xml"), "spreadsheet.*save it as CSV"),
        (archive("mimetype", "content.xml"), "spreadsheet.*save it as CSV"),
        (archive("comments.csv"), "unzip -p"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "old Excel"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "picture"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "picture"),
        (b"%PDF-1.7\n%\xe2\xe3\n", "PDF"),
        (b"\n<!DOCTYPE html>\n<html>", "HTML"),
        (b'<?xml version="1.0"?>\n<rss>', "XML"),
        (b'<?xml version="1.0"?>\n<disqus xmlns="x">', "Disqus"),
        (b"SQLite format 3\0" + bytes(100), "SQLite"),
        (b"PAR1\x15\x04" + bytes(100), "Parquet"),
        (gzip.compress(b"a.csv" + bytes(252) + b"ustar" + bytes(300)), "tar"),
        (gzip.compress(b"%PDF-1.7\n"), "PDF"),
        (gzip.compress(gzip.compress(ROWS.encode())), "gzip twice"),
        (b"{\\rtf1\\ansi", "Rich Text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "curl"),
        (bytes(range(256)) * 20, "not a text file"),
        (b"", "empty"),
        (b"\n\r\n \n", "empty"),
        (codecs.BOM_UTF8, "empty"),
        (gzip.compress(b""), "empty"),
        (b'[{"cid":"1","votes":"3"}]', "--preset youtube-comment-downloader"),
        (b"hello there\nsome prose\n", "no column id, text, post_id"),
        (b"id,body,link_id\n", "--preset pushshift"),
    ],
    # The first bytes only: gzip writes the time into the others, and all processes of a test run need the same ids.
    ids=lambda value: case_id(value) if isinstance(value, str) else case_id(value[:4]),
)
def test_an_unsupported_file_is_rejected_with_its_kind_and_advice(raw: bytes, words: str) -> None:
    with pytest.raises(FileError, match=words):
        read(raw)


def test_the_first_line_of_a_slow_pipe_is_read_without_the_rest() -> None:
    for first in (line(1).encode(), HEADER.encode(), b"{", gzip.compress(line(1).encode())[:15]):
        rest = {b"{": line(1)[1:].encode(), HEADER.encode(): b"1,a,p,x\n"}.get(first, b"")
        if first.startswith(b"\x1f"):
            rest = gzip.compress(line(1).encode())[15:]
        pipe = Pieces(first, rest) if rest else Pieces(first)
        (item,) = [next(open_comments(pipe, Reading()))]  # type: ignore[arg-type]
        assert isinstance(item, Numbered)
        assert pipe.reads <= 4


def test_a_line_with_a_whole_request_yields_its_comments() -> None:
    body = {
        "post_id": "q",
        "source": "Blog",
        "comments": [{"id": "1", "text": "x"}, {"id": "2"}, {"id": "1E+17", "text": "y"}],
    }
    items = read(
        json.dumps(body) + "\n" + line(9) + json.dumps({"comments": [{"id": "7", "text": "z"}]}), Reading(post_id="d")
    )
    assert [(c.source, c.post_id, c.id) for c in comments(items)] == [
        ("blog", "q", "1"), ("threads", "p", "9"), ("threads", "d", "7"),
    ]  # fmt: skip
    assert sorted((item.line, item.id, item.reason[:11]) for item in bad(items)) == [
        (1, "1E+17", "comments[2]"), (1, "2", "comments[1]"),
    ]  # fmt: skip


def test_ids_within_posts_are_prefixed_with_their_post() -> None:
    how = Reading(ids_within_posts=True)
    rows = [line(1, parent_id="7"), line(1, post_id="q"), line(1, id="x" * 199), line(2, parent_id="x" * 199)]
    items = read("".join(rows), how)
    assert [(c.id, c.parent_id) for c in comments(items)] == [("p/1", "p/7"), ("q/1", None)]
    assert [(item.line, item.reason[:11].split("`")[1]) for item in bad(items)] == [(3, "id"), (4, "parent_id")]


def test_likes_and_other_optional_fields_are_read_from_csv() -> None:
    raw = "id,post_id,text,likes,author_id,edited_at,url\n1,p,t,12,u,2026-01-31T09:30:00Z,https://x\n2,p,t,,,,\n3,p,t,many,,,\n"
    items = read(raw)
    first, second = comments(items)
    assert (first.likes, first.author_id, first.url, first.edited_at is not None) == (12, "u", "https://x", True)
    assert second.details == (None, None, None, None)
    assert "likes" in bad(items)[0].reason
