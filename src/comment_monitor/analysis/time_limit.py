"""A time limit for the analysis of one text, so that a text that takes too long is told from those beside it.

The limit is a timer of this process, set for one text and taken back after it. A task's own limit would strike
whichever text is analysed at that moment, or the storing of results.
"""

import math
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

# Seconds until the timer strikes again: a library may have swallowed the first exception.
AGAIN: Final = 1.0

_armed = False


class TextTimeout(BaseException):
    """A text took longer than it may. No `Exception`: a library that survives all of those must not survive this.

    `finding`: the name of the finding that was under way, once it is known.
    """

    finding = "analysis"


class TimeLimit(NamedTuple):
    """How long texts may take.

    `seconds`: for one text. `until`: when none goes on (of `time.monotonic`), whatever it had until then. `together`:
    seconds for a finding's look at several texts; over it, it is asked about each text by itself.
    """

    seconds: float
    until: float = math.inf
    together: float = math.inf

    @property
    def left(self) -> float:
        """Seconds for a text that begins now; zero or less: none may begin."""
        return min(self.seconds, self.until - time.monotonic())


def bounded(seconds: float, act: Callable[[], T]) -> T:
    """Calls `act`, for so many seconds at most. Only the main thread of a process has a timer; others wait.

    Raises:
        TextTimeout: the time is over.
    """
    global _armed  # noqa: PLW0603 - a process has one timer
    if math.isinf(seconds) or threading.current_thread() is not threading.main_thread():
        return act()
    began = time.monotonic()
    # Known before ours is set, which may strike as soon as it is.
    others = signal.getitimer(signal.ITIMER_REAL)
    handler = signal.getsignal(signal.SIGALRM)
    if handler is not _strike:
        signal.signal(signal.SIGALRM, _strike)
    try:
        _armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
        try:
            return act()
        finally:
            _disarm()
    except TextTimeout:
        # It may have struck within the `finally` above.
        _disarm()
        raise
    finally:
        if handler is not _strike and others[0]:
            # Somebody else's timer, as a test runner's, goes on.
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, max(others[0] - (time.monotonic() - began), 0.001), others[1])


def _disarm() -> None:
    global _armed  # noqa: PLW0603
    _armed = False
    signal.setitimer(signal.ITIMER_REAL, 0)


def _strike(_number: int, _frame: FrameType | None) -> None:
    # A signal that was already on its way when the timer was taken back says nothing.
    if _armed:
        raise TextTimeout
