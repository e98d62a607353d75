"""Reads comments from JSON: a comment or a request per line, or documents of any size, also in other tools' formats."""

import io
import re
from collections.abc import Iterator
from typing import IO, Final

import msgspec

from comment_monitor.core.errors import Problem
from comment_monitor.core.model import Comment
from comment_monitor.intake.comment_decoder import (
    DEFAULT_SOURCE,
    BadCommentError,
    build_comment,
    check_name,
    id_of,
    in_words,
    without_lone_surrogates,
)
from comment_monitor.intake.files.file_kind import FileError
from comment_monitor.intake.files.file_stream import BOM, DAMAGE
from comment_monitor.intake.files.json_stream import BrokenJsonError, JsonStream
from comment_monitor.intake.files.numbered import BadLine, Defaults, Numbered, with_whole_ids
from comment_monitor.intake.files.presets import Mapper, Members, hint_of, preset_of
from comment_monitor.intake.request_parser import parse_request

# Many times the size of a comment with 10,000 characters, all escaped, and its metadata.
MAX_LINE: Final = 4 * 1024 * 1024
ARRAY: Final = "a JSON array, not JSON Lines, which has one object per line (jq -c '.[]' converts it)"
# The member of a request that holds its comments.
COMMENTS: Final = "comments"
# The longest member of a document that is kept once its comments were found; longer ones are ignored.
MAX_MEMBER: Final = 64 * 1024
# A hint for a rejected number: a mapping would accept it, outside a request.
_NUMBER: Final = re.compile(r"`(\w+)` must be a string(?: or null)?, not a number")
TAKES_NUMBERS: Final = " (--column {0}={0} takes numbers)"
_KEY: Final = re.compile(rb'"(\w{1,40})"\s{0,10}:')
KEYS_IN: Final = 64 * 1024

Items = Iterator[Numbered | BadLine]


class LineHead(msgspec.Struct, kw_only=True):
    """The post and source of a line; the comment itself is decoded like that of a request."""

    post_id: str | None = None
    source: str | None = None


_head = msgspec.json.Decoder(LineHead)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_json_lines(
    stream: IO[bytes], *, post_id: str | None, source: str | None, mapper: Mapper | None = None
) -> Items:
    """Reads comments from JSON Lines; `post_id` and `source` are the defaults for lines without them.

    Raises:
        FileError: the file is a JSON array, or a compressed file is damaged or cut short.
    """
    defaults = Defaults(post_id, source)
    first = 0
    for number, line in _lines(stream):
        if not line.strip():
            continue
        if not first:
            first = number
            if line.lstrip().startswith(b"["):
                raise FileError(ARRAY + hint_of_text(line[:KEYS_IN]))
        if len(line) > MAX_LINE:
            hint = "" if mapper else hint_of_text(line[:KEYS_IN])
            yield BadLine(number, None, f"the line is longer than {MAX_LINE} bytes{hint}")
            continue
        if mapper:
            yield from _mapped_line(number, line, defaults, mapper)
            continue
        try:
            yield Numbered(number, _from_json(line, defaults))
        except BadCommentError as error:
            hint = (
                " (a CSV file? --format csv reads it)" if number == first and not line.lstrip().startswith(b"{") else ""
            )
            hint = _takes_numbers(str(error)) or hint
            yield from _unusual(number, line, defaults, f"{error}{hint}")


def _takes_numbers(reason: str) -> str:
    found = _NUMBER.fullmatch(reason)
    return TAKES_NUMBERS.format(found[1]) if found else ""


def hint_of_text(head: bytes) -> str:
    """Returns the hint of `hint_of` for a document that is not parsed, from the keys in its beginning."""
    return hint_of(name.decode("utf-8", "replace") for name in _KEY.findall(head))


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        while line := stream.readline(MAX_LINE + 2):
            number += 1
            yield number, line.removeprefix(BOM) if number == 1 else line
            if len(line) > MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_LINE)
    except DAMAGE as error:
        raise FileError(f"damaged or cut short after line {number} ({error})") from None


def _from_json(line: bytes, defaults: Defaults) -> Comment:
    try:
        line.decode()
        head = _head.decode(line)
    except UnicodeDecodeError as error:
        raise BadCommentError(_not_utf8(error)) from None
    except msgspec.ValidationError as error:
        raise BadCommentError(in_words(error, "the line")) from None
    except (msgspec.MsgspecError, RecursionError) as error:
        mended = without_lone_surrogates(line)
        if mended == line:
            raise BadCommentError(f"not JSON: {in_words(error, 'the line')}") from None
        return _from_json(mended, defaults)
    return with_whole_ids(
        build_comment(
            check_name("post_id", head.post_id or defaults.post_id),
            check_name("source", head.source or defaults.source or DEFAULT_SOURCE),
            msgspec.Raw(line),
        )
    )


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8 at byte {error.start} (--encoding NAME reads a file in another encoding)"


def _unusual(number: int, line: bytes, defaults: Defaults, reason: str) -> Items:
    """Reads a line that is not one comment: a request, or lines joined without a line break between them."""
    if not line.replace(BOM, b"").strip():
        return
    # Splitting a line costs more than decoding it, and the decoder reports "trailing" if there is more than one value.
    parts = _parts(line) if line.startswith(BOM) or "trailing" in reason else []
    for part in parts or [line]:
        members = _try_members(part)
        if _is_request(members):
            yield from _from_request(number, part, defaults)
            continue
        fault = reason
        # The caller has already tried a line with a single value, as nearly all have.
        if len(part) != len(line):
            try:
                yield Numbered(number, _from_json(part, defaults))
                continue
            except BadCommentError as error:
                fault = str(error)
        if hint := hint_of(members or ()):
            fault = fault.partition(" (--column ")[0]
        yield BadLine(number, id_of(msgspec.Raw(part)), f"{fault}{hint}")


def _parts(line: bytes) -> list[bytes]:
    """Returns the objects of a line, which may have several if files were joined; none if the line is malformed."""
    values = JsonStream(io.BytesIO(line), MAX_LINE)
    found: list[bytes] = []
    try:
        while first := values.peek():
            if first != b"{":
                return []
            found.append(values.value() or b"")
    except BrokenJsonError:
        return []
    # A single object is the line itself, apart from blanks.
    return found if len(found) > 1 or line.startswith(BOM) else []


def _is_request(members: Members | None) -> bool:
    return members is not None and COMMENTS in members and "text" not in members and not preset_of(members)


def _try_members(line: bytes) -> Members | None:
    try:
        line.decode()
        return _members.decode(line)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
        return None


def _from_request(number: int, body: bytes, defaults: Defaults) -> Items:
    """Reads the comments of a whole request. Its own members follow the defaults, and the last of a name counts."""
    given = {name: value for name, value in defaults._asdict().items() if value}
    joined = msgspec.json.encode(given)[:-1] + (b"," if given else b"") + body.lstrip()[1:]
    try:
        parsed = parse_request(joined, max_comments=MAX_LINE)
    except Problem as problem:
        yield BadLine(number, None, str(problem).rstrip("."))
        return
    for index, comment in zip(parsed.indexes, parsed.comments, strict=True):
        try:
            yield Numbered(number, with_whole_ids(comment))
        except BadCommentError as error:
            yield BadLine(number, comment.id, f"comments[{index}]: {error}")
    for rejected in parsed.rejected:
        yield BadLine(number, rejected.id, f"comments[{rejected.index}]: {rejected.reason}")


def _mapped_line(number: int, line: bytes, defaults: Defaults, mapper: Mapper) -> Items:
    try:
        _decode_members(line)
        parts = [line]
    except BadCommentError:
        if not line.replace(BOM, b"").strip():
            return
        parts = _parts(line) or [line]
    for part in parts:
        try:
            members = _decode_members(part)
        except BadCommentError as error:
            yield BadLine(number, None, str(error))
            continue
        container = mapper.preset.container if mapper.preset else None
        if container and bytes(members.get(container, b"")).startswith(b"["):
            documents = read_documents(io.BytesIO(part), defaults, mapper)
            yield from (item._replace(line=number) for item in documents)
        else:
            yield _mapped(number, members, defaults, mapper)


def _decode_members(raw: bytes) -> Members:
    try:
        raw.decode()
        return _members.decode(raw)
    except UnicodeDecodeError as error:
        raise BadCommentError(_not_utf8(error)) from None
    except msgspec.ValidationError as error:
        raise BadCommentError(in_words(error, "the line")) from None
    except (msgspec.MsgspecError, RecursionError) as error:
        mended = without_lone_surrogates(raw)
        if mended == raw:
            raise BadCommentError(f"not JSON: {in_words(error, 'the line')}") from None
        return _decode_members(mended)


def _mapped(number: int, members: Members, defaults: Defaults, mapper: Mapper, at: str = "") -> Numbered | BadLine:
    try:
        fields = mapper.fields(members)
        own_source = mapper.preset.source if mapper.preset else DEFAULT_SOURCE
        post_id = check_name("post_id", fields.pop("post_id", None) or defaults.post_id)
        source = check_name("source", fields.pop("source", None) or defaults.source or own_source)
        comment = build_comment(post_id, source, msgspec.Raw(msgspec.json.encode(fields)))
        return Numbered(number, with_whole_ids(comment))
    except OverflowError:
        return BadLine(number, mapper.id_of(members), f"{at}`likes` is too large a number")
    except BadCommentError as error:
        return BadLine(number, mapper.id_of(members), f"{at}{error}")


def read_documents(stream: io.BufferedIOBase, defaults: Defaults, mapper: Mapper | None) -> Items:
    """Reads comments from JSON documents of any size: arrays of comments, objects that contain one, or comments.

    Without a mapper the comments have this program's own fields.

    Raises:
        FileError: the rest of the file is not JSON, or is damaged.
    """
    values = JsonStream(stream, MAX_LINE)
    try:
        while first := values.peek():
            if first == b"[":
                yield from _elements(values, defaults, mapper, "")
            elif first == b"{":
                yield from _document(values, defaults, mapper)
            else:
                values.fail("expected an object or an array")
    except BrokenJsonError as error:
        raise FileError(f"not JSON at line {values.line} ({error})") from None
    except DAMAGE as error:
        raise FileError(f"damaged or cut short after line {values.line} ({error})") from None


def _document(values: JsonStream, defaults: Defaults, mapper: Mapper | None) -> Items:
    container = COMMENTS if mapper is None else mapper.preset.container if mapper.preset else None
    line, has_container = values.line, False
    members: dict[str, msgspec.Raw] = {}
    for key in values.members():
        name = msgspec.json.decode(without_lone_surrogates(key), type=str)
        if name == container and values.peek() == b"[":
            has_container = True
            around = _around(members, defaults, mapper)
            yield from _elements(values, around, mapper, name)
            continue
        raw = values.value()
        if raw is not None and len(raw) <= (MAX_MEMBER if has_container else MAX_LINE):
            members[name] = msgspec.Raw(raw)
    if has_container:
        return
    if mapper:
        yield _mapped(line, members, defaults, mapper)
    else:
        yield from _own(line, msgspec.json.encode(members), defaults)


def _around(members: Members, defaults: Defaults, mapper: Mapper | None) -> Defaults:
    """Returns the post and source that the document gives before its comments, or else the defaults."""
    try:
        if mapper is None:
            head = _head.decode(msgspec.json.encode(members))
            return Defaults(head.post_id or defaults.post_id, head.source or defaults.source)
        found = mapper.around(members)
    except msgspec.MsgspecError as error:
        raise FileError(in_words(error, "the document")) from None
    except BadCommentError as error:
        raise FileError(str(error)) from None
    needed = mapper.preset.around if mapper.preset else {}
    if late := [field for field in needed if field not in found and not getattr(defaults, field)]:
        options = " and ".join(f"--{field.replace('_', '-')}" for field in late)
        raise FileError(
            f"the document does not give its {' and '.join(late)} before its comments: name it by {options}"
        )
    return Defaults(found.get("post_id") or defaults.post_id, defaults.source or found.get("source"))


def _elements(values: JsonStream, defaults: Defaults, mapper: Mapper | None, name: str) -> Items:
    for index, _ in enumerate(values.elements()):
        at, line = f"{name}[{index}]: ", values.line
        raw = values.value()
        if raw is None:
            yield BadLine(line, None, f"{at}longer than {MAX_LINE} bytes")
        elif mapper is None:
            yield from _own(line, raw, defaults, at, late_post="if it follows the comments, name it by --post-id")
        else:
            try:
                yield _mapped(line, _decode_members(raw), defaults, mapper, at)
            except BadCommentError as error:
                yield BadLine(line, None, f"{at}{error}")


def _own(line: int, raw: bytes, defaults: Defaults, at: str = "", late_post: str = "") -> Items:
    """Reads a value of a document: a comment in this program's own fields, or a request with several."""
    try:
        yield Numbered(line, _from_json(raw, defaults))
    except BadCommentError as error:
        members = _try_members(raw)
        if _is_request(members):
            yield from _from_request(line, raw, defaults)
            return
        hint = hint_of(members or ())
        if late_post and str(error) == "`post_id` is missing":
            hint = f"; {late_post}"
        elif not at.startswith(COMMENTS):
            hint = hint or _takes_numbers(str(error))
        yield BadLine(line, id_of(msgspec.Raw(raw)), f"{at}{error}{hint}")
