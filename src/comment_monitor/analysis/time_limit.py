"""A time limit for the analysis of one text, which identifies the text that takes too long.

The limit is a timer of this process, set for one text and cancelled after it. A limit of the task would interrupt any
text that is being analysed at that moment, or the storing of results.
"""

import math
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

# Seconds until the timer fires again: a library may have swallowed the first exception.
AGAIN: Final = 1.0

_armed = False


class TextTimeout(BaseException):
    """A text exceeded its time limit. Not an `Exception`, so that a library's `except Exception` does not catch it.

    `finding`: the name of the interrupted finding, once it is known.
    """

    finding = "analysis"


class TimeLimit(NamedTuple):
    """How long texts may take.

    `seconds`: for one text. `until`: the time (of `time.monotonic`) at which the analysis of any text ends. `together`:
    seconds for a finding that analyses several texts in one call; if it exceeds them, it analyses each text separately.
    """

    seconds: float
    until: float = math.inf
    together: float = math.inf

    @property
    def left(self) -> float:
        """Seconds for a text that begins now; zero or less: no text may begin."""
        return min(self.seconds, self.until - time.monotonic())


def bounded(seconds: float, act: Callable[[], T]) -> T:
    """Calls `act` and interrupts it after `seconds`. Only the main thread has a timer: other threads have no limit.

    Raises:
        TextTimeout: the call took longer.
    """
    global _armed  # noqa: PLW0603 - a process has one timer
    if math.isinf(seconds) or threading.current_thread() is not threading.main_thread():
        return act()
    began = time.monotonic()
    # Save the other timer first: ours may fire as soon as it is set.
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
        # The timer may have fired within the `finally` above.
        _disarm()
        raise
    finally:
        if handler is not _strike and others[0]:
            # Restore another owner's timer, such as a test runner's.
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, max(others[0] - (time.monotonic() - began), 0.001), others[1])


def _disarm() -> None:
    global _armed  # noqa: PLW0603
    _armed = False
    signal.setitimer(signal.ITIMER_REAL, 0)


def _strike(_number: int, _frame: FrameType | None) -> None:
    # Ignore a signal that was already pending when the timer was cancelled.
    if _armed:
        raise TextTimeout
