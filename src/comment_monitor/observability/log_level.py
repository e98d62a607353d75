"""LOG_LEVEL at run time: a file whose word counts instead, as soon as it is there.

In Kubernetes it is a ConfigMap, which follows an edit within a minute; pods are not restarted.
"""

import os
import stat
import threading
from pathlib import Path
from typing import Final

from comment_monitor.observability import logs

logger = logs.get(__name__)

LOOK_EVERY: Final = 1.0


class LevelFile:
    """Follows a file; while it is missing or empty, `otherwise` counts."""

    def __init__(self, path: Path, otherwise: str):
        self._path = path
        self._otherwise = otherwise
        self._level = otherwise
        self._word = ""

    def _read(self) -> str:
        try:
            # A pipe would keep whoever opens it; of a device, or a file that is none of ours, the end may be far.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return ""
            return os.read(descriptor, 64).decode(errors="replace").strip().upper()
        except OSError:
            return ""
        finally:
            os.close(descriptor)

    def look(self) -> None:
        """Takes over what the file says; a word that is no level is named once, and changes nothing."""
        word = self._read()
        if word == self._word:
            return
        self._word = word
        level = word or self._otherwise
        if level not in logs.LEVELS:
            logger.warning("log_level_unknown", file=str(self._path), stays=self._level, known=logs.LEVELS)
        elif level != self._level:
            was, self._level = self._level, level
            # Said at the lower of the two: whoever changed it wants to see that it took.
            logs.set_level(min(was, level, key=logs.LEVELS.index))
            logger.warning("log_level_changed", was=was, now=level, process=os.getpid())
            logs.set_level(level)

    def follow(self) -> None:
        """Looks now, and then every second, in a thread that ends with its process."""
        self.look()
        threading.Thread(target=self._run, name="log-level", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOK_EVERY):
            self.look()


_followed: LevelFile | None = None


def follow(path: str, level: str) -> None:
    """Follows LOG_LEVEL_FILE in this process, where one is named; the second time does nothing."""
    global _followed  # noqa: PLW0603 - a process has one level
    if path and not _followed:
        _followed = LevelFile(Path(path), level)
        _followed.follow()


def follow_after_fork() -> None:
    """Goes on where the parent was: its thread did not survive the fork, its level did."""
    if _followed:
        _followed.follow()
