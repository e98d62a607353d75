"""Every error an outside caller can meet, declared once: named by what the caller should do about it.

The slug is at once the `type` of the problem document, the `reason` label of the error metric and the word in
the log. RFC 9457 gives the document its shape.
"""

import copy
from typing import ClassVar, Self


class CommentMonitorError(Exception):
    """What every error of this program derives from."""


class ConfigurationError(CommentMonitorError):
    """A setting is wrong. The message is one line that names the variable, its value and its bounds."""


class NotStorableError(CommentMonitorError):
    """PostgreSQL refuses this very comment; sending it again would not help."""


class Problem(CommentMonitorError):
    """An error with an HTTP answer of its own.

    Args:
        detail: one sentence for the caller: what was wrong here and what to do.
        retry_after: seconds after which a repeat makes sense; sent as `Retry-After`.
        extra: further members of the problem document, JSON values.
        headers: further headers of the answer.
    """

    slug: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    default_retry_after: ClassVar[int | None] = None

    def __init__(
        self,
        detail: str,
        *,
        retry_after: int | None = None,
        extra: dict[str, object] | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}
        self.retry_after = self.default_retry_after if retry_after is None else retry_after
        self.extra = extra or {}

    def again(self) -> Self:
        """The same problem for another caller: an instance that is raised twice keeps the tracebacks of both."""
        return copy.copy(self)


class NotJson(Problem):
    """The body can't be read at all."""

    slug, status, title = "not-json", 400, "The body is not JSON"


class Incomplete(Problem):
    """The client hung up before its request was complete; nobody is there to read this."""

    slug, status, title = "incomplete", 400, "The request ended early"


class BadRequest(Problem):
    """A query parameter or a cursor can't be read."""

    slug, status, title = "bad-request", 400, "A parameter is not valid"


class InvalidRequest(Problem):
    """JSON, but not the shape that was asked for."""

    slug, status, title = "invalid-request", 422, "The request has not the right shape"


class NothingAccepted(Problem):
    """Every comment of the request was rejected; `rejected` names each."""

    slug, status, title = "all-rejected", 422, "Every comment was rejected"


class TooLarge(Problem):
    """More bytes or more comments than one request may hold."""

    slug, status, title = "too-large", 413, "The request is too large"


class UnsupportedEncoding(Problem):
    """The body is packed in a way that is not taken; `Accept-Encoding` says what is."""

    slug, status, title = "unsupported-encoding", 415, "The body is packed in a way that is not taken"


class BodyTooSlow(Problem):
    """The body did not come in time; the same request is safe to repeat."""

    slug, status, title = "body-too-slow", 408, "The body came too slowly"


class RateLimited(Problem):
    """This client has used up its requests for this minute."""

    slug, status, title = "rate-limited", 429, "Too many requests"
    default_retry_after = 60


class NotFound(Problem):
    """There is no such thing here."""

    slug, status, title = "not-found", 404, "Not found"


class Unavailable(Problem):
    """Not now; the same request is safe to repeat after `Retry-After`."""

    slug, status, title = "unavailable", 503, "Not available at the moment"
    default_retry_after = 5


class QueueFull(Unavailable):
    """This process has as many comments waiting as it may hold."""

    slug, title = "queue-full", "The processing queue is full"
    default_retry_after = 1


class Overloaded(Unavailable):
    """This process holds as many bytes of requests, or as many connections, as it may."""

    slug, title = "overloaded", "This process holds as much as it may"
    default_retry_after = 1


class Timeout(Unavailable):
    """The batch was not committed within COMMENT_PROCESSING_TIMEOUT."""

    slug, title = "timeout", "Processing took too long"


class DatabaseUnavailable(Unavailable):
    """PostgreSQL does not answer."""

    slug, title = "database-unavailable", "The database is not available"


class SchemaBehind(Unavailable):
    """The database is older than the oldest revision this code works on: migrations have yet to run."""

    slug, title = "schema-behind", "The database is not migrated yet"


class Disabled(Unavailable):
    """COMMENT_MONITORING_ENABLED is false."""

    slug, title = "disabled", "Comment monitoring is switched off"
    default_retry_after = 60


class Draining(Unavailable):
    """This process is shutting down; another one will take the request."""

    slug, title = "draining", "This process is shutting down"
    default_retry_after = 1


class TooManyReads(Problem):
    """This client has as many reads under way as it may."""

    slug, status, title = "too-many-reads", 429, "Too many reads at a time"
    default_retry_after = 1


class ReadsBusy(Unavailable):
    """Every connection for reading is taken, and was for too long."""

    slug, title = "reads-busy", "Too many reads are under way"
    default_retry_after = 1


class QueryTooSlow(Unavailable):
    """A reading query ran into its time limit; a narrower one will not."""

    slug, title = "query-too-slow", "The query took too long"
