"""The time of one task in a worker, and what the task has to say of its outbox rows at the end."""

import asyncio
import time
from typing import Final

from comment_monitor.analysis.time_limit import TimeLimit

# The hard limit of the task is COMMENT_PROCESSING_TIMEOUT + 15 (celery_app.py): a task that reaches it is killed, as if
# a comment had done it. So these come first, in seconds: the last text of a group begins; the last text at all begins;
# after its own COMMENT_PROCESSING_TIMEOUT, what is analysed is stored; what is left is given back.
BEGIN_IN_GROUP: Final = 4.0
BEGIN: Final = 7.0
STORE: Final = 4.0
GIVE_BACK: Final = 3.0
# Seconds of a finding's look at several texts.
TOGETHER: Final = 3.0


class TaskAttempt:
    """One task's way through this worker.

    Args:
        redelivered: the broker had delivered its message before; a comment in it may have killed that worker.
        text_seconds: for the analysis of one text.
    """

    def __init__(self, *, redelivered: bool, text_seconds: float):
        self.redelivered = redelivered
        self._began = time.monotonic()
        # A loop's own time stands still while a text is analysed.
        self._loop_began = asyncio.get_running_loop().time()
        self.ends = self._began + BEGIN + text_seconds
        self.limit = TimeLimit(text_seconds, until=self.ends, together=TOGETHER)
        self._timeout = asyncio.timeout(None)
        # The counts of starts before this delivery, of the rows on which this one was counted.
        self.counted: dict[int, int] = {}
        # Rows with comments that were not analysed for lack of time.
        self.unfinished: set[int] = set()

    @property
    def is_over(self) -> bool:
        """Whether no row may begin any more."""
        return time.monotonic() >= self._began + BEGIN

    @property
    def group_is_over(self) -> bool:
        """Whether no text of a group may begin any more."""
        return time.monotonic() >= self._began + BEGIN_IN_GROUP

    def timeout(self) -> asyncio.Timeout:
        """A context that ends with the task's time."""
        self._timeout = asyncio.timeout_at(self._in_loop(self.ends))
        return self._timeout

    def let_store(self) -> None:
        """What is analysed is to be stored: there is some time for that, however long the analysis took."""
        self._timeout.reschedule(self._in_loop(max(self.ends, time.monotonic() + STORE)))

    def before(self, outbox_id: int, starts: int) -> int:
        """A row's starts before this delivery, where `starts` is its count now, perhaps with this one."""
        return self.counted.setdefault(outbox_id, starts)

    def _in_loop(self, moment: float) -> float:
        return self._loop_began + moment - self._began
