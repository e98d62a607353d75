"""How fast the workers analyse, all of them together, and what follows for the queue between them and the senders.

Measured from what PostgreSQL counts, so every process knows it, whoever sends and whoever analyses.
"""

from collections import deque
from typing import Final, NamedTuple

# Seconds over which the rate is measured; over the longer ones while so few comments are analysed.
WINDOW: Final = 10.0
LONG_WINDOW: Final = 60.0
FEW: Final = 20
# A rate below this many seconds is no measurement, but shows what workers can do at least.
LEAST_WINDOW: Final = 3.0
FIRST_WINDOW: Final = 1.0

# Outbox rows that may be outstanding before the rate is known; and whatever it is, so that a slow analyser's many
# workers all have some, and workers that come back show that they do.
ROWS_AT_FIRST: Final = 2_000
LEAST_ROWS: Final = 100
# Seconds of work in the queue at most, whatever COMMENT_RESEND_AFTER says: Redis, as a broker, gives a message that no
# worker has acknowledged to another one after 300.
LONGEST_QUEUE: Final = 120.0
# Seconds of all workers' work in one message at most.
SECONDS_A_MESSAGE: Final = 0.5
# A row is not sent again while the queue holds more work than this share of COMMENT_RESEND_AFTER: it may be in there.
WAITING_SHARE: Final = 0.75
LONGEST_WAIT: Final = 3600.0


class Outstanding(NamedTuple):
    """What has been sent and is neither ended nor overdue, and what PostgreSQL counted of `comment_analyses`."""

    rows: int
    comments: int
    inserted: int
    updated: int


class _Sample(NamedTuple):
    moment: float
    inserted: int
    updated: int


class AnalysisRate:
    """Comments a second, from looks at what is outstanding."""

    def __init__(self) -> None:
        self.per_second: float | None = None
        self._samples: deque[_Sample] = deque()

    def observe(self, moment: float, now: Outstanding) -> None:
        """Takes a look into account.

        Workers without work show nothing of how fast they are: the rate stays. A rate of zero means that there was
        work, and nobody did it.
        """
        sample = _Sample(moment, now.inserted, now.updated)
        if self._samples and _analysed(self._samples[-1], sample) < 0:
            # The statistics were reset, or another server answers.
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
        """Drops what lies before the window."""
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
            # Not more than a lower bound; none at all where nothing was done.
            if rate:
                self.per_second = max(rate, self.per_second or 0.0)
        else:
            self.per_second = rate


def _analysed(first: _Sample, last: _Sample) -> float:
    """Comments analysed between two samples, at least.

    A result is inserted, or updated where an earlier text had one; and for a result at most one other is updated, which
    gets the label `repeated`.
    """
    inserted, updated = last.inserted - first.inserted, last.updated - first.updated
    if min(inserted, updated) < 0:
        return -1
    return max(inserted, (inserted + updated) / 2)


class Bounds(NamedTuple):
    """What may be sent now.

    `rows`: outbox rows beside those that are outstanding. `rows_a_message`: how many a message may name. `postpone`:
    seconds by which sending again is put off; None: it is not.
    """

    rows: int
    rows_a_message: int
    postpone: float | None


def bounds(
    rate: float | None, now: Outstanding, *, resend_after: float, batch_size: int, most_rows: int, waiting: bool
) -> Bounds:
    """The queue's bounds: work for half of the time after which a row would be sent again.

    Args:
        rate: comments a second; None: not known.
        now: what is outstanding.
        resend_after: seconds after which a row is sent again.
        batch_size: comments of a row at most.
        most_rows: rows that may be outstanding, however fast the workers are.
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
