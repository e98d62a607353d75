"""Parses answers: the counts of a 200, which are checked, or the name of the failure."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

# The statuses after which a repeat makes sense; NO_ANSWER means a broken connection.
NO_ANSWER: Final = 0
RETRIED: Final = (NO_ANSWER, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

WRONG_COUNTS: Final = "200 whose counts do not add up"
UNREADABLE: Final = "200 that can't be read"


class Reply(NamedTuple):
    """An answer. If none came, the status is NO_ANSWER and `failure` says why. `retry_after` is in seconds."""

    status: int
    body: bytes = b""
    retry_after: float = 0.0
    failure: str = ""

    @property
    def may_be_stored(self) -> bool:
        """Whether the comments may be stored: after a timeout of the service or a broken connection, but not a 429."""
        return self.status != HTTPStatus.TOO_MANY_REQUESTS


class Counts(msgspec.Struct, frozen=True):
    """The counts that the body of a 200 must hold."""

    received: int
    stored: int
    updated: int
    duplicates: int
    queued: int
    rejected: list[msgspec.Raw]

    def fault(self, sent: int) -> str:
        """Checks the two sums of the contract for `sent` comments; returns an empty text if they hold."""
        parts = self.stored + self.updated + self.duplicates + len(self.rejected)
        right = self.received == sent == parts and self.queued == self.stored + self.updated
        return "" if right else WRONG_COUNTS


class _Problem(msgspec.Struct):
    type: str = ""
    title: str = ""


_counts = msgspec.json.Decoder(Counts)
_problem = msgspec.json.Decoder(_Problem)


def read_counts(body: bytes) -> Counts | None:
    """Returns the counts of a 200; None if the body holds none."""
    try:
        return _counts.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def name_of(reply: Reply) -> str:
    """Returns the name of a failure: status and type of problem, such as `503 queue-full`."""
    if reply.status == NO_ANSWER:
        return reply.failure
    if reply.status == HTTPStatus.OK:
        return UNREADABLE
    try:
        problem = _problem.decode(reply.body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return str(reply.status)
    kind = problem.type if problem.type != "about:blank" else ""
    return f"{reply.status} {kind.rpartition(':')[2] or problem.title}".strip()


def retry_after(headers: Mapping[str, str]) -> float:
    """Returns the seconds of `Retry-After`; 0.0 if the header is absent or holds a date."""
    try:
        return max(float(headers.get("Retry-After", "0")), 0.0)
    except ValueError:
        return 0.0
