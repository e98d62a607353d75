"""Removes confidential data from log lines of other libraries: the last line of defence.

The first is that this program never puts a comment's text, its author or a secret into a line; see docs/adr/0005.
"""

import re
from typing import Any, Final

from structlog.typing import EventDict

# The password of an address such as amqp://user:password@host.
_PASSWORD_IN_ADDRESS: Final = re.compile(r"(://[^\s:/@]*:)[^\s/]*@")
# Matches at the start of a word only: a match at every letter of a long word would take quadratic time.
_NAMED_SECRET: Final = re.compile(
    r"""((?<![\w-])[\w-]*(?:password|passwd|pwd|secret|token|api[-_]?key)["']?\s*[=:]\s*)(?:"[^"]*"|'[^']*'|[^\s"'&;}]+)""",
    re.IGNORECASE,
)
_AUTHORIZATION: Final = re.compile(r"""(authorization["']?\s*[=:]\s*)[^\n]+""", re.IGNORECASE)
_BEARER: Final = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)
# Does not match user@host in a server's address, because an operator needs the host.
_EMAIL: Final = re.compile(r"(?<![/\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
# With a country code, as three, three and four digits, or with a leading zero; no times, IP addresses or counts.
_PHONE: Final = re.compile(
    r"(?<![\w+])\+\d{1,3}(?:[ .()/-]{0,2}\d{1,4}){2,6}\b"
    r"|(?<![\w.-])\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?![\w-])"
    r"|(?<![\w.:-])0\d{2,4}[ /-]\d{4,}\b"
)

# Loggers that never see a comment, so that their messages are logged whole: queue, servers, migrations.
TRUSTED: Final = (
    "comment_monitor", "celery", "kombu", "amqp", "multiprocessing", "uvicorn", "alembic",
)  # fmt: skip
# Exceptions: loggers that quote the exception that ended a task or the whole worker.
QUOTING: Final = ("celery.app.trace", "celery.worker")
# The start of quoted data in a message: a repr, a quotation, a second line.
_SHOWS: Final = re.compile(r"[\n(<'\"`{\[]|: ")


def plain_words(logger: str, message: str) -> str:
    """Returns a library's message, cut before quoted data where the logger may quote a comment.

    For example, asyncio shows a failed task with its exception's text, and a callback with its arguments.
    """
    if logger.partition(".")[0] in TRUSTED and logger not in QUOTING:
        # A second line is a traceback.
        return message.lstrip().partition("\n")[0]
    return _SHOWS.split(message, maxsplit=1)[0].rstrip() or "(left out)"


def redacted(text: str) -> str:
    """Returns the text without passwords, tokens, e-mail addresses and phone numbers."""
    text = _PASSWORD_IN_ADDRESS.sub(r"\1***@", text)
    text = _AUTHORIZATION.sub(r"\1***", text)
    text = _NAMED_SECRET.sub(r"\1***", text)
    text = _BEARER.sub(r"\1 ***", text)
    text = _EMAIL.sub("<e-mail>", text)
    return _PHONE.sub("<phone>", text)


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """A structlog processor that redacts every text of a line, at any depth."""
    return {key: value if key == "timestamp" else _anywhere(value) for key, value in event.items()}


def _anywhere(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {key: _anywhere(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_anywhere(item) for item in value]
    # Any other value is logged by its repr.
    return value if value is None or isinstance(value, bool | int | float) else redacted(repr(value))
