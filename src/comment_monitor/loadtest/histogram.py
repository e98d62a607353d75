"""Latencies in constant memory: buckets two per cent wide, from 10 microseconds to 10 minutes."""

import math
from typing import Final

LOWEST: Final = 1e-5
HIGHEST: Final = 600.0
GROWTH: Final = 1.02
_SCALE: Final = 1 / math.log(GROWTH)
_SIZE: Final = int(math.log(HIGHEST / LOWEST) * _SCALE) + 2


class Histogram:
    """Counts of durations in seconds; a percentile is at most 2 % off."""

    def __init__(self) -> None:
        self._counts = [0] * _SIZE
        self.count = 0
        self.highest = 0.0

    def add(self, seconds: float) -> None:
        """Counts one duration."""
        at = int(math.log(max(seconds, LOWEST) / LOWEST) * _SCALE) + 1
        self._counts[min(at, _SIZE - 1)] += 1
        self.count += 1
        self.highest = max(self.highest, seconds)

    def percentile(self, share: float) -> float:
        """Returns the duration in seconds that `share` (0 to 1) of all durations stay within; 0.0 if there are none."""
        wanted = share * self.count
        seen = 0
        for at, amount in enumerate(self._counts):
            seen += amount
            if amount and seen >= wanted:
                return float(min(LOWEST * GROWTH**at, self.highest))
        return 0.0
