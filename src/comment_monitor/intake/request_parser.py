"""Parses a request's bytes into comments: rejects each bad comment by name and keeps the others.

The fast path decodes the whole body at once, and nearly always succeeds. Otherwise the slow path decodes each comment
separately.
"""

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

import msgspec

from comment_monitor.core.errors import InvalidRequest, NotJson, TooLarge
from comment_monitor.core.model import MAX_NAME, Comment, Name, Parsed, Rejection, normalise_source
from comment_monitor.intake.comment_decoder import (
    DEFAULT_SOURCE,
    BadCommentError,
    IncomingComment,
    build_comment,
    id_of,
    in_words,
    may_hold_lone_surrogates,
    take,
    text_fault,
    without_lone_surrogates,
)
from comment_monitor.intake.json_scanner import MOST_RUNS, IntricateError, Reader, StructureError

# Members that the body may have; a request has three.
MAX_MEMBERS: Final = 1000
Item = TypeVar("Item", IncomingComment, msgspec.Raw)
_BYTE: Final = re.compile(r"\(byte (\d+)\)")


class Request(msgspec.Struct, gc=False, kw_only=True):
    """A body whose comments all have the right types."""

    post_id: Name
    source: Name = DEFAULT_SOURCE
    comments: list[IncomingComment]


class Head(msgspec.Struct, kw_only=True):
    """A body whose comments are not decoded yet."""

    post_id: Name
    source: Name = DEFAULT_SOURCE
    comments: list[msgspec.Raw]


_fast = msgspec.json.Decoder(Request)
_head = msgspec.json.Decoder(Head)
_key = msgspec.json.Decoder(str)
# Checks every byte without creating objects.
_any = msgspec.json.Decoder(msgspec.Raw)


def parse_request(body: bytes, *, max_comments: int) -> Parsed:
    """Parses a request's body; skips one leading byte order mark, which some editors and shells write.

    Raises:
        NotJson: the body is not valid JSON.
        InvalidRequest: the body does not have the fields of a request.
        TooLarge: the body has more than `max_comments` comments.
    """
    return parse_at_once(body, max_comments=max_comments) or parse_one_by_one(body, max_comments=max_comments)


def parse_at_once(body: bytes, *, max_comments: int) -> Parsed | None:
    """The fast path, for a body whose fields all have the right types.

    Returns None if `parse_one_by_one` has to find the fault.

    Raises:
        NotJson, InvalidRequest, TooLarge: as `parse_request`.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        body.decode()
        # Every comment has a brace: if there are more braces, count the comments before creating any of them.
        if body.count(b"{") > max_comments + 1:
            head = _head.decode(body)
            _check_names(head.post_id, head.source)
            if len(head.comments) > max_comments:
                raise _too_many(max_comments)
            del head
        request = _fast.decode(body)
    except UnicodeDecodeError as error:
        raise NotJson(f"The body is not UTF-8 at byte {error.start}.") from None
    except (msgspec.MsgspecError, RecursionError):
        return None
    source = _check_names(request.post_id, request.source)
    if len(request.comments) > max_comments:
        raise _too_many(max_comments)
    # A decoded NUL is always an escape in the document, so one search of the bytes checks every text.
    build = build_comment if b"\\u0000" in body else take
    return _gather(request.post_id, source, request.comments, build)


def parse_one_by_one(body: bytes, *, max_comments: int) -> Parsed:
    """The slow path: a fault in one comment, such as a lone surrogate or deep nesting, rejects only that comment.

    Memory is that of the accepted comments, whatever else the body contains. Time grows with the number of brackets, up
    to a limit.

    Raises:
        NotJson, InvalidRequest, TooLarge: as `parse_request`.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        _any.decode(body)
        checked = True
    except RecursionError:
        checked = False
    except msgspec.DecodeError as error:
        # The decoder rejects lone surrogates, which JSON's grammar allows: `_Parts` checks each part.
        if not may_hold_lone_surrogates(body):
            raise NotJson(f"{_in_json(error)}.") from None
        checked = False
    try:
        parts = _Parts(body, checked=checked, max_comments=max_comments)
        return _gather(parts.head.post_id, parts.source, parts.comments(), build_comment)
    except StructureError as error:
        raise NotJson(f"{error}.") from None
    except IntricateError:
        raise TooLarge(
            f"The request has a fault, and it has more than {MOST_RUNS // 2} arrays and objects, too many to "
            "search for the fault; send fewer comments at once."
        ) from None


class _Parts:
    """A body split into its parts. `checked`: the whole body is known to be valid JSON.

    Raises:
        NotJson, InvalidRequest, TooLarge, StructureError, IntricateError: when the fault is found.
    """

    def __init__(self, body: bytes, *, checked: bool, max_comments: int):
        self._body = body
        self._checked = checked
        self._comments: list[slice] = []
        reader = Reader(body)
        self.head = self._head(reader, max_comments) if reader.next_is(b"{") else _decode_head(body)
        reader.end()
        self.source = _check_names(self.head.post_id, self.head.source)

    def comments(self) -> Iterator[msgspec.Raw]:
        """Yields the comments in order, undecoded."""
        for span in self._comments:
            yield msgspec.Raw(self._part(span))

    def _head(self, reader: Reader, max_comments: int) -> Head:
        written: dict[str, bytes] = {}
        for number, key in enumerate(reader.members()):
            if number == MAX_MEMBERS:
                raise InvalidRequest(f"The body has more than {MAX_MEMBERS} members.")
            name = _key.decode(self._part(key))
            if name == "comments" and reader.next_is(b"["):
                # The last of several `comments` counts, but the earlier ones must be valid JSON too.
                for span in self._comments:
                    self._part(span)
                self._comments = list(_at_most(max_comments, reader.elements()))
                written[name] = b"[]"
                continue
            value = self._whole(reader.value())
            if name in Head.__struct_fields__:
                written[name] = value
        return _decode_head(
            b"{" + b",".join(b'"%b":%b' % (name.encode(), part) for name, part in written.items()) + b"}"
        )

    def _whole(self, span: slice) -> bytes:
        """Returns a part other than a comment; rejects it if it is nested too deeply to check that it is JSON."""
        part = self._part(span)
        try:
            _any.decode(part)
        except RecursionError:
            raise NotJson(f"Nested too deeply (byte {span.start}).") from None
        return part

    def _part(self, span: slice) -> bytes:
        """Returns a part as written, or with NUL in place of lone surrogates."""
        part = self._body[span]
        if self._checked:
            return part
        fault = _fault(part)
        if fault is None:
            return part
        mended = without_lone_surrogates(part)
        if mended != part and _fault(mended) is None:
            return mended
        if "byte" not in fault:
            raise NotJson(f"{fault} (byte {span.start}).")
        raise NotJson(f"{_BYTE.sub(lambda match: f'(byte {int(match[1]) + span.start})', fault)}.")


def _fault(part: bytes) -> str | None:
    """Returns why a part is not JSON, or None.

    In a part nested deeper than the decoder's limit, only the brackets are known to match.
    """
    try:
        _any.decode(part)
    except RecursionError:
        return None
    except msgspec.DecodeError as error:
        return _in_json(error)
    return None


def _in_json(error: msgspec.DecodeError) -> str:
    return str(error).replace("Input data was truncated", "JSON is malformed: it ends within a value")


def _decode_head(document: bytes) -> Head:
    try:
        return _head.decode(document)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{in_words(error, 'the body')}.") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotJson(f"{in_words(error)}.") from None


def _check_names(post_id: str, source: str) -> str:
    """Checks both names and returns the normalised source."""
    for name, value in (("post_id", post_id), ("source", source)):
        if fault := text_fault(value):
            raise InvalidRequest(f"`{name}` {fault}.")
    if not (source := normalise_source(source)):
        raise InvalidRequest("`source` is blank.")
    # Some letters become two characters in lower case.
    if len(source) > MAX_NAME:
        raise InvalidRequest(f"`source` is longer than {MAX_NAME} characters in lower case.")
    return source


def _at_most(most: int, items: Iterator[slice]) -> Iterator[slice]:
    for number, item in enumerate(items):
        if number == most:
            raise _too_many(most)
        yield item


def _too_many(most: int) -> TooLarge:
    return TooLarge(f"The request has more than {most} comments, the limit for one request.")


def _gather(post_id: str, source: str, items: Iterable[Item], build: Callable[[str, str, Item], Comment]) -> Parsed:
    comments: list[Comment] = []
    indexes: list[int] = []
    rejected: list[Rejection] = []
    for index, item in enumerate(items):
        try:
            comments.append(build(post_id, source, item))
            indexes.append(index)
        except BadCommentError as error:
            rejected.append(Rejection(index, id_of(item), str(error)))
    return Parsed(post_id, comments, indexes, rejected)
