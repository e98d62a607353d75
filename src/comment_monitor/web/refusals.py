"""Logs refused requests: at most one line a second for each kind, with a count."""

import asyncio
import logging
from typing import Any, Final

from comment_monitor.observability import logs

logger = logs.get(__name__)

# Seconds between two lines of a kind.
EVERY: Final = 1.0


class Refusals:
    """Logs the first refusal of a kind at once, and further ones within a second as one line with a count."""

    def __init__(self) -> None:
        self._quiet: dict[str, int] = {}

    def note(self, problem: str, *, level: int = logging.WARNING, often: bool = True, **members: Any) -> None:
        """Records a refused request.

        Args:
            problem: the kind of the refusal, one of few.
            level: the level of the line.
            often: whether the kind may come in floods; otherwise each refusal has its own line.
            members: the line's other members; a line with a count has none.
        """
        if often and problem in self._quiet:
            self._quiet[problem] += 1
            return
        logger.log(level, "refused", problem=problem, **members)
        if not often:
            return
        self._quiet[problem] = 0
        asyncio.get_running_loop().call_later(EVERY, self._again, problem, level)

    def _again(self, problem: str, level: int) -> None:
        if count := self._quiet.pop(problem):
            logger.log(level, "refused", problem=problem, count=count)
            self._quiet[problem] = 0
            asyncio.get_running_loop().call_later(EVERY, self._again, problem, level)
