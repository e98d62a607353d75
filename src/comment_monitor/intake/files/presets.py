"""Maps comments of other tools: which of their members is which of our fields, and how its value is converted."""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from comment_monitor.core.model import MAX_NAME
from comment_monitor.intake.comment_decoder import BadCommentError, in_words, without_lone_surrogates

FIELDS: Final = (
    "source", "post_id", "id", "text", "author", "timestamp", "parent_id", "metadata",
    "author_id", "edited_at", "url", "likes",
)  # fmt: skip
Members = Mapping[str, msgspec.Raw]
Convert = Callable[[Any], Any]
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# The size of a number distinguishes seconds, milliseconds and microseconds since 1970. A number outside the years 1973
# to 2128 in all three units is not a time: it may be a year, a day number of a spreadsheet, or 20260131.
_UNITS: Final = (1, 1_000, 1_000_000)
_FIRST_SECOND: Final = 10**8
_LAST_SECOND: Final = 5 * 10**9
_HUGE: Final = 10**200
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?")
_OFFSET: Final = re.compile(r"(?:[zZ]|[+-][0-9]{2}:?[0-9]{2})\Z")
_COUNT: Final = re.compile(r"([+-]?[0-9]{1,18})((?:[., '\u00a0\u202f\u2019][0-9]{1,18}){0,6})\s?([^\W\d_]{0,5})\.?")
_THOUSANDS: Final = re.compile(r"(?:[., '\u00a0\u202f\u2019][0-9]{3})*")
_FACTORS: Final = {
    "": 1,
    **dict.fromkeys(("k", "tsd", "tys", "тыс", "mil", "千", "천"), 1_000),
    **dict.fromkeys(("万", "萬", "만"), 10_000),
    **dict.fromkeys(("m", "mio", "mln", "млн", "mn"), 1_000_000),
    **dict.fromkeys(("亿", "億", "억"), 100_000_000),
    **dict.fromkeys(("b", "bn", "mrd"), 1_000_000_000),
}


def as_text(value: Any) -> str | None:
    """Converts an id or a name, which some tools send as a number, to text."""
    if value is None or isinstance(value, str):
        return value
    # Python does not convert integers of more than 4,300 digits to text.
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _HUGE:
        return str(value)
    raise BadCommentError("must be a string or a whole number")


def as_it_is(value: Any) -> Any:
    """Returns the value unchanged."""
    return value


def moment(value: Any) -> str | None:
    """Converts seconds, milliseconds or microseconds since 1970 to RFC 3339; `read_moment` checks any other text."""
    if value is None or value is False:
        return None
    if isinstance(value, str):
        if value.strip().lower() in {"", "false"}:
            return None
        if not _NUMBER.fullmatch(value.strip()):
            return value
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadCommentError("must be a time: RFC 3339, or seconds since 1970")
    return _since_1970(value)


def _since_1970(value: float) -> str | None:
    """Converts a number since 1970 to RFC 3339; None for 0, which tools write if the time is unknown."""
    if value == 0:
        return None
    for unit in _UNITS:
        if _FIRST_SECOND * unit <= value < _LAST_SECOND * unit:
            return (_EPOCH + timedelta(seconds=value / unit)).isoformat()
    raise BadCommentError("is a number that is not a time in seconds since 1970")


def moment_in_utc(value: Any) -> str | None:
    """Converts a time like `moment`, but reads a text without an offset as UTC, which its tool always writes."""
    if isinstance(value, str) and value.strip() and not _OFFSET.search(value) and not _NUMBER.fullmatch(value):
        return f"{value.strip()}Z"
    return moment(value)


def count(value: Any) -> int | None:
    """Converts a number of likes, such as 12, "1,234" or "1.2K"."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _COUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    factor = _FACTORS.get(found[3].lower()) if found else None
    if not found or not factor:
        raise BadCommentError('must be a whole number, such as 1200 or "1.2K"')
    if factor == 1 and re.fullmatch(r"[.,]0{1,2}", found[2]):
        # A data frame has converted the whole number to a fraction.
        return int(found[1])
    if _THOUSANDS.fullmatch(found[2]) and (not found[2] or (factor == 1 and found[1].lstrip("+-0"))):
        return int(found[1] + re.sub(r"[^0-9]", "", found[2])) * factor
    if factor > 1 and re.fullmatch(r"[.,][0-9]{1,3}", found[2]):
        return round(float(f"{found[1]}.{found[2][1:]}") * factor)
    raise BadCommentError('must be a whole number, such as 1200 or "1.2K"')


def none_if(*unknown: Any) -> Convert:
    """Returns a converter for ids that maps the given placeholder values to None."""
    return lambda value: None if value in unknown and not isinstance(value, bool) else as_text(value)


def before_dot(value: Any) -> str | None:
    """Returns the id of the parent comment, which on YouTube is the part of a reply's id before the dot."""
    thread, dot, _ = (as_text(value) or "").partition(".")
    return thread if dot else None


def reddit_post(value: Any) -> str | None:
    """Returns a post's id without its type prefix."""
    return (as_text(value) or "").removeprefix("t3_") or None


def reddit_parent(value: Any) -> str | None:
    """Returns the id of the parent comment; None if the parent is the post."""
    name = as_text(value) or ""
    return None if name.startswith("t3_") else name.removeprefix("t1_") or None


def reddit_url(value: Any) -> str | None:
    """Returns the full address for a path on reddit.com."""
    path = as_text(value) or ""
    return f"https://www.reddit.com{path}" if path.startswith("/") else path or None


class Rule(NamedTuple):
    """How a field is read: from the first of these paths that has a value, with this conversion."""

    paths: tuple[str, ...]
    convert: Convert


# The conversions of fields that the user maps by name alone.
CONVERT: Final[Mapping[str, Convert]] = {
    **dict.fromkeys(("id", "parent_id", "post_id", "author_id", "author", "source"), as_text),
    **dict.fromkeys(("text", "url"), as_it_is),
    **dict.fromkeys(("timestamp", "edited_at"), moment),
    "likes": count,
}


class Preset(NamedTuple):
    """The format of a tool's comments. `container` is the member of a document that holds an array of them."""

    source: str
    rules: Mapping[str, Rule]
    # A line that has all members of one of these sets has this format.
    signs: tuple[frozenset[str], ...]
    container: str | None = None
    # Fields of every comment that are read from the enclosing document.
    around: Mapping[str, Rule] = {}
    # What `--post-id` must name if the lines do not contain it.
    post: str | None = None


PRESETS: Final[Mapping[str, Preset]] = {
    "youtube-comment-downloader": Preset(
        source="youtube",
        rules={
            "id": Rule(("cid",), as_text),
            "text": Rule(("text",), as_it_is),
            "author": Rule(("author",), as_text),
            "author_id": Rule(("channel",), as_text),
            "timestamp": Rule(("time_parsed",), moment),
            "parent_id": Rule(("cid",), before_dot),
            "likes": Rule(("votes",), count),
        },
        signs=(frozenset({"cid", "votes"}), frozenset({"cid", "time_parsed"}), frozenset({"cid", "text", "channel"})),
        container="comments",
        post="the video",
    ),
    "yt-dlp": Preset(
        source="youtube",
        rules={
            "id": Rule(("id",), as_text),
            "text": Rule(("text", "html"), as_it_is),
            "author": Rule(("author",), as_text),
            "author_id": Rule(("author_id",), as_text),
            "timestamp": Rule(("timestamp",), moment),
            "parent_id": Rule(("parent",), none_if("root", "", 0)),
            "likes": Rule(("like_count",), count),
        },
        signs=(
            frozenset({"comments", "extractor"}),
            frozenset({"comments", "webpage_url"}),
            frozenset({"id", "title", "formats"}),
            frozenset({"like_count", "parent"}),
            frozenset({"author_is_uploader", "parent"}),
        ),
        container="comments",
        around={"post_id": Rule(("id",), as_text), "source": Rule(("extractor_key",), as_text)},
    ),
    "pushshift": Preset(
        source="reddit",
        rules={
            "id": Rule(("id",), as_text),
            "post_id": Rule(("link_id",), reddit_post),
            "text": Rule(("body",), as_it_is),
            "author": Rule(("author",), none_if("[deleted]", "[removed]")),
            "author_id": Rule(("author_fullname",), as_text),
            "timestamp": Rule(("created_utc",), moment),
            "edited_at": Rule(("edited",), lambda value: None if isinstance(value, bool) else moment(value)),
            "parent_id": Rule(("parent_id",), reddit_parent),
            "url": Rule(("permalink",), reddit_url),
            "likes": Rule(("score",), count),
        },
        signs=(frozenset({"body", "link_id"}), frozenset({"body", "created_utc"})),
    ),
    "disqus": Preset(
        source="disqus",
        rules={
            "id": Rule(("id",), as_text),
            "post_id": Rule(("thread.id", "thread"), as_text),
            "text": Rule(("raw_message", "message"), as_it_is),
            "author": Rule(("author.name", "author.username"), as_text),
            "author_id": Rule(("author.id",), as_text),
            "timestamp": Rule(("createdAt",), moment_in_utc),
            "parent_id": Rule(("parent.id", "parent"), as_text),
            "url": Rule(("url",), as_it_is),
            "likes": Rule(("likes",), count),
        },
        signs=(
            frozenset({"raw_message"}),
            frozenset({"message", "createdAt"}),
            frozenset({"message", "thread"}),
            frozenset({"response", "code"}),
        ),
        container="response",
    ),
    "wordpress": Preset(
        source="wordpress",
        rules={
            "id": Rule(("id",), as_text),
            "post_id": Rule(("post",), as_text),
            "text": Rule(("content.raw", "content.rendered"), as_it_is),
            "author": Rule(("author_name",), as_text),
            "author_id": Rule(("author",), none_if(0, "0")),
            "timestamp": Rule(("date_gmt",), moment_in_utc),
            "parent_id": Rule(("parent",), none_if(0, "0")),
            "url": Rule(("link",), as_it_is),
        },
        signs=(frozenset({"author_name", "content"}), frozenset({"date_gmt", "content"})),
    ),
}


def preset_of(names: Iterable[str]) -> str | None:
    """Returns the name of the preset whose format has these members, or None."""
    given = frozenset(names)
    return next((name for name, preset in PRESETS.items() if any(sign <= given for sign in preset.signs)), None)


def hint_of(names: Iterable[str]) -> str:
    """Returns a hint at the preset for a comment with these members, to be appended to the reason for rejection."""
    name = preset_of(names)
    return f" (it looks like {name}: --preset {name} reads it)" if name else ""


class Mapper:
    """Maps members with other names to our fields: by a preset, overridden by the columns that the user named.

    Without a preset, every other field is read from the member of its own name.
    """

    def __init__(self, preset: str | None, columns: Mapping[str, str]):
        self.preset = PRESETS[preset] if preset else None
        self.rules = dict(self.preset.rules) if self.preset else {
            field: Rule((field,), CONVERT.get(field, as_it_is)) for field in FIELDS
        }  # fmt: skip
        for field, path in columns.items():
            self.rules[field] = Rule((path,), CONVERT.get(field, as_it_is))

    def fields(self, members: Members) -> dict[str, Any]:
        """Returns our fields from a comment's members, without absent ones.

        Raises:
            BadCommentError: a member has a type that is not accepted.
        """
        return _apply(self.rules, members)

    def id_of(self, members: Members) -> str | None:
        """Returns the id for the report of a rejected comment; None if it has none."""
        try:
            found = _apply({"id": self.rules["id"]}, members).get("id")
        except BadCommentError:
            return None
        return found[:MAX_NAME].replace("\0", "\ufffd").encode("utf-8", "replace").decode() if found else None

    def around(self, members: Members) -> dict[str, Any]:
        """Returns the fields that a document gives for all its comments."""
        return _apply(self.preset.around, members) if self.preset else {}

    def for_cells(self, columns: Mapping[str, str]) -> dict[str, Rule]:
        """Returns the rules for a table's cells: without a preset, only `likes` and named columns are converted."""
        mapped = self.rules if self.preset else columns
        return {
            field: Rule(rule.paths, rule.convert if field in mapped or field == "likes" else as_it_is)
            for field, rule in self.rules.items()
        }


def _apply(rules: Mapping[str, Rule], members: Members) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, rule in rules.items():
        for path in rule.paths:
            raw = _at(members, path)
            if raw is None or bytes(raw) == b"null":
                continue
            if field == "metadata":
                found[field] = raw
                break
            if len(rule.paths) > 1 and bytes(raw).startswith((b"{", b"[")):
                continue
            value = _converted(field, rule, raw)
            if value is not None and (value != "" or field == "text"):
                found[field] = value
            break
    return found


def _converted(field: str, rule: Rule, raw: msgspec.Raw) -> Any:
    try:
        return rule.convert(_decode(raw))
    except BadCommentError as error:
        raise BadCommentError(f"`{field}` ({rule.paths[0]}) {error}") from None


def _decode(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        mended = without_lone_surrogates(bytes(raw))
        if mended == bytes(raw):
            raise BadCommentError(in_words(error)) from None
        return _decode(msgspec.Raw(mended))


def _at(members: Members, path: str) -> msgspec.Raw | None:
    """Returns a member by its name, which may contain dots, or by a path of names separated by dots."""
    if (raw := members.get(path)) is not None:
        return raw
    at = path.find(".")
    while at > 0:
        inner = members.get(path[:at])
        if inner is not None and bytes(inner).startswith(b"{"):
            try:
                return _at(_members.decode(inner), path[at + 1 :])
            except (msgspec.MsgspecError, RecursionError):
                return None
        at = path.find(".", at + 1)
    return None
