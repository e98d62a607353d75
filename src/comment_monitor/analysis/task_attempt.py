"""The time limits of one task in a worker, and the state of its outbox rows."""

import asyncio
import time
from collections.abc import Iterable
from typing import Final

from comment_monitor.analysis.time_limit import TimeLimit

# The hard limit of the task is COMMENT_PROCESSING_TIMEOUT + 15 s (celery_app.py). A task that reaches it is killed, and
# the kill counts against its comments, so the task must end earlier. In seconds: a text of a group begins by
# BEGIN_IN_GROUP, any text by BEGIN; a text takes at most COMMENT_PROCESSING_TIMEOUT; then storing results takes at most
# STORE, and giving back unfinished rows at most GIVE_BACK.
BEGIN_IN_GROUP: Final = 4.0
BEGIN: Final = 7.0
STORE: Final = 4.0
GIVE_BACK: Final = 3.0
# Seconds for a finding that analyses several texts in one call.
TOGETHER: Final = 3.0


class TaskAttempt:
    """The time limits and the outbox rows of one task.

    Args:
        redelivered: the broker has delivered this message before; a comment in it may have killed that worker.
        text_seconds: seconds for the analysis of one text.
    """

    def __init__(self, *, redelivered: bool, text_seconds: float):
        self.redelivered = redelivered
        self._began = time.monotonic()
        # uvloop updates its time once per iteration, so its time does not advance while a text is analysed.
        self._loop_began = asyncio.get_running_loop().time()
        self.ends = self._began + BEGIN + text_seconds
        self.limit = TimeLimit(text_seconds, until=self.ends, together=TOGETHER)
        self._timeout = asyncio.timeout(None)
        # For each row on which this delivery counted a start: the number of starts before it.
        self.counted: dict[int, int] = {}
        # Rows with comments that were not analysed for lack of time.
        self.unfinished: set[int] = set()

    @property
    def is_over(self) -> bool:
        """Whether it is too late to begin a row."""
        return time.monotonic() >= self._began + BEGIN

    @property
    def group_is_over(self) -> bool:
        """Whether it is too late to begin a text of a group."""
        return time.monotonic() >= self._began + BEGIN_IN_GROUP

    def timeout(self) -> asyncio.Timeout:
        """Returns a timeout context for the task."""
        self._timeout = asyncio.timeout_at(self._in_loop(self.ends))
        return self._timeout

    def let_store(self) -> None:
        """Extends the timeout so that at least `STORE` seconds remain for storing results."""
        self._timeout.reschedule(self._in_loop(max(self.ends, time.monotonic() + STORE)))

    def before(self, outbox_id: int, starts: int) -> int:
        """Returns a row's starts before this delivery, given its current count, which may include this one."""
        return self.counted.setdefault(outbox_id, starts)

    def forget(self, outbox_ids: Iterable[int]) -> None:
        """Notes that no start of these rows was counted after all, so that none is taken back."""
        for outbox_id in outbox_ids:
            self.counted.pop(outbox_id, None)

    def _in_loop(self, moment: float) -> float:
        return self._loop_began + moment - self._began
