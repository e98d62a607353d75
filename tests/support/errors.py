"""The standard error output of commands."""

import re
from typing import Final

# `1,000 comments (50%)`: printed every few seconds if there is no terminal.
PROGRESS: Final = re.compile(r"^[\d,]+ comments(?: \(\d+%\))?\n", re.MULTILINE)


def without_progress(errors: str) -> str:
    """Returns the output without its progress lines, which appear only on a busy machine."""
    return PROGRESS.sub("", errors)
