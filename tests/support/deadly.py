"""Starts the program with one more analyser, which some texts are too much for.

    python -m tests.support.deadly <arguments of comment-monitor>

A text with one of the words below in it ends the process that analyses it, or keeps it for ever.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from comment_monitor import analysis
from comment_monitor.analysis import Finding
from comment_monitor.analysis.text import Text
from comment_monitor.cli import main

EXIT: Final = "DEADLY-EXIT"
KILL: Final = "DEADLY-KILL"
HANG: Final = "DEADLY-HANG"

DEEDS: Final[dict[str, Callable[[], object]]] = {
    EXIT: lambda: os._exit(3),
    KILL: lambda: os.kill(os.getpid(), signal.SIGKILL),
    HANG: lambda: time.sleep(3600),
}


def find(text: Text, _: Mapping[str, Any]) -> dict[str, Any]:
    """Finds nothing, and does what the text says."""
    for word, deed in DEEDS.items():
        if word in text.typed:
            deed()
    return {}


if __name__ == "__main__":
    analysis.FINDINGS = (*analysis.FINDINGS, Finding("deadly", find))  # type: ignore[misc, assignment]
    main()
