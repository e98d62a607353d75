"""From a request's bytes to comments: every bad comment is named, the good rest goes on.

Two ways, tried in turn: one typed decode of the whole body (nearly always), then comment by comment.
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

# Members of the body beside the comments; a request has three.
MAX_MEMBERS: Final = 1000
Item = TypeVar("Item", IncomingComment, msgspec.Raw)
_BYTE: Final = re.compile(r"\(byte (\d+)\)")


class Request(msgspec.Struct, gc=False, kw_only=True):
    """A body whose comments all have the right shape."""

    post_id: Name
    source: Name = DEFAULT_SOURCE
    comments: list[IncomingComment]


class Head(msgspec.Struct, kw_only=True):
    """A body whose comments are yet to be looked at."""

    post_id: Name
    source: Name = DEFAULT_SOURCE
    comments: list[msgspec.Raw]


_fast = msgspec.json.Decoder(Request)
_head = msgspec.json.Decoder(Head)
_key = msgspec.json.Decoder(str)
# Looks at every byte and makes nothing of it.
_any = msgspec.json.Decoder(msgspec.Raw)


def parse_request(body: bytes, *, max_comments: int) -> Parsed:
    """Takes a request's body apart; one byte order mark before it, which some editors and shells write, is skipped.

    Raises:
        NotJson: it can't be read.
        InvalidRequest: it has not the shape of a request.
        TooLarge: more than `max_comments` comments.
    """
    return parse_at_once(body, max_comments=max_comments) or parse_one_by_one(body, max_comments=max_comments)


def parse_at_once(body: bytes, *, max_comments: int) -> Parsed | None:
    """The quick way, for a body without a fault in its shape; None: another way has to find what is wrong.

    Raises:
        NotJson, InvalidRequest, TooLarge: as `parse_request`.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        body.decode()
        # No comment without a brace: where there are more, they are counted before any of them is made.
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
    # A decoded NUL is an escape in the document, so that one look at the bytes is a look at every text.
    build = build_comment if b"\\u0000" in body else take
    return _gather(request.post_id, source, request.comments, build)


def parse_one_by_one(body: bytes, *, max_comments: int) -> Parsed:
    """The careful way: what is wrong with one comment is its own affair, a lone surrogate and deep nesting too.

    Memory is that of the comments taken, whatever the body holds; time grows with its brackets, up to a bound.

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
        # The decoder takes no lone surrogate, against which JSON's grammar has nothing: the parts will tell.
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
            f"The request is wrong somewhere, and it has more than {MOST_RUNS // 2} arrays and objects, too many to "
            "look for the place; send fewer comments at once."
        ) from None


class _Parts:
    """A body by its parts; `checked`: that all of it is JSON is known already.

    Raises:
        NotJson, InvalidRequest, TooLarge, StructureError, IntricateError: as it is found.
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
        """Each comment, one after the other."""
        for span in self._comments:
            yield msgspec.Raw(self._part(span))

    def _head(self, reader: Reader, max_comments: int) -> Head:
        written: dict[str, bytes] = {}
        for number, key in enumerate(reader.members()):
            if number == MAX_MEMBERS:
                raise InvalidRequest(f"The body has more than {MAX_MEMBERS} members.")
            name = _key.decode(self._part(key))
            if name == "comments" and reader.next_is(b"["):
                # Of one name twice the last one counts; the first has to be JSON all the same.
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
        """A part that is no comment: of one that can't be looked through nobody knows whether it is JSON."""
        part = self._part(span)
        try:
            _any.decode(part)
        except RecursionError:
            raise NotJson(f"Nested too deeply (byte {span.start}).") from None
        return part

    def _part(self, span: slice) -> bytes:
        """As it was written, or with NUL for lone surrogates."""
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
        raise NotJson(f"{_BYTE.sub(lambda at: f'(byte {int(at[1]) + span.start})', fault)}.")


def _fault(part: bytes) -> str | None:
    """What is wrong with it as JSON; of what is nested deeper than the decoder goes, only that its brackets match."""
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
    """Returns the source in its one spelling."""
    for name, value in (("post_id", post_id), ("source", source)):
        if fault := text_fault(value):
            raise InvalidRequest(f"`{name}` {fault}.")
    if not (source := normalise_source(source)):
        raise InvalidRequest("`source` is blank.")
    # Some letters are two in lower case.
    if len(source) > MAX_NAME:
        raise InvalidRequest(f"`source` is longer than {MAX_NAME} characters in lower case.")
    return source


def _at_most(most: int, items: Iterator[slice]) -> Iterator[slice]:
    for number, item in enumerate(items):
        if number == most:
            raise _too_many(most)
        yield item


def _too_many(most: int) -> TooLarge:
    return TooLarge(f"The request holds more than {most} comments, the most that go into one.")


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
