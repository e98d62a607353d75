"""Reads comments from files of any size in constant memory: JSON Lines, CSV and the formats of other tools.

The content determines the format, not the name. A line that can't be read is reported with its number, and reading
continues. Reading a file again is safe: comments that are already stored count as duplicates.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from typing import IO, Final, Literal, NamedTuple

import msgspec

from comment_monitor.intake.files.csv_comments import SEPARATOR_LINE, read_csv
from comment_monitor.intake.files.file_kind import FileError
from comment_monitor.intake.files.file_stream import BOM, Text, open_stream, open_text
from comment_monitor.intake.files.json_comments import MAX_LINE, hint_of_text, read_documents, read_json_lines
from comment_monitor.intake.files.numbered import BadLine, Defaults, Numbered, within_posts
from comment_monitor.intake.files.presets import FIELDS, PRESETS, Mapper

__all__ = [
    "FIELDS", "MAX_LINE", "PRESETS", "BadLine", "FileError", "Numbered", "Reading", "open_comments", "open_stream",
    "read_csv", "read_json_lines",
]  # fmt: skip

DELIMITERS: Final = (",", ";", "\t", "|")
_FIRST_LINE: Final = re.compile(rb"\s*+([^\r\n]*+)(\r?\n\s*+([^\n]?))?")
_A_REQUEST: Final = re.compile(
    rb'\s*+\{(?:\s*+"(?:post_id|source)"\s*+:\s*+"[^"\\]*+"\s*+,)*+\s*+"comments"\s*+:\s*+\['
)
_A_JSON_LINE: Final = re.compile(rb"^[ \t]*+\{", re.MULTILINE)

Kind = Literal["jsonl", "csv"]


class Reading(NamedTuple):
    """How to read a file. None: detect it from the content."""

    kind: Kind | None = None
    encoding: str | None = None
    delimiter: str | None = None
    post_id: str | None = None
    source: str | None = None
    columns: Mapping[str, str] = {}
    preset: str | None = None
    ids_within_posts: bool = False


def open_comments(raw: IO[bytes], how: Reading) -> Iterator[Numbered | BadLine]:
    """Returns the comments of a file: detects its format at once, and reads its lines as the iterator advances.

    Raises:
        FileError: the file can't be read; from the iterator: it can't be read further.
    """
    text = open_text(raw, how.encoding)
    items = _read(text, how)
    return within_posts(items) if how.ids_within_posts else items


def _read(text: Text, how: Reading) -> Iterator[Numbered | BadLine]:
    head = text.head.replace(BOM, b"") if text.head.startswith(BOM) else text.head
    if (how.kind or _kind(head, how)) == "csv":
        delimiter = how.delimiter or _delimiter(_header(head), _names(how))
        return read_csv(
            text.stream,
            post_id=how.post_id,
            source=how.source,
            columns=how.columns,
            delimiter=delimiter,
            preset=how.preset,
        )
    mapper = Mapper(how.preset, how.columns) if how.preset or how.columns else None
    if _is_document(head, mapper):
        # Comments in our own format may contain another tool's members in their metadata.
        if not mapper and b'"post_id"' not in head and (hint := hint_of_text(head)):
            raise FileError(f"not in this program's format{hint}")
        return read_documents(text.stream, Defaults(how.post_id, how.source), mapper)
    return read_json_lines(text.stream, post_id=how.post_id, source=how.source, mapper=mapper)


def _names(how: Reading) -> frozenset[str]:
    """Returns the names that a header of this file may have, case folded."""
    rules = Mapper(how.preset, how.columns).rules.values()
    return frozenset(path.casefold() for rule in rules for path in rule.paths)


def _kind(head: bytes, how: Reading) -> Kind:
    first = head.lstrip()[:1]
    if first in (b"{", b"["):
        return "jsonl"
    header = _header(head)
    known = _cells(header, _delimiter(header, _names(how))) & _names(how)
    # Another line before JSON Lines is one bad line.
    return "jsonl" if not known and _A_JSON_LINE.search(head) else "csv"


def _header(head: bytes) -> str:
    lines = [line for line in re.split(r"[\r\n]+", head.decode("utf-8", "replace").strip("\r\n"), maxsplit=2) if line]
    first = lines[0].strip('"') if lines else ""
    if first.lower().startswith(SEPARATOR_LINE):
        return first if len(first) > len(SEPARATOR_LINE) else "".join(lines[1:2])
    return lines[0] if lines else ""


def _delimiter(header: str, names: frozenset[str]) -> str:
    """Returns the delimiter of a header: the one that yields the most known names, then the most names."""
    if header.lower().startswith(SEPARATOR_LINE) and len(header) == len(SEPARATOR_LINE) + 1:
        return header[-1]
    found = {delimiter: _cells(header, delimiter) for delimiter in DELIMITERS}
    return max(DELIMITERS, key=lambda delimiter: (len(found[delimiter] & names), len(found[delimiter])))


def _cells(header: str, delimiter: str) -> frozenset[str]:
    try:
        row = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:
        return frozenset()
    return frozenset(name.strip(' "\ufeff\t\u00a0').casefold() for name in row)


def _is_document(head: bytes, mapper: Mapper | None) -> bool:
    """Returns whether the file is JSON other than JSON Lines: an array, an object around one, or indented objects."""
    if head.lstrip().startswith(b"[") or _is_pretty(head):
        return True
    if not mapper:
        # A whole request in one line may exceed the limit of a line.
        return _A_REQUEST.match(head) is not None and not _first_line(head)[1]
    container = mapper.preset.container if mapper.preset else None
    first, ended = _first_line(head)
    if not container or not first.startswith(b"{"):
        return False
    try:
        return container in msgspec.json.decode(first, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError):
        return not ended


def _is_pretty(head: bytes) -> bool:
    """Returns whether the first line is an incomplete object that the second line continues."""
    found = _FIRST_LINE.match(head)
    if not found or not found[1].startswith(b"{") or found[3] not in (b'"', b"}"):
        return False
    try:
        msgspec.json.decode(found[1], type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError):
        return True
    return False


def _first_line(head: bytes) -> tuple[bytes, bool]:
    """Returns the first line, and whether it is complete."""
    found = _FIRST_LINE.match(head)
    return (found[1], found[2] is not None) if found else (b"", False)
