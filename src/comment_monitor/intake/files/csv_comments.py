"""Reads comments from CSV with a header row, in this program's columns or in those of another tool."""

import io
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final, NamedTuple

import msgspec

from comment_monitor.intake.comment_decoder import DEFAULT_SOURCE, BadCommentError, build_comment, check_name
from comment_monitor.intake.files.csv_rows import BOM, BadRow, Row, Rows, ends_in_cr
from comment_monitor.intake.files.file_kind import FileError
from comment_monitor.intake.files.file_stream import BUFFER, DAMAGE, HEAD
from comment_monitor.intake.files.numbered import BadLine, Defaults, Numbered, with_whole_ids
from comment_monitor.intake.files.presets import PRESETS, Convert, Mapper, Rule, hint_of

# Spreadsheets write this before the header, to name the delimiter.
SEPARATOR_LINE: Final = "sep="
NEEDED: Final = ("id", "text", "post_id")
# Fields kept character for character; blanks around other values are layout of the table.
VERBATIM: Final = frozenset(("text", "metadata"))
# How databases write an empty cell; for a parent, also how data frames do.
NOTHING: Final = "\\N"
NO_PARENT: Final = frozenset((NOTHING, "NULL", "null", "NaN", "nan", "None"))
# Ids up to this length are as short as words and numbers of a text.
SHORT: Final = 3
# A cell of the line under the header of a table drawn as text.
_RULER: Final = re.compile(r":?-{3,}:?")


SWALLOWED: Final = (
    "lines {} to {} are one value in quotes that contains what looks like rows: close the quote where its text ends"
)


class Cell(NamedTuple):
    """The position of a field's value in a row, and its conversion."""

    field: str
    at: int
    convert: Convert


def read_csv(
    stream: IO[bytes],
    *,
    post_id: str | None,
    source: str | None,
    columns: Mapping[str, str],
    delimiter: str = ",",
    preset: str | None = None,
) -> Iterator[Numbered | BadLine]:
    """Reads comments from CSV with a header row. `columns` maps our field names to the file's, if they differ.

    Ignores columns that are not a field; `metadata` holds a JSON object. Rejects a row whose number of values differs
    from the header's: a text with an unquoted delimiter would be cut there. Reports and skips a malformed line. A
    further header, of a file that was joined to the first, defines the columns from there on.

    Raises:
        FileError: the header lacks a required column, or the file can't be read further.
    """
    buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream, BUFFER)  # type: ignore[type-var]
    table = _Table(
        Mapper(preset, columns).for_cells(columns),
        frozenset(columns),
        Defaults(post_id, source),
        PRESETS[preset].source if preset else DEFAULT_SOURCE,
        delimiter,
    )
    line = 0
    try:
        rows = Rows(buffered, delimiter, cr_only=ends_in_cr(buffered.peek(HEAD)))
        for row in rows:
            line = row.line
            item = table.read(row, rows)
            if item is not None:
                yield item
    except DAMAGE as error:
        raise FileError(f"damaged or cut short after line {line} ({error})") from None
    finally:
        if buffered is not stream:
            # Otherwise the end of `buffered` would close the stream, which belongs to the caller.
            buffered.detach()


class _Table:
    """Reads rows by the columns of the latest header."""

    def __init__(
        self,
        rules: Mapping[str, Rule],
        named: frozenset[str],
        defaults: Defaults,
        own_source: str,
        delimiter: str,
    ):
        self._rules = rules
        # Fields whose columns the user named: each column is required.
        self._named = named
        self._defaults = defaults
        self._own_source = own_source
        self._delimiter = delimiter
        self._cells: list[Cell] = []
        self._id_at = 0
        self._post_at: int | None = None
        self._latest: tuple[str, str | None] = ("", None)
        self._width = 0
        # Names of this header's and of our columns: in a further header, the id's column contains one of them.
        self._names: frozenset[str] = frozenset()

    def read(self, row: Row | BadRow, rows: Rows) -> Numbered | BadLine | None:
        """Returns the comment or the fault of a row; None for a header."""
        if not self._cells:
            self._read_first(row, rows)
            return None
        if isinstance(row, BadRow):
            return BadLine(row.line, None, row.reason, is_csv_fault=True)
        values = row.values
        if self._is_header(values, row.line):
            self._take_header(values, rows)
            return None
        id_ = self._id(values)
        if fault := self._fault(row, rows):
            return BadLine(row.line, id_, fault)
        self._latest = self._identity(values)
        try:
            return Numbered(row.line, self._comment(values))
        except BadCommentError as error:
            return BadLine(row.line, id_, str(error))

    def _fault(self, row: Row, rows: Rows) -> str | None:
        if len(row.values) != self._width:
            return self._wrong_number(row, rows)
        if row.first != row.line and self._swallows(row.values, rows):
            return SWALLOWED.format(row.first, row.line)
        return None

    def _wrong_number(self, row: Row, rows: Rows) -> str:
        values, lines = row.values, "" if row.first == row.line else f"lines {row.first} to {row.line}: "
        if header := self._header_at_the_end(values, row.line):
            self._take_header(header, rows)
            return (
                "the last line of a file and the header of the next are one line: a line break between them is missing"
            )
        return (
            f"{lines}{len(values)} values under {self._width} columns; a value that contains a {self._delimiter!r} or "
            "a line break needs quotes"
        )

    def _header_at_the_end(self, values: list[str], line: int) -> list[str] | None:
        """Returns a header in the same line as a row's last value: two files were joined without a line break."""
        joint, rest = values[self._width - 1 : self._width], values[self._width :]
        if not joint or not rest or not all(name.strip(BOM + ' "').casefold() in self._names for name in rest):
            return None
        found = joint[0].casefold()
        name = max((known for known in self._names if found.endswith(known)), key=len, default=None)
        return [name, *rest] if name and self._is_header([name, *rest], line) else None

    def _identity(self, values: list[str]) -> tuple[str, str | None]:
        return values[self._id_at].strip(), None if self._post_at is None else values[self._post_at].strip()

    def _swallows(self, values: list[str], rows: Rows) -> bool:
        """Returns whether a value contains lines that look like rows of this file, because a closing quote is missing.

        They are not read as rows: an author may have written them into a comment to forge comments of others.
        """
        known = [self._identity(values), self._latest]
        return any(_alike(self._identity(inner), id_, post) for inner in rows.within() for id_, post in known if id_)

    def _read_first(self, row: Row | BadRow, rows: Rows) -> None:
        if isinstance(row, BadRow):
            raise FileError(f"the header can't be read: {row.reason}")
        if not (
            row.values[0].lower().startswith(SEPARATOR_LINE) and len("".join(row.values)) <= len(SEPARATOR_LINE) + 1
        ):
            self._take_header(row.values, rows)

    def _take_header(self, values: list[str], rows: Rows) -> None:
        header = _names(values)
        found = {field: at for field, rule in self._rules.items() if (at := _column(header, rule.paths)) is not None}
        missing = [
            field for field in NEEDED if field not in found and not (field == "post_id" and self._defaults.post_id)
        ]
        missing += [field for field in self._rules if field in self._named - found.keys() and field not in missing]
        if missing:
            rules = self._rules
            raise _missing([rules[field].paths[0] if field in rules else field for field in missing], header)
        # Several fields may share a column: a preset may read `parent_id` from the id's column.
        self._cells = [Cell(field, at, self._rules[field].convert) for field, at in found.items()]
        self._id_at = found["id"]
        self._post_at = found.get("post_id")
        self._width = len(header)
        rows.follow(self._width)
        ours = {path for rule in self._rules.values() for path in rule.paths}
        self._names = frozenset(name.casefold() for name in (*header, *ours) if name)
        rows.keep_marks(keep=any(cell.at == 0 and cell.field in {"text", "author"} for cell in self._cells))

    def _is_header(self, values: list[str], line: int) -> bool:
        """Returns whether a row is a header with all our columns, of a file that was joined to the first."""
        if self._id_at >= len(values) or values[self._id_at].strip(BOM + ' "').casefold() not in self._names:
            return False
        header = _names(values)
        needed = [cell.field for cell in self._cells if cell.field in NEEDED]
        fault = f"its header lacks a column for one of {', '.join(needed)}"
        try:
            if all(_column(header, self._rules[field].paths) is not None for field in needed):
                return True
        except FileError as error:
            fault = str(error)
        if sum(name.casefold() in self._names for name in header) > 1:
            raise FileError(f"another file begins at line {line}, and {fault}: read it separately")
        return False

    def _id(self, values: list[str]) -> str | None:
        if self._id_at >= len(values):
            return None
        return values[self._id_at][:200].encode("utf-8", "replace").decode() or None

    def _comment(self, values: list[str]) -> "Any":
        fields: dict[str, Any] = {}
        if values[self._id_at].strip(" :-") == "" and all(_RULER.fullmatch(value.strip()) for value in values if value):
            raise BadCommentError("a line of a drawn table, not a comment")
        for field, at, convert in self._cells:
            value = values[at] if field in VERBATIM else values[at].strip()
            if value == NOTHING or (field == "parent_id" and value in NO_PARENT):
                continue
            if value or field == "text":
                fields[field] = _metadata(value) if field == "metadata" else _converted(field, value, convert)
        post_id = check_name("post_id", fields.pop("post_id", None) or self._defaults.post_id)
        source = check_name("source", fields.pop("source", None) or self._defaults.source or self._own_source)
        try:
            raw = msgspec.json.encode(fields)
        except UnicodeEncodeError:
            raise BadCommentError("the line is not UTF-8 (--encoding NAME reads a file in another encoding)") from None
        except OverflowError:
            raise BadCommentError("`likes` is too large a number") from None
        return with_whole_ids(build_comment(post_id, source, msgspec.Raw(raw)))


def _alike(row: tuple[str, str | None], id_: str, post: str | None) -> bool:
    """Returns whether a line may be a row of the same file: it has the same post and an id of the same kind."""
    own, own_post = row
    if not own or own_post != post:
        return False
    if own.isdecimal() or id_.isdecimal():
        # Without a post to compare, short numbers do not count: texts often have them at the beginning of a line.
        return own.isdecimal() and id_.isdecimal() and (post is not None or min(len(own), len(id_)) > SHORT)
    return not any(map(str.isspace, own)) and abs(len(own) - len(id_)) <= SHORT and len(own) > SHORT


def _names(header: list[str]) -> list[str]:
    """Returns the names of a header's columns, without unnamed ones at its end."""
    names = [name.strip(BOM + ' "\t\u00a0') for name in header]
    while names and not names[-1]:
        names.pop()
    return names


def _column(header: list[str], names: tuple[str, ...]) -> int | None:
    """Returns the position of the first of these names in the header, exact or else with different case.

    Raises:
        FileError: the header has that name more than once.
    """
    for name in names:
        for same in (str, str.casefold):
            places = [at for at, given in enumerate(header) if same(given) == same(name.strip())]
            if len(places) > 1:
                raise FileError(f"the header names the column {name} more than once")
            if places:
                return places[0]
    return None


def _missing(missing: list[str], header: list[str]) -> FileError:
    shown = ", ".join(map(repr, header[:10]))[:200].encode("ascii", "backslashreplace").decode()
    hint = hint_of(header) or (
        ". --column FIELD=NAME names another, --delimiter the character between two values, "
        "--post-id the post of all rows"
    )
    return FileError(f"the header has no column {', '.join(missing)}; it has {shown}{hint}")


def _metadata(value: str) -> msgspec.Raw:
    """Checks that the value is JSON, and returns it unchanged."""
    try:
        raw = value.encode()
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError):
        raise BadCommentError("`metadata` is not JSON") from None
    except UnicodeEncodeError:
        raise BadCommentError("the line is not UTF-8 (--encoding NAME reads a file in another encoding)") from None
    return msgspec.Raw(raw)


def _converted(field: str, value: str, convert: Convert) -> Any:
    try:
        return convert(value)
    except BadCommentError as error:
        raise BadCommentError(f"`{field}` {error}") from None
