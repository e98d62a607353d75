"""LOG_LEVEL at run time: a file whose word counts as soon as it changes.

In Kubernetes it is the ConfigMap's LOG_LEVEL as a file, which follows an edit within a minute; pods are not restarted.
"""

import os
import threading
from pathlib import Path
from typing import Final

from comment_monitor import log

logger = log.get(__name__)

LOOK_EVERY: Final = 1.0


class LevelFile:
    """Follows a file; while it is missing or empty, `otherwise` counts. For one process: a thread survives no fork."""

    def __init__(self, path: Path, otherwise: str):
        self._path = path
        self._otherwise = otherwise
        self._word = ""
        self._level = otherwise

    def look(self) -> None:
        """Takes over what the file says; a word that is no level is named once, and changes nothing."""
        try:
            # Cut: what is no level need not be read.
            word = self._path.read_text(errors="replace")[:64].strip().upper()
        except OSError:
            word = ""
        if word == self._word:
            return
        self._word = word
        level = word or self._otherwise
        if level not in log.LEVELS:
            logger.warning("log_level_unknown", file=str(self._path), stays=self._level, known=log.LEVELS)
        elif level != self._level:
            was, self._level = self._level, level
            log.set_level(level)
            # Whatever the level, whoever changed it wants to see that it took.
            logger.critical("log_level_changed", was=was, now=level, process=os.getpid())

    def follow(self) -> None:
        """Looks now, and then every second, in a thread that ends with its process."""
        # A process that was forked has the level of its parent.
        log.set_level(self._level)
        self.look()
        threading.Thread(target=self._run, name="log-level", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOK_EVERY):
            self.look()


def follow(path: str, level: str) -> None:
    """Follows LOG_LEVEL_FILE, where one is named."""
    if path:
        LevelFile(Path(path), level).follow()
