"""Commands as a user runs them, with files, arguments and variables, and their output."""

import csv
import io
import json
import re
import subprocess
from collections.abc import Callable
from typing import Any, Final

from tests.support.errors import without_progress

SERVERS: Final = ("POSTGRES_DSN", "REDIS_URL", "CELERY_BROKER_URL", "RABBITMQ_URL", "PROMETHEUS_MULTIPROC_DIR")
# Occurs in every text and author, and therefore must not occur in any output.
SURNAME: Final = "Zmijewski"
SUM: Final = re.compile(r"(\d+) read: (\d+) stored, (\d+) updated, (\d+) duplicates, (\d+) rejected; [\d,]+ comments/s")


class Done:
    """A finished run; asserts that its output contains no traceback and no personal data."""

    def __init__(self, process: "subprocess.CompletedProcess[bytes]"):
        self.code = process.returncode
        self.out, errors = process.stdout.decode(), process.stderr.decode()
        assert "Traceback" not in self.out + errors
        assert SURNAME not in self.out + errors
        # Without log lines, which libraries write too.
        printed = "".join(line for line in errors.splitlines(keepends=True) if not line.startswith('{"event": '))
        self.err = without_progress(printed)

    @property
    def counts(self) -> tuple[int, ...]:
        """Read, stored, updated, duplicates, rejected: from the last line of the output."""
        found = SUM.fullmatch(self.out.splitlines()[-1])
        assert found, self.out
        return tuple(map(int, found.groups()))

    def only_error(self) -> str:
        """Asserts that standard error is a single line; returns the line."""
        (line,) = self.err.splitlines()
        assert line.startswith("Error: ")
        return line


Run = Callable[..., Done]


def record(number: object, **more: Any) -> dict[str, Any]:
    return {
        "post_id": "p",
        "id": f"c{number}",
        "text": f"{SURNAME} text {number}",
        "author": f"{SURNAME} {number}",
        **more,
    }


def lines(*records: object) -> bytes:
    """Returns JSON Lines; bytes are used as they are."""
    return b"".join((item if isinstance(item, bytes) else json.dumps(item).encode()) + b"\n" for item in records)


def table(*records: dict[str, Any]) -> bytes:
    """Returns CSV of the records, with the columns of all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for item in records for name in item)), restval="")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()
