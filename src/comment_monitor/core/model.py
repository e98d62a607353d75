"""The values that flow through the pipeline. All are frozen. A comment keeps its text character for character."""

from datetime import datetime
from typing import Annotated, Final, NamedTuple

import msgspec

MAX_ID: Final = 200
MAX_AUTHOR: Final = 200
MAX_TEXT: Final = 10_000
MAX_NAME: Final = 200
MAX_URL: Final = 2000
# Bounded, because a page of comments with all their metadata has to fit into memory.
MAX_METADATA: Final = 65_536

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]


def normalise_source(name: str) -> str:
    """Returns the canonical spelling of a platform's name: lower case, without surrounding blanks."""
    return name.strip().lower()


def spellings(source: str) -> list[str]:
    """Returns the source as the caller spells it and, where that differs, in its canonical spelling."""
    return list(dict.fromkeys((source, normalise_source(source))))


class Comment(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A comment that passed every check. A field is None where the sender did not give it."""

    source: str
    post_id: str
    id: str
    text: str
    author: str | None
    timestamp: datetime | None = None  # aware, in UTC
    parent_id: str | None = None
    metadata: str | None = None  # JSON object, exactly as received
    author_id: str | None = None
    edited_at: datetime | None = None  # aware, in UTC
    url: str | None = None
    likes: int | None = None
    removed: bool = False  # the text is a platform's notice that the comment was removed

    @property
    def key(self) -> tuple[str, str]:
        """The identity of the comment in the whole system."""
        return (self.source, self.id)

    @property
    def details(self) -> tuple[str | None, datetime | None, str | None, int | None]:
        """The optional fields that few senders give; all are None for nearly every comment."""
        return (self.author_id, self.edited_at, self.url, self.likes)

    @property
    def content(self) -> tuple[object, ...]:
        """The fields that a repeat of this comment is compared by."""
        return (self.post_id, self.author, self.text, *self.details)


NO_DETAILS: Final = (None, None, None, None)


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """Why the comment at this index of the request was rejected."""

    index: int
    id: str | None
    reason: str


class Parsed(msgspec.Struct, frozen=True):
    """A parsed request: valid comments and rejections. `indexes[i]` is the position of `comments[i]` in the request."""

    post_id: str
    comments: list[Comment]
    indexes: list[int]
    rejected: list[Rejection]


class Outcome(NamedTuple):
    """The outcome of one comment; `status`: stored | updated | duplicate | rejected."""

    status: str
    reason: str = ""


STORED: Final = Outcome("stored")
UPDATED: Final = Outcome("updated")
DUPLICATE: Final = Outcome("duplicate")
# Beginning of the reason of a comment that is rejected as a conflict.
CONFLICT: Final = "id {} belongs to another comment"


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The response of `POST /comments/process`.

    received = stored + updated + duplicates + len(rejected), and queued = stored + updated.
    """

    post_id: str
    received: int
    stored: int
    updated: int
    duplicates: int
    queued: int
    rejected: list[Rejection]


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the analysis of one text."""

    language: str  # ISO 639-1; "und": not determined
    language_confidence: float | None  # 0 to 1
    sentiment: str | None  # positive, neutral, negative; None: not supported for this language
    sentiment_score: float | None  # -1 to 1
    labels: tuple[str, ...]  # sorted
    text_digest: int | None  # signed 64 bits of the normalised text; None: too short to count as a repetition


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a text could not be analysed: "<finding>: <error>: <message>"."""

    reason: str
