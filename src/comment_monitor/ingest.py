"""Comments from files: JSON Lines and CSV, gzip or not, of any size in constant memory.

A line that can't be read is named with its number and the rest goes on. Reading again is safe: what is stored
already is counted as a duplicate.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Final, NamedTuple

import msgspec

from comment_monitor.incoming import (
    DEFAULT_SOURCE,
    BadCommentError,
    build_comment,
    check_name,
    id_of,
    in_words,
    without_lone_surrogates,
)
from comment_monitor.model import Comment

GZIP_MAGIC: Final = b"\x1f\x8b"
OTHER_COMPRESSIONS: Final = (
    (b"\x28\xb5\x2f\xfd", "zstd", "zstdcat FILE"),
    (b"\xfd7zXZ\x00", "xz", "xzcat FILE"),
    (b"BZh", "bzip2", "bzcat FILE"),
    (b"PK\x03\x04", "zip", "unzip -p FILE"),
)
# A text of 10,000 characters, all escaped, with its metadata, fits many times over.
MAX_LINE: Final = 4 * 1024 * 1024
# What reading a compressed file raises where it is damaged.
DAMAGE: Final = (EOFError, gzip.BadGzipFile, zlib.error, OSError)
FIELDS: Final = ("source", "post_id", "id", "text", "author", "timestamp", "parent_id", "metadata")


class BadLine(NamedTuple):
    """A line that holds no comment that can be stored."""

    line: int
    id: str | None
    reason: str


class FileError(Exception):
    """The file can't be read on from here. What came before is stored."""


class LineHead(msgspec.Struct, kw_only=True):
    """What a line says of its post; the comment itself is read like a request's."""

    post_id: str | None = None
    source: str | None = None


_head = msgspec.json.Decoder(LineHead)


class Numbered(NamedTuple):
    """A comment and the line it stood on."""

    line: int
    comment: Comment


def open_stream(raw: IO[bytes]) -> IO[bytes]:
    """The plain bytes of a file that may be gzip (told by its first bytes, not by its name).

    Raises:
        FileError: it is compressed in another way.
    """
    buffered = io.BufferedReader(raw, 1 << 20) if isinstance(raw, io.RawIOBase) else raw
    peek = buffered.peek(6) if isinstance(buffered, io.BufferedReader) else b""
    for magic, name, command in OTHER_COMPRESSIONS:
        if peek.startswith(magic):
            raise FileError(f"compressed with {name}, and only gzip is read here: {command} | comment-monitor ingest -")
    return gzip.GzipFile(fileobj=buffered) if peek[:2] == GZIP_MAGIC else buffered  # type: ignore[return-value]


def read_json_lines(stream: IO[bytes], *, post_id: str | None, source: str | None) -> Iterator[Numbered | BadLine]:
    """Comments from JSON Lines; `post_id` and `source` stand in where a line has none.

    Raises:
        FileError: a compressed file is damaged or cut short.
    """
    for number, line in _lines(stream):
        if not line.strip():
            continue
        if number == 1 and line.lstrip().startswith(b"["):
            raise FileError("a JSON array, not JSON Lines, which has one object a line (jq -c '.[]' makes it so)")
        if len(line) > MAX_LINE:
            yield BadLine(number, None, f"the line is longer than {MAX_LINE} bytes")
            continue
        try:
            yield Numbered(number, _from_json(line, post_id, source))
        except BadCommentError as error:
            hint = " (a CSV file? --format csv reads it)" if number == 1 and not line.lstrip().startswith(b"{") else ""
            yield BadLine(number, id_of(msgspec.Raw(line)), f"{error}{hint}")


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        while line := stream.readline(MAX_LINE + 2):
            number += 1
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if len(line) > MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_LINE)
    except DAMAGE as error:
        raise FileError(f"damaged or cut short after line {number} ({error})") from None


def _from_json(line: bytes, post_id: str | None, source: str | None) -> Comment:
    try:
        line.decode()
        head = _head.decode(line)
    except UnicodeDecodeError as error:
        raise BadCommentError(f"not UTF-8 at byte {error.start}") from None
    except msgspec.ValidationError as error:
        raise BadCommentError(in_words(error, "the line")) from None
    except (msgspec.MsgspecError, RecursionError) as error:
        mended = without_lone_surrogates(line)
        if mended == line:
            raise BadCommentError(f"not JSON: {error}") from None
        return _from_json(mended, post_id, source)
    return build_comment(
        check_name("post_id", head.post_id or post_id),
        check_name("source", head.source or source or DEFAULT_SOURCE),
        msgspec.Raw(line),
    )


def read_csv(
    stream: IO[bytes],
    *,
    post_id: str | None,
    source: str | None,
    columns: Mapping[str, str],
    delimiter: str = ",",
) -> Iterator[Numbered | BadLine]:
    """Comments from CSV with a header row. `columns` maps our field names to the file's, where they differ.

    Columns that are no field are left out; `metadata` holds a JSON object. A row with more or fewer values than the
    header has names is rejected: a text with an unquoted delimiter would be cut there.

    Raises:
        FileError: the header lacks a needed column, or the file can't be read on.
    """
    csv.field_size_limit(MAX_LINE)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(text, strict=True, delimiter=delimiter)
    names = {field: columns.get(field, field) for field in FIELDS}
    number = 0
    try:
        header = next(rows, None)
        if header is None:
            return
        _check_header(header, names, needed=["id", "text", "author", *([] if post_id else ["post_id"])])
        number = rows.line_num
        for row in rows:
            number = rows.line_num
            if not row:
                continue
            if len(row) != len(header):
                wrong = (
                    f"{len(row)} values under {len(header)} columns; a value that holds a {delimiter!r} needs quotes"
                )
                yield BadLine(number, _value(row, header, names["id"]), wrong)
                continue
            yield _from_row(number, dict(zip(header, row, strict=True)), names, post_id, source)
    except csv.Error as error:
        raise FileError(f"not CSV after line {number} ({error})") from None
    except DAMAGE as error:
        raise FileError(f"damaged or cut short after line {number} ({error})") from None
    finally:
        # Or its end would close the stream, which is the caller's.
        text.detach()


def _check_header(header: list[str], names: Mapping[str, str], *, needed: list[str]) -> None:
    """The first line names the columns.

    Raises:
        FileError: one that is needed is missing, or one of ours stands twice.
    """
    if missing := [names[field] for field in needed if names[field] not in header]:
        shown = ", ".join(map(repr, header[:10]))[:200].encode("ascii", "backslashreplace").decode()
        raise FileError(
            f"the header has no column {', '.join(missing)}; it has {shown}. "
            "--column FIELD=NAME names another, --delimiter what stands between them; the file must be UTF-8"
        )
    if twice := [name for name in names.values() if header.count(name) > 1]:
        raise FileError(f"the header names the column {twice[0]} more than once")


def _value(row: list[str], header: list[str], name: str) -> str | None:
    at = header.index(name)
    return row[at] if at < len(row) else None


def _from_row(
    number: int, row: dict[str, str], names: Mapping[str, str], post_id: str | None, source: str | None
) -> Numbered | BadLine:
    values = {field: row.get(name) for field, name in names.items()}
    item = {field: value for field, value in values.items() if value not in (None, "") or field == "text"}
    try:
        comment = build_comment(
            check_name("post_id", values["post_id"] or post_id),
            check_name("source", values["source"] or source or DEFAULT_SOURCE),
            _as_json(item, item.pop("metadata", None)),
        )
    except BadCommentError as error:
        return BadLine(number, values["id"], str(error))
    return Numbered(number, comment)


def _as_json(item: dict[str, str | None], metadata: str | None) -> msgspec.Raw:
    """The row as JSON, with its metadata in the characters in which it came."""
    try:
        raw = (metadata or "null").encode()
        msgspec.json.decode(raw, type=msgspec.Raw)
        head = json.dumps(item, ensure_ascii=False).encode()
    except (msgspec.MsgspecError, RecursionError):
        raise BadCommentError("`metadata` is not JSON") from None
    except UnicodeEncodeError:
        raise BadCommentError("the line is not UTF-8") from None
    return msgspec.Raw(head[:-1] + b',"metadata":' + raw + b"}")
