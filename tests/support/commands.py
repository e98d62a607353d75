"""Commands as a user meets them: programs with files, arguments and variables, and what they say."""

import csv
import io
import json
import re
import subprocess
from collections.abc import Callable
from typing import Any, Final

from tests.support.errors import without_progress

SERVERS: Final = ("POSTGRES_DSN", "REDIS_URL", "CELERY_BROKER_URL", "RABBITMQ_URL", "PROMETHEUS_MULTIPROC_DIR")
# Stands in every text and every author, and so may stand in no output.
SURNAME: Final = "Zmijewski"
SUM: Final = re.compile(r"(\d+) read: (\d+) stored, (\d+) updated, (\d+) duplicates, (\d+) rejected; [\d,]+ comments/s")


class Done:
    """A run that is over; nothing that it printed is a traceback or of anybody's making but ours."""

    def __init__(self, process: "subprocess.CompletedProcess[bytes]"):
        self.code = process.returncode
        self.out, errors = process.stdout.decode(), process.stderr.decode()
        assert "Traceback" not in self.out + errors
        assert SURNAME not in self.out + errors
        # Without the lines of the log, which libraries write too.
        said = "".join(line for line in errors.splitlines(keepends=True) if not line.startswith('{"event": '))
        self.err = without_progress(said)

    @property
    def counts(self) -> tuple[int, ...]:
        """Read, stored, updated, duplicates, rejected: the final line's."""
        found = SUM.fullmatch(self.out.splitlines()[-1])
        assert found, self.out
        return tuple(map(int, found.groups()))

    def only_error(self) -> str:
        """The one line on standard error."""
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
    """JSON Lines; bytes stand for themselves."""
    return b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in records)


def table(*records: dict[str, Any]) -> bytes:
    """CSV of these, with every column that any has."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for one in records for name in one)), restval="")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()
