"""Starts the program with another analyser, which fails on some texts.

    python -m tests.support.deadly <arguments of comment-monitor>

A text with one of the words below ends the process that analyses it, or blocks it forever. Variables: each text
takes SLOW_SECONDS; a task's hard time limit is HARD_SECONDS.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from celery import Celery

from comment_monitor.analysis import engine
from comment_monitor.analysis.engine import Finding
from comment_monitor.analysis.findings.text import Text
from comment_monitor.cli import main
from comment_monitor.core.config import Settings
from comment_monitor.messaging import celery_app

EXIT: Final = "DEADLY-EXIT"
KILL: Final = "DEADLY-KILL"
HANG: Final = "DEADLY-HANG"
DEAF: Final = "DEADLY-DEAF"


def be_deaf() -> None:
    """Hangs like native code: raised exceptions have no effect."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(3600)


ACTIONS: Final[dict[str, Callable[[], object]]] = {
    EXIT: lambda: os._exit(3),
    KILL: lambda: os.kill(os.getpid(), signal.SIGKILL),
    HANG: lambda: time.sleep(3600),
    DEAF: be_deaf,
}
SLOW_SECONDS: Final = float(os.environ.get("SLOW_SECONDS", "0"))
HARD_SECONDS: Final = os.environ.get("HARD_SECONDS")


def find(text: Text, _: Mapping[str, Any]) -> dict[str, Any]:
    """Finds nothing, and executes the action of the text."""
    for word, action in ACTIONS.items():
        if word in text.typed:
            action()
    if SLOW_SECONDS:
        time.sleep(SLOW_SECONDS)
    return {}


def add_finding() -> None:
    """Adds the analyser to the program's findings."""
    engine.FINDINGS = (*engine.FINDINGS, Finding("deadly", find))  # type: ignore[misc, assignment]


def shorten_tasks(seconds: float) -> None:
    """Lowers the hard time limit of tasks."""
    make = celery_app.make_celery

    def make_celery(settings: Settings) -> Celery:
        app = make(settings)
        app.conf.task_time_limit = seconds
        return app

    celery_app.make_celery = make_celery


if __name__ == "__main__":
    add_finding()
    if HARD_SECONDS:
        shorten_tasks(float(HARD_SECONDS))
    main()
