"""A measured claim: the measurement, its reference, and the floor below which it must not fall."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

import msgspec

from bench.harness.system import System

ROUNDS: Final = 5
MICROSECONDS: Final = "us a comment"
SHARE: Final = "% of its time"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the table.

    `ours` and `beside` hold a value per round in `unit`, measured alternately. If `beside` is given, the ratio of the
    two counts. `floor`: the minimum, or with `most` the maximum; None: for scale only.
    """

    work: str
    unit: str
    ours: Sequence[float]
    beside: Sequence[float] = ()
    beside_what: str = ""
    floor: float | None = None
    most: bool = False

    @property
    def ratios(self) -> list[float]:
        """The ratio of `ours` to `beside` in each round."""
        return [ours / beside for ours, beside in zip(self.ours, self.beside, strict=True)] if self.beside else []

    @property
    def value(self) -> float:
        """The median that is compared with the floor."""
        return median(self.ratios or self.ours)

    @property
    def holds(self) -> bool:
        """Whether the value meets the floor."""
        if self.floor is None:
            return True
        return self.value <= self.floor if self.most else self.value >= self.floor


class Tools(msgspec.Struct, frozen=True):
    """The tools of a measurement. `say` prints its progress."""

    system: System
    rounds: int
    say: Callable[[str], None]


Measure = Callable[[Tools], list[Row]]


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Returns the rows as text: work, ours, beside, ratio, floor, whether it holds, and the number of rounds."""
    return [
        [
            row.work,
            number(median(row.ours), row.unit),
            f"{number(median(row.beside), row.unit)} ({row.beside_what})" if row.beside else "",
            f"{row.value:.2f}" if row.beside else "",
            _floor(row),
            "" if row.floor is None else "holds" if row.holds else "BELOW" if not row.most else "ABOVE",
            str(len(row.ours)),
        ]
        for row in rows
    ]


HEADINGS: Final = ("work", "ours", "beside it", "ratio", "floor", "", "rounds")


def _floor(row: Row) -> str:
    if row.floor is None:
        return ""
    bound = f"{row.floor:.2f}" if row.beside else number(row.floor, row.unit)
    return f"{'at most' if row.most else 'at least'} {bound}"


def number(value: float, unit: str) -> str:
    """Returns a value and its unit, the value with its significant digits only."""
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"  # noqa: PLR2004 - three digits
