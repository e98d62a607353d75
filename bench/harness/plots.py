"""Draws the pictures of docs/performance.md and docs/scaling.md, as SVG that is the same for the same numbers."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, Protocol

import matplotlib as mpl
import matplotlib.ticker
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.harness.claim import Row

OURS: Final = "#2a6f97"
FAR: Final = 3
BELOW: Final = "#c1121f"
FLOOR: Final = "#6c757d"
PALETTE: Final = (
    "#2a6f97", "#61a5c2", "#e09f3e", "#9e2a2b", "#6c757d", "#7b5ea7", "#588157", "#bc6c25", "#b5838d", "#adb5bd",
    "#003049", "#ffb703",
)  # fmt: skip
mpl.rcParams.update({"svg.hashsalt": "comment-monitor", "svg.fonttype": "none", "font.size": 9})


class Moment(Protocol):
    """The values of a second that are drawn."""

    @property
    def second(self) -> int:
        """Seconds since the beginning."""

    @property
    def arriving(self) -> float:
        """Comments that arrive in this second."""

    @property
    def refused(self) -> float:
        """Refused comments, which their clients send again."""

    @property
    def queue(self) -> float:
        """Comments in the queues of the API."""

    @property
    def backlog(self) -> float:
        """Comments that wait for their analysis."""

    @property
    def api_pods(self) -> int:
        """Number of API pods."""

    @property
    def worker_pods(self) -> int:
        """Number of worker pods."""


def draw_floors(rows: Sequence[Row], path: Path) -> None:
    """Draws each value relative to its floor, on one scale: 1 is the floor, more is better."""
    held = [row for row in rows if row.floor]
    figure = Figure(figsize=(8, 0.6 + 0.28 * len(held)), layout="constrained")
    axes = figure.subplots()
    for at, row in enumerate(reversed(held)):
        floor = row.floor or 1
        rounds = row.ratios or row.ours
        times = [floor / value if row.most else value / floor for value in rounds]
        axes.barh(at, median(times), color=OURS if row.holds else BELOW, height=0.6)
        axes.plot(times, [at] * len(times), ".", color="black", markersize=3)
    axes.axvline(1, color=FLOOR, linestyle="--")
    # Bars far above the floor are cut off: their length does not matter.
    axes.set_xlim(0, FAR)
    axes.set_yticks(range(len(held)), [row.work for row in reversed(held)])
    axes.set_xlabel(f"times better than the floor\n(dashed; at the edge: {FAR} and more)\nbar: median; dots: rounds")
    save(figure, path)


def draw_parts(rows: Sequence[Row], unit: str, path: Path) -> None:
    """Draws bars that consist of coloured parts; a row's `work` is "kind, bar: part"."""
    parts: list[tuple[str, str, float]] = []
    for row in rows:
        bar, _, part = row.work.partition(", ")[2].partition(": ")
        parts.append((bar, part, median(row.ours)))
    figure = Figure(figsize=(8, 2.2), layout="constrained")
    axes = figure.subplots()
    bars = list(dict.fromkeys(bar for bar, _, _ in parts))
    colours = dict(zip(dict.fromkeys(part for _, part, _ in parts), PALETTE, strict=False))
    for at, bar in enumerate(reversed(bars)):
        left = 0.0
        for name, part, value in parts:
            if name == bar:
                axes.barh(at, value, left=left, color=colours[part], height=0.6)
                left += value
    axes.set_yticks(range(len(bars)), list(reversed(bars)))
    axes.set_xlabel(unit)
    handles = [Patch(color=colour, label=part) for part, colour in colours.items()]
    figure.legend(handles=handles, ncols=math.ceil(len(colours) / 2), loc="outside upper center", frameon=False)
    save(figure, path)


def draw_burst(moments: Sequence[Moment], path: Path) -> None:
    """Draws the arriving comments, the waiting comments and the pods."""
    minutes = [moment.second / 60 for moment in moments]
    figure = Figure(figsize=(8, 5), layout="constrained")
    arriving, waiting, pods = figure.subplots(3, sharex=True)
    arriving.plot(minutes, [moment.arriving for moment in moments], color=OURS)
    arriving.set_ylabel("arriving\n(comments/s)")
    waiting.plot(minutes, [moment.backlog for moment in moments], color=BELOW, label="not yet analysed")
    waiting.plot(minutes, [moment.queue + moment.refused for moment in moments], color=OURS, label="not yet stored")
    waiting.set_ylabel("waiting\n(comments)")
    waiting.legend(frameon=False)
    pods.step(minutes, [moment.api_pods for moment in moments], color=OURS, label="API", where="post")
    pods.step(minutes, [moment.worker_pods for moment in moments], color=BELOW, label="workers", where="post")
    pods.set_ylabel("pods")
    pods.set_xlabel("minutes")
    pods.legend(frameon=False)
    for axes in (arriving, waiting, pods):
        axes.set_ylim(bottom=0)
        _thousands(axes)
    save(figure, path)


def _thousands(axes: Any) -> None:
    # The number of pods is an integer.
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True, nbins=5))
    axes.yaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as SVG that is the same for the same picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    # matplotlib writes blanks at the ends of lines.
    path.write_text("".join(f"{line.rstrip()}\n" for line in path.read_text().splitlines()))
