"""Decodes one comment from JSON: unchanged, or rejected with a reason that its sender understands."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec

from comment_monitor.core.model import (
    MAX_AUTHOR,
    MAX_ID,
    MAX_METADATA,
    MAX_NAME,
    MAX_TEXT,
    MAX_URL,
    Comment,
    normalise_source,
)
from comment_monitor.core.removed import is_removed
from comment_monitor.intake.json_scanner import IntricateError, Reader, StructureError

DEFAULT_SOURCE: Final = "threads"

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID)]
Author = Annotated[str, msgspec.Meta(max_length=MAX_AUTHOR)]
Url = Annotated[str, msgspec.Meta(max_length=MAX_URL)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


FIRST_MOMENT: Final = datetime.min.replace(tzinfo=UTC)
LAST_MOMENT: Final = datetime.max.replace(tzinfo=UTC)
FIRST_YEAR: Final = FIRST_MOMENT.year
LAST_YEAR: Final = LAST_MOMENT.year
# The range of PostgreSQL's bigint. Some platforms subtract dislikes from likes, so the number may be negative.
MIN_LIKES: Final = -(2**63)
MAX_LIKES: Final = 2**63 - 1
UNSTORABLE: Final = "holds a NUL character or a lone surrogate"

# Matches up to the next lone surrogate (its digits are the group) or the end; skips each escape before it as a whole.
LONE_SURROGATE: Final = re.compile(
    rb"(?:[^\\]++|\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?!u[dD][89a-fA-F][0-9a-fA-F]{2}).))*+"
    rb"(?:\\u([dD][89a-fA-F][0-9a-fA-F]{2})|\\?\Z)",
    re.DOTALL,
)
SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")

# msgspec does not allow Raw in a union: an empty Raw means that the field is absent.
ABSENT: Final = msgspec.Raw()


class IncomingComment(msgspec.Struct, gc=False, kw_only=True):
    """A comment as a request may contain it."""

    id: Id
    text: Text
    author: Author | None = None
    timestamp: Moment | None = None
    parent_id: Id | None = None
    metadata: msgspec.Raw = ABSENT
    author_id: Author | None = None
    edited_at: Moment | None = None
    url: Url | None = None
    likes: int | None = None


class LooseComment(msgspec.Struct, gc=False, kw_only=True):
    """An IncomingComment whose times and `parent_id` may be blank."""

    id: Id
    text: Text
    author: Author | None = None
    timestamp: str | None = None
    parent_id: str | None = None
    metadata: msgspec.Raw = ABSENT
    author_id: Author | None = None
    edited_at: str | None = None
    url: Url | None = None
    likes: int | None = None


class BadCommentError(Exception):
    """A comment is rejected; the message is the reason, for the sender."""


def may_hold_lone_surrogates(document: bytes) -> bool:
    """Returns whether the document contains an escaped surrogate, lone or in a pair."""
    return SURROGATE.search(document) is not None


def without_lone_surrogates(document: bytes) -> bytes:
    """Returns the JSON with NUL in place of lone surrogates.

    Neither can be stored, but the decoder accepts NUL, so the field at fault can be named.
    """
    if not may_hold_lone_surrogates(document):
        return document
    mended = bytearray(document)
    for found in LONE_SURROGATE.finditer(document):
        if found[1]:
            mended[found.start(1) : found.end(1)] = b"0000"
    return bytes(mended)


def check_name(name: str, value: str | None) -> str:
    """Returns the `post_id` or `source` that one comment carries, the source normalised.

    Raises:
        BadCommentError: the value is missing, too long or can't be stored.
    """
    if value and name == "source":
        value = normalise_source(value)
    if not value:
        raise BadCommentError(f"`{name}` is missing")
    if len(value) > MAX_NAME:
        raise BadCommentError(f"`{name}` is longer than {MAX_NAME} characters")
    # The value may come from a command line or a CSV file, which the JSON decoder has not checked.
    if text_fault(value) or not _is_utf8(value):
        raise BadCommentError(f"`{name}` {UNSTORABLE}")
    return value


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def build_comment(post_id: str, source: str, item: IncomingComment | msgspec.Raw) -> Comment:
    """Builds a comment from its decoded form or from raw JSON.

    Raises:
        BadCommentError: the comment is rejected; the message is the reason.
    """
    incoming = item if isinstance(item, IncomingComment) else _loose(item)
    _check_storable(incoming)
    return take(post_id, source, incoming)


def take(post_id: str, source: str, incoming: IncomingComment) -> Comment:
    """Builds a comment from a decoded one. The caller must ensure that it contains no NUL.

    Raises:
        BadCommentError: the comment is rejected; the message is the reason.
    """
    text = incoming.text
    if text.isspace():
        raise BadCommentError("`text` is blank")
    metadata = incoming.metadata
    author_id, edited_at, url, likes = incoming.author_id, incoming.edited_at, incoming.url, incoming.likes
    if likes is not None and not MIN_LIKES <= likes <= MAX_LIKES:
        raise BadCommentError("`likes` is too large a number")
    return Comment(
        source=source,
        post_id=post_id,
        id=incoming.id,
        text=text,
        author=_author(source, incoming.author),
        timestamp=_utc("timestamp", incoming.timestamp),
        parent_id=incoming.parent_id or None,
        metadata=None if metadata is ABSENT else _metadata(metadata),
        author_id=_known(author_id) if author_id else None,
        edited_at=_utc("edited_at", edited_at) if edited_at else None,
        url=_known(url) if url else None,
        likes=likes,
        removed=is_removed(source, text),
    )


def _known(value: str | None) -> str | None:
    """Returns None for a blank value: platforms send an empty name when they withhold it."""
    return value if value and not value.isspace() else None


def _author(source: str, name: str | None) -> str | None:
    """Returns None for a blank name, and for a removal notice in its place, such as "[deleted]"."""
    return name if name and not name.isspace() and not is_removed(source, name) else None


def _check_storable(incoming: IncomingComment) -> None:
    for name in ("id", "author", "text", "parent_id", "author_id", "url"):
        if fault := text_fault(getattr(incoming, name) or ""):
            raise BadCommentError(f"`{name}` {fault}")


def _loose(item: msgspec.Raw) -> IncomingComment:
    try:
        loose = msgspec.json.decode(item, type=LooseComment)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadCommentError(in_words(error)) from None
    if loose.parent_id and len(loose.parent_id) > MAX_ID:
        raise BadCommentError(f"`parent_id` is longer than {MAX_ID} characters")
    return IncomingComment(
        id=loose.id,
        text=loose.text,
        author=loose.author,
        timestamp=read_moment("timestamp", loose.timestamp),
        parent_id=loose.parent_id,
        metadata=loose.metadata,
        author_id=loose.author_id,
        edited_at=read_moment("edited_at", loose.edited_at),
        url=loose.url,
        likes=loose.likes,
    )


def read_moment(name: str, text: str | None) -> datetime | None:
    """Parses a time in RFC 3339 with an offset; returns None if it is blank.

    Raises:
        BadCommentError: the text has another format. The reason names the field and the missing part.
    """
    text = text.strip() if text else ""
    if not text:
        return None
    try:
        return msgspec.convert(text, Moment)
    except msgspec.ValidationError as error:
        raise BadCommentError(_not_a_moment(name, str(error))) from None


def _not_a_moment(name: str, error: str) -> str:
    if "timezone" in error:
        return f"`{name}` has no offset from UTC; RFC 3339 has one, such as 2026-01-31T09:30:00Z or ...T10:30:00+01:00"
    return f"`{name}` must be RFC 3339, such as 2026-01-31T09:30:00Z"


# The decoder's messages, and the wording for the sender.
WORDS: Final = (
    (re.compile(r"missing required field `(?P<at>\w+)`"), "{at} is missing"),
    (re.compile(r"of length >= 1(?: - at `(?P<at>\w+)`)?$"), "{at} is empty"),
    (re.compile(r"of length <= (?P<most>\d+)(?: - at `(?P<at>\w+)`)?$"), "{at} is longer than {most} characters"),
    (
        re.compile(r"Expected `(?P<want>[\w |]+)`, got `(?P<got>\w+)`(?: - at `(?P<at>\w+)`)?$"),
        "{at} must be {want}, not {got}",
    ),
)
TYPES: Final = {
    "str": "a string", "int": "a number", "float": "a number", "bool": "true or false", "null": "null",
    "array": "an array", "object": "an object",
}  # fmt: skip


def in_words(error: Exception, whole: str = "the comment") -> str:
    """Rewords the decoder's error for the sender; `whole` names the decoded value, for faults that lie in no field."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = str(error).replace("$.", "").replace(" - at `$`", "")
    if "RFC3339" in text or "timezone" in text:
        return _not_a_moment("edited_at" if "edited_at" in text else "timestamp", text)
    for pattern, words in WORDS:
        if found := pattern.search(text):
            parts = found.groupdict()
            field = parts.pop("at")
            at = f"`{field}`" if field else whole
            return words.format(
                at=at, **{name: _type_names(value, wanted=name == "want") for name, value in parts.items()}
            )
    return text


def _type_names(value: str, *, wanted: bool) -> str:
    if not wanted and value == "float":
        return "a number with a fraction"
    names = " or ".join(TYPES.get(name, name) for name in value.split(" | "))
    return names.replace("a number", "a whole number") if wanted else names


def text_fault(value: str) -> str | None:
    """Returns a fault if the text contains NUL, which also replaces lone surrogates of the document."""
    return UNSTORABLE if "\0" in value else None


def _utc(name: str, moment: datetime | None) -> datetime | None:
    if moment is None or (moment.tzinfo is UTC and FIRST_YEAR < moment.year < LAST_YEAR):
        return moment
    try:
        result = moment.astimezone(UTC)
    except OverflowError:
        result = FIRST_MOMENT
    # The driver treats the first and the last moment as infinity.
    if result in {FIRST_MOMENT, LAST_MOMENT}:
        raise BadCommentError(f"`{name}` lies at or beyond the ends of the years 1 to 9999 (in UTC)")
    return result


def _metadata(raw: msgspec.Raw) -> str | None:
    text = bytes(raw).decode()
    if text in ("", "null"):
        return None
    if not text.startswith("{"):
        raise BadCommentError("`metadata` must be an object")
    if len(text) > MAX_METADATA:
        raise BadCommentError(f"`metadata` is longer than {MAX_METADATA} characters")
    # Two backslashes are an escaped backslash; each remaining one begins an escape.
    if "\\u0000" in text and "\\u0000" in text.replace("\\\\", ""):
        raise BadCommentError(f"`metadata` {UNSTORABLE}")
    return text


def id_of(item: IncomingComment | msgspec.Raw) -> str | None:
    """Returns the id for the report of a rejected comment, cut to a readable length; None if it has none."""
    found = item.id if isinstance(item, IncomingComment) else _raw_id(bytes(item))
    if found is None:
        return None
    return found[:MAX_NAME].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _raw_id(item: bytes) -> str | None:
    """Finds the id by structure alone: the comment may be too deeply nested or too malformed to decode."""
    reader = Reader(item)
    found = b"null"
    try:
        for key in reader.members():
            value = reader.value()
            # The key may contain escapes; the last of several ids counts.
            if item[key] == b'"id"' or (b"\\" in item[key] and msgspec.json.decode(item[key]) == "id"):
                found = item[value]
        return msgspec.json.decode(without_lone_surrogates(found), type=str | None)
    except (StructureError, IntricateError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
