"""A circuit breaker for side paths: an unavailable server is not asked again with every request."""

import random
import time
from typing import Final

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 15.0


class Breaker:
    """A breaker that opens on failure, for a pause that doubles with each failure (with jitter), up to 15 seconds."""

    def __init__(self) -> None:
        self._failures = 0
        self._open_until = 0.0

    @property
    def closed(self) -> bool:
        """Whether a call makes sense now."""
        return time.monotonic() >= self._open_until

    def failure(self) -> bool:
        """Records a failure; returns True for the first one after a success, so that the caller logs it once."""
        pause = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
        self._open_until = time.monotonic() + pause * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
        self._failures = min(self._failures + 1, 10)
        return self._failures == 1

    def success(self) -> bool:
        """Records a success; returns True for the first one after a failure, so that the caller logs it once."""
        was_failing = self._failures > 0
        self._failures = 0
        self._open_until = 0.0
        return was_failing
