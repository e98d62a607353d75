"""Structured logging: JSON lines in production, readable on a terminal. Never a comment's text or author."""

import json
import logging
import os
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import structlog

from comment_monitor.core.printable import all_printable, printable
from comment_monitor.observability.redaction import plain_words, redact, redacted

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# Their lines for each request, connection or task would hide the important lines.
NOISY: Final = (
    "uvicorn", "httpx", "asyncio", "amqp", "celery.worker.consumer", "celery.worker.strategy", "celery.app.trace",
    "celery.utils.functional", "celery.bootsteps", "alembic", "urllib3", "py3langid",
)  # fmt: skip
# Maximum number of frames of an exception in a log line, the innermost last.
FRAMES: Final = 6


def configure(level: str) -> None:
    """Sets up structlog, and routes logs, warnings and uncaught exceptions of other libraries through it."""
    if sys.stderr is None:
        # The parent closed stderr (`2>&-`): nobody reads the log, but the program must work.
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, _plain_words],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _exception_by_name,
            redact,
            # The JSON renderer escapes control characters itself.
            *([_escape] if terminal else []),
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    _take_over()


def set_level(level: str) -> None:
    """Sets the level of the log: DEBUG, INFO, WARNING, ERROR or CRITICAL."""
    root = logging.getLogger()
    root.setLevel(level)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def _take_over() -> None:
    """Logs warnings and uncaught exceptions, which Python would print with their messages.

    Errors while a log line is written are ignored.
    """
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False
    crashed = get(__name__).critical

    def ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            crashed("crashed", exc_info=(kind, error, trace))

    def thread_ended(args: threading.ExceptHookArgs) -> None:
        crashed("thread_crashed", thread=args.thread.name if args.thread else None, exc_info=args.exc_value)

    def ignored(args: "sys.UnraisableHookArgs") -> None:
        crashed("error_ignored", exc_info=args.exc_value)

    sys.excepthook, threading.excepthook, sys.unraisablehook = ended, thread_ended, ignored


def _plain_words(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event["event"] = plain_words(event.get("logger", ""), str(event["event"]))
    return event


def where(trace: TracebackType | None) -> list[str]:
    """Returns the innermost frames of a traceback, as `file:line function`."""
    frames = []
    while trace:
        code = trace.tb_frame.f_code
        frames.append(f"{'/'.join(code.co_filename.split('/')[-2:])}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[-FRAMES:]


def _exception_by_name(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replaces an exception by its type and its innermost frames, on one line.

    Its message is left out: a message of the database or of a library may quote a user's data.
    """
    info: Any = event.pop("exc_info", None)
    if info:
        error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else sys.exc_info()[1]
        # billiard wraps an exception of another process.
        error = getattr(error, "exc", error)
        if error is not None:
            event["error"] = type(error).__name__
            event["at"] = where(error.__traceback__)
    return event


def _escape(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A structlog processor for a terminal: escapes text that would move the cursor or begin another line."""
    return {name: all_printable(value) for name, value in event.items()}


def from_a_signal(logger: str, message: str) -> None:
    """Logs at INFO from a signal handler without a lock, because the interrupted code may hold the log's lock."""
    if not logging.getLogger().isEnabledFor(logging.INFO):
        return
    event = {"event": redacted(message.strip()), "logger": logger, "level": "info", "timestamp": _now()}
    line = printable(str(event["event"])) if sys.stderr.isatty() else json.dumps(event)
    with suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), f"{line}\n".encode())


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def at_debug() -> bool:
    """Whether DEBUG lines are written, so that callers compute their contents only then."""
    return logging.getLogger().isEnabledFor(logging.DEBUG)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Returns the logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
