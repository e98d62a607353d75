"""The log's lines of refused requests: of each kind one a second, with a count, however many there are."""

import asyncio
import logging
from typing import Any, Final

from comment_monitor.observability import logs

logger = logs.get(__name__)

# Seconds between two lines of a kind.
EVERY: Final = 1.0


class Refusals:
    """Writes the first refusal of a kind at once, and those that follow within a second as one line with a count."""

    def __init__(self) -> None:
        self._quiet: dict[str, int] = {}

    def note(self, problem: str, *, level: int = logging.WARNING, often: bool = True, **what: Any) -> None:
        """A request was refused.

        Args:
            problem: the kind, one of few.
            level: of the line.
            often: it may come in floods; else each has its line.
            what: the line's other members; of several refusals those of the first.
        """
        if often and problem in self._quiet:
            self._quiet[problem] += 1
            return
        logger.log(level, "refused", problem=problem, **what)
        if not often:
            return
        self._quiet[problem] = 0
        asyncio.get_running_loop().call_later(EVERY, self._again, problem, level)

    def _again(self, problem: str, level: int) -> None:
        if count := self._quiet.pop(problem):
            logger.log(level, "refused", problem=problem, count=count)
            self._quiet[problem] = 0
            asyncio.get_running_loop().call_later(EVERY, self._again, problem, level)
