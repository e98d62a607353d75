"""Sends one comment through a running service: stored, found, a duplicate when sent again, analysed, removed."""

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Final, NamedTuple

import psycopg2

from comment_monitor.core.dsn import psycopg_arguments
from comment_monitor.core.errors import CommentMonitorError

SOURCE: Final = "smoke-test"
TEXT: Final = "Is this thing on? A comment of the smoke test, which removes it again."
POLL: Final = 0.25
REQUEST_TIMEOUT: Final = 10.0
REMOVE: Final = "DELETE FROM comments WHERE source = %s AND comment_id = %s"


class SmokeError(CommentMonitorError):
    """A step failed; the message says what happened instead."""


class Job(NamedTuple):
    """A completed step, and its time in seconds."""

    name: str
    seconds: float


def _detail(error: urllib.error.HTTPError) -> str:
    """Returns the service's own explanation of an error."""
    try:
        return f": {json.load(error)['detail']}"
    except (ValueError, KeyError, TypeError, OSError):
        return ""


class SmokeTest:
    """A comment with an id of its own, and the service at `url` that it is sent to.

    Args:
        url: the service's address.
        timeout: seconds for each step, within which a failed step is repeated.
    """

    def __init__(self, url: str, timeout: float):
        self._url = url.rstrip("/")
        self._timeout = timeout
        self.id = uuid.uuid4().hex
        # A proxy named in the environment is not for a service on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def steps(self) -> Iterator[Job]:
        """Yields each step once it has succeeded.

        Raises:
            SmokeError: a step failed; later steps are not tried.
        """
        for name, step in (
            ("the service answers and is healthy", self._healthy),
            ("a comment is stored", lambda: self._sent("stored")),
            ("it is found", self._found),
            ("it is a duplicate when sent again", lambda: self._sent("duplicates")),
            ("it is analysed", self._analysed),
        ):
            started = time.monotonic()
            self._until(name, step)
            yield Job(name, time.monotonic() - started)

    def remove(self, dsn: str) -> None:
        """Removes the comment and its result from the database."""
        arguments = psycopg_arguments(dsn, application="comment-monitor smoke-test")
        with closing(psycopg2.connect(**arguments)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(REMOVE, (SOURCE, self.id))

    def _until(self, name: str, step: Callable[[], str | None]) -> None:
        """Repeats a step, which returns a fault or None, until it succeeds."""
        deadline = time.monotonic() + self._timeout
        while (fault := self._try(step)) is not None:
            if time.monotonic() > deadline:
                raise SmokeError(f"{name}: not within {self._timeout:g} s ({fault})")
            time.sleep(POLL)

    @staticmethod
    def _try(step: Callable[[], str | None]) -> str | None:
        try:
            return step()
        except urllib.error.HTTPError as error:
            return f"answered {error.code}{_detail(error)}"
        except (OSError, ValueError) as error:
            return str(getattr(error, "reason", error))

    def _healthy(self) -> str | None:
        found = self._ask("/health")
        return None if found["status"] == "ok" else f"{found['status']}: {found['checks']}"

    def _sent(self, outcome: str) -> str | None:
        comment = {"id": self.id, "text": TEXT, "author": SOURCE}
        answer = self._ask("/comments/process", {"post_id": SOURCE, "source": SOURCE, "comments": [comment]})
        # If the answer to a first try was lost, the comment is a duplicate now, and still stored once.
        return None if 1 in (answer[outcome], answer["duplicates"]) else f"answered {answer}"

    def _found(self) -> str | None:
        found = self._ask(f"/comments/{SOURCE}/{self.id}")
        return None if found["text"] == TEXT else "another text came back"

    def _analysed(self) -> str | None:
        analysis = self._ask(f"/comments/{SOURCE}/{self.id}")["analysis"]
        return None if analysis and "question" in analysis["labels"] else "no result yet"

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"})  # noqa: S310 - http
        with self._opener.open(request, timeout=REQUEST_TIMEOUT) as response:
            return json.load(response)
