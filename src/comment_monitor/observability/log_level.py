"""Changes the log level at run time: the level in LOG_LEVEL_FILE replaces LOG_LEVEL.

In Kubernetes the file comes from a ConfigMap, whose edits reach the pods within a minute, without a restart.
"""

import os
import stat
import threading
from pathlib import Path
from typing import Final

from comment_monitor.observability import logs

logger = logs.get(__name__)

# Seconds between two reads of the file.
READ_EVERY: Final = 1.0


class LevelFile:
    """Follows a file with a log level; while the file is missing or empty, `default` applies."""

    def __init__(self, path: Path, default: str):
        self._path = path
        self._default = default
        self._level = default
        self._word = ""

    def _read(self) -> str:
        try:
            # Without O_NONBLOCK, opening a pipe would block. A device or a foreign file may be endless, so only a
            # regular file is read, and only 64 bytes.
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

    def refresh(self) -> None:
        """Reads the file and sets its level; an unknown level is logged once and changes nothing."""
        word = self._read()
        if word == self._word:
            return
        self._word = word
        level = word or self._default
        if level not in logs.LEVELS:
            logger.warning("log_level_unknown", file=str(self._path), stays=self._level, known=logs.LEVELS)
        elif level != self._level:
            was, self._level = self._level, level
            # Logged at the lower of the two levels, so that the operator sees that the change has taken effect.
            logs.set_level(min(was, level, key=logs.LEVELS.index))
            logger.warning("log_level_changed", was=was, now=level, process=os.getpid())
            logs.set_level(level)

    def follow(self) -> None:
        """Reads the file now, and then every second in a thread that ends with its process."""
        self.refresh()
        threading.Thread(target=self._run, name="log-level", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(READ_EVERY):
            self.refresh()


_followed: LevelFile | None = None


def follow(path: str, level: str) -> None:
    """Follows LOG_LEVEL_FILE in this process if it is set; a second call does nothing."""
    global _followed  # noqa: PLW0603 - a process has one level
    if path and not _followed:
        _followed = LevelFile(Path(path), level)
        _followed.follow()


def follow_after_fork() -> None:
    """Continues in a forked process: the parent's level survives the fork, its thread does not."""
    if _followed:
        _followed.follow()
