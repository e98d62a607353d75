"""What a command says on its standard error."""

import re
from typing import Final

# `1,000 comments (50%)`: said every few seconds where there is no terminal.
PROGRESS: Final = re.compile(r"^[\d,]+ comments(?: \(\d+%\))?\n", re.MULTILINE)


def without_progress(errors: str) -> str:
    """The same without its progress, which a machine that is busy brings to be told."""
    return PROGRESS.sub("", errors)
