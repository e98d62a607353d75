"""Measures the analysis rate of all workers together, and computes from it the bounds of their queue.

The rate is measured from PostgreSQL's statistics, so every process knows it, no matter which process sends or analyses.
"""

from collections import deque
from typing import Final, NamedTuple

# Seconds over which the rate is measured; LONG_WINDOW while fewer than FEW comments are analysed within WINDOW.
WINDOW: Final = 10.0
LONG_WINDOW: Final = 60.0
FEW: Final = 20
# A rate over fewer seconds than LEAST_WINDOW is only a lower bound; below FIRST_WINDOW it is ignored.
LEAST_WINDOW: Final = 3.0
FIRST_WINDOW: Final = 1.0

# Outbox rows that may be outstanding before the rate is known (ROWS_AT_FIRST), and at any rate (LEAST_ROWS): then many
# workers with a slow analyser all have rows, and workers that resume after an outage show a rate.
ROWS_AT_FIRST: Final = 2_000
LEAST_ROWS: Final = 100
# The most seconds of work in the queue, even with a longer COMMENT_RESEND_AFTER: Redis, as a broker, redelivers an
# unacknowledged message to another worker after 300 seconds.
LONGEST_QUEUE: Final = 120.0
# The most seconds of all workers' work in one message.
SECONDS_A_MESSAGE: Final = 0.5
# While the queue holds more work than this share of COMMENT_RESEND_AFTER, rows are not sent again: they may be queued.
WAITING_SHARE: Final = 0.75
LONGEST_WAIT: Final = 3600.0


class Outstanding(NamedTuple):
    """The rows and comments sent but neither finished nor overdue, and PostgreSQL's counts for `comment_analyses`."""

    rows: int
    comments: int
    inserted: int
    updated: int


class _Sample(NamedTuple):
    moment: float
    inserted: int
    updated: int


class AnalysisRate:
    """The analysis rate in comments per second, from samples of the outstanding work."""

    def __init__(self) -> None:
        self.per_second: float | None = None
        self._samples: deque[_Sample] = deque()

    def observe(self, moment: float, now: Outstanding) -> None:
        """Adds a sample.

        Idle workers do not show their speed, so without outstanding rows the rate is kept, or raised to a higher lower
        bound. A rate of zero means that there was work and no worker did it.
        """
        sample = _Sample(moment, now.inserted, now.updated)
        if self._samples and _analysed(self._samples[-1], sample) < 0:
            # The statistics were reset, or another server responds.
            self._samples.clear()
        self._samples.append(sample)
        self._forget(sample)
        if not now.rows:
            self._take(least=True)
            self._samples.clear()
            self._samples.append(sample)
        else:
            self._take(least=False)

    def _forget(self, last: _Sample) -> None:
        """Drops samples before the window."""
        while len(self._samples) > 2 and (  # noqa: PLR2004 - a rate has two ends
            last.moment - self._samples[1].moment >= LONG_WINDOW
            or (
                last.moment - self._samples[1].moment >= WINDOW
                and _analysed(self._samples[1], last) >= FEW
            )
        ):  # fmt: skip
            self._samples.popleft()

    def _take(self, *, least: bool) -> None:
        first, last = self._samples[0], self._samples[-1]
        elapsed = last.moment - first.moment
        if elapsed < FIRST_WINDOW:
            return
        rate = _analysed(first, last) / elapsed
        if least or elapsed < LEAST_WINDOW:
            # Only a lower bound; a rate of zero bounds nothing.
            if rate:
                self.per_second = max(rate, self.per_second or 0.0)
        else:
            self.per_second = rate


def _analysed(first: _Sample, last: _Sample) -> float:
    """Returns the least number of comments analysed between two samples; negative if the counts went down.

    A result is inserted, or updated if an earlier text had one. For each result at most one other result is updated,
    which gets the label `repeated`.
    """
    inserted, updated = last.inserted - first.inserted, last.updated - first.updated
    if min(inserted, updated) < 0:
        return -1
    return max(inserted, (inserted + updated) / 2)


class Bounds(NamedTuple):
    """How much may be sent now.

    `rows`: outbox rows in addition to the outstanding ones. `rows_a_message`: rows that a message may name. `postpone`:
    seconds by which resending is postponed; None: not at all.
    """

    rows: int
    rows_a_message: int
    postpone: float | None


def bounds(
    rate: float | None, now: Outstanding, *, resend_after: float, batch_size: int, most_rows: int, waiting: bool
) -> Bounds:
    """Computes the queue's bounds: at most work for half of the time after which a row would be sent again.

    Args:
        rate: comments per second; None: not known.
        now: the outstanding work.
        resend_after: seconds after which a row is sent again.
        batch_size: the maximum number of comments in a row.
        most_rows: the maximum number of outstanding rows at any rate.
        waiting: whether the broker holds messages that no worker has taken yet.
    """
    comments_a_row = now.comments / now.rows if now.rows else batch_size
    if rate is None:
        return Bounds(max(0, min(ROWS_AT_FIRST, most_rows) - now.rows), most_rows, None)
    seconds = min(resend_after / 2, LONGEST_QUEUE)
    rows = min(max(LEAST_ROWS, int(rate * seconds / comments_a_row)), most_rows)
    rows_a_message = max(1, int(rate * SECONDS_A_MESSAGE / comments_a_row))
    postpone = None
    if waiting and now.comments > WAITING_SHARE * resend_after * rate:
        needed = 1.25 * now.comments / rate if rate else resend_after
        postpone = min(max(resend_after, needed), LONGEST_WAIT)
    return Bounds(max(0, rows - now.rows), rows_a_message, postpone)
