"""The values that flow through the pipeline. All frozen; a comment is what came, character for character."""

from datetime import datetime
from typing import Annotated, Final, NamedTuple

import msgspec

MAX_ID: Final = 200
MAX_AUTHOR: Final = 200
MAX_TEXT: Final = 10_000
MAX_NAME: Final = 200
MAX_URL: Final = 2000
# A page of comments has to fit into memory, whatever was sent with them.
MAX_METADATA: Final = 65_536

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]


def normalise_source(name: str) -> str:
    """The one spelling of a platform's name: lower case, without blanks around it."""
    return name.strip().lower()


def spellings(source: str) -> list[str]:
    """The source as it is asked for, and in its one spelling."""
    return list(dict.fromkeys((source, normalise_source(source))))


class Comment(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One comment that passed every check. None: the sender did not say."""

    source: str
    post_id: str
    id: str
    text: str
    author: str | None
    timestamp: datetime | None = None  # aware, in UTC
    parent_id: str | None = None
    metadata: str | None = None  # JSON object, as it came
    author_id: str | None = None
    edited_at: datetime | None = None  # aware, in UTC
    url: str | None = None
    likes: int | None = None
    removed: bool = False  # the text is a platform's notice that the comment is gone

    @property
    def key(self) -> tuple[str, str]:
        """A comment's identity in the whole system."""
        return (self.source, self.id)

    @property
    def details(self) -> tuple[str | None, datetime | None, str | None, int | None]:
        """The fields that few senders give; all None for nearly every comment."""
        return (self.author_id, self.edited_at, self.url, self.likes)

    @property
    def content(self) -> tuple[object, ...]:
        """All that a repeat of this comment is compared by."""
        return (self.post_id, self.author, self.text, *self.details)


NO_DETAILS: Final = (None, None, None, None)


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """Why the comment at this index of the request was not taken."""

    index: int
    id: str | None
    reason: str


class Parsed(msgspec.Struct, frozen=True):
    """A parsed request: what can be stored and what can't. `indexes[i]`: the place of `comments[i]` in the request."""

    post_id: str
    comments: list[Comment]
    indexes: list[int]
    rejected: list[Rejection]


class Outcome(NamedTuple):
    """What became of one comment; `status`: stored | updated | duplicate | rejected."""

    status: str
    reason: str = ""


STORED: Final = Outcome("stored")
UPDATED: Final = Outcome("updated")
DUPLICATE: Final = Outcome("duplicate")
# How the reason begins where a comment is rejected as a conflict.
CONFLICT: Final = "id {} belongs to another comment"


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST /comments/process`.

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
    """What was found in one text."""

    language: str  # ISO 639-1, or "und": can't be told
    language_confidence: float | None  # 0 to 1
    sentiment: str | None  # positive, neutral, negative; None: not said of this language
    sentiment_score: float | None  # -1 to 1
    labels: tuple[str, ...]  # sorted
    text_digest: int | None  # signed 64 bits of the normalised text; None: too short to count as a repetition


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a text could not be analysed: "<finding>: <error>: <message>"."""

    reason: str
