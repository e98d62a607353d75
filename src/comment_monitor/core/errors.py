"""Every error that a caller from outside can get, declared once and named by what the caller should do about it.

The slug is the `type` of the problem document (RFC 9457), the `reason` label of the error metric and the name of the
problem in the log.
"""

import copy
from typing import ClassVar, Self


class CommentMonitorError(Exception):
    """The base class of all errors of this program."""


class ConfigurationError(CommentMonitorError):
    """A setting is wrong. The message is one line with the variable, its value and its bounds."""


class NotStorableError(CommentMonitorError):
    """PostgreSQL can't store this comment; sending it again would not help."""


class Problem(CommentMonitorError):
    """An error with its own HTTP response.

    Args:
        detail: one sentence for the caller: the cause and what to do about it.
        retry_after: seconds after which a repeat makes sense; sent as `Retry-After`.
        extra: further members of the problem document, JSON values.
        headers: further headers of the response.
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
        """Returns a copy for another caller: an instance that is raised twice accumulates both tracebacks."""
        return copy.copy(self)


class NotJson(Problem):
    """The body can't be parsed at all."""

    slug, status, title = "not-json", 400, "The body is not JSON"


class Incomplete(Problem):
    """The client disconnected before its request was complete, so no client reads this response."""

    slug, status, title = "incomplete", 400, "The request ended early"


class BadRequest(Problem):
    """A query parameter or a cursor can't be parsed."""

    slug, status, title = "bad-request", 400, "A parameter is not valid"


class InvalidRequest(Problem):
    """The body is JSON, but does not have the required structure."""

    slug, status, title = "invalid-request", 422, "The request has not the right shape"


class NothingAccepted(Problem):
    """Every comment of the request was rejected; `rejected` lists them."""

    slug, status, title = "all-rejected", 422, "Every comment was rejected"


class TooLarge(Problem):
    """More bytes or more comments than one request may hold."""

    slug, status, title = "too-large", 413, "The request is too large"


class UnsupportedEncoding(Problem):
    """The body's content encoding is not supported; `Accept-Encoding` lists the supported ones."""

    slug, status, title = "unsupported-encoding", 415, "The body is packed in a way that is not taken"


class BodyTooSlow(Problem):
    """The body did not arrive in time; the same request is safe to repeat."""

    slug, status, title = "body-too-slow", 408, "The body came too slowly"


class RateLimited(Problem):
    """This client has used up its requests for this minute."""

    slug, status, title = "rate-limited", 429, "Too many requests"
    default_retry_after = 60


class NotFound(Problem):
    """The requested resource does not exist."""

    slug, status, title = "not-found", 404, "Not found"


class Unavailable(Problem):
    """The service can't do it now; the same request is safe to repeat after `Retry-After`."""

    slug, status, title = "unavailable", 503, "Not available at the moment"
    default_retry_after = 5


class QueueFull(Unavailable):
    """The queue of this process is full."""

    slug, title = "queue-full", "The processing queue is full"
    default_retry_after = 1


class Overloaded(Unavailable):
    """This process has reached its limit of request bytes in flight, or of connections."""

    slug, title = "overloaded", "This process is at its limit"
    default_retry_after = 1


class Timeout(Unavailable):
    """The request's comments were not all committed within COMMENT_PROCESSING_TIMEOUT."""

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
    """This process is shutting down; another process will take the request."""

    slug, title = "draining", "This process is shutting down"
    default_retry_after = 1


class TooManyReads(Problem):
    """This client has reached its limit of concurrent reads."""

    slug, status, title = "too-many-reads", 429, "Too many reads at a time"
    default_retry_after = 1


class ReadsBusy(Unavailable):
    """Every connection for reading is in use, and none became available in time."""

    slug, title = "reads-busy", "Too many reads are under way"
    default_retry_after = 1


class QueryTooSlow(Unavailable):
    """A reading query exceeded its time limit; a narrower query may not."""

    slug, title = "query-too-slow", "The query took too long"
