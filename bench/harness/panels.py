"""Panels of the Grafana dashboard drawn with matplotlib: where they stand, what they show and from where it is red."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from textwrap import fill
from typing import Any, Final

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from bench.harness.course import COURSE, SECONDS
from bench.harness.plots import PALETTE, save

# Of each expression its series: labels, and (second, value) of each sample.
Answers = dict[str, list[tuple[dict[str, str], list[tuple[float, float]]]]]
Line = tuple[str, list[float], list[float]]

WIDTH: Final = 12.0
HEIGHT: Final = 0.36
COLOURS: Final = {"green": "#588157", "yellow": "#e09f3e", "red": "#c1121f"}
QUIET: Final = "#6c757d"
SHADE: Final = "#e9ecef"
SMALL: Final = 7
# So many series are named, and what is below this share of the largest is not to be seen anyway.
NAMED: Final = 6
INVISIBLE: Final = 0.01
# Letters of a legend in two columns, for each column of the dashboard's grid.
LETTERS: Final = 3.65
MIB: Final = 2**20
SUFFIX: Final = {"cps": " c/s", "ops": " ops/s", "reqps": " req/s"}
STEPS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"), (0.001, "ms"))
LETTER: Final = "ABCDEFG"


def draw(panels: Sequence[Mapping[str, Any]], answers: Answers, path: Path) -> None:
    """A group of the dashboard."""
    lines = [list(line) for _, line in groupby(panels, key=lambda one: one["gridPos"]["y"])]
    heights = [max(one["gridPos"]["h"] for one in line) for line in lines]
    figure = Figure(figsize=(WIDTH, HEIGHT * (sum(heights) + 1)), layout="constrained")
    parts = figure.subfigures(len(lines) + 1, 1, height_ratios=[*heights, 1], squeeze=False)
    for line, part in zip(lines, parts[:-1, 0], strict=True):
        _draw_line(line, answers, part)
    what = ",  ".join(f"{letter}: {event.name}" for letter, event in zip(LETTER, COURSE, strict=False))
    parts[-1, 0].text(0.01, 0.5, what, fontsize=SMALL + 1, color=QUIET, va="center")
    save(figure, path)


def _draw_line(line: Sequence[Mapping[str, Any]], answers: Answers, part: SubFigure) -> None:
    widths = [one["gridPos"]["w"] for one in line]
    places = part.subplots(1, len(line), width_ratios=widths, squeeze=False)
    for panel, axes, width in zip(line, places[0], widths, strict=True):
        axes.set_title(fill(panel["title"], 5 * width), fontsize=SMALL + 2, loc="left")
        {"stat": _draw_stat, "timeseries": _draw_time, "bargauge": _draw_bars}[panel["type"]](panel, answers, axes)


def _draw_stat(panel: Mapping[str, Any], answers: Answers, axes: Axes) -> None:
    """One large number in the colour of its threshold."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(SHADE)
    defaults = panel["fieldConfig"]["defaults"]
    found = [line for target in panel["targets"] for line in _lines_of(target, answers)]
    text, colour = defaults.get("noValue", "No data"), QUIET
    if found:
        value = found[0][2][-1]
        colour = [COLOURS[one["color"]] for one in defaults["thresholds"]["steps"] if value >= (one["value"] or 0)][-1]
        text = _named(value, defaults) or _shown(value, defaults["unit"])
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=18, color=colour, transform=axes.transAxes)


def _named(value: float, defaults: Mapping[str, Any]) -> str:
    words = [one["options"].get(f"{value:.0f}", {}).get("text", "") for one in defaults.get("mappings", [])]
    return "".join(words)


def _draw_bars(panel: Mapping[str, Any], answers: Answers, axes: Axes) -> None:
    """A bar for each series, the largest first."""
    found = [line for target in panel["targets"] for line in _lines_of(target, answers)]
    found.sort(key=lambda line: line[2][-1])
    values = [line[2][-1] for line in found]
    bars = axes.barh(range(len(found)), values, color=PALETTE[0], height=0.6)
    axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=SMALL)
    axes.set_yticks(range(len(found)), [line[0] for line in found], fontsize=SMALL)
    axes.set_xticks([])
    axes.margins(x=0.2)
    axes.spines[:].set_visible(False)


def _draw_time(panel: Mapping[str, Any], answers: Answers, axes: Axes) -> None:
    """Lines or a stack over the course, with what happened shaded."""
    defaults = panel["fieldConfig"]["defaults"]
    lines = [line for target in panel["targets"] for line in _lines_of(target, answers)]
    seen = lines
    # Of what is chosen one by one, each is to be seen.
    if len(panel["targets"]) == 1:
        lines.sort(key=lambda line: -max(line[2]))
        seen = _visible(lines)
    if not lines:
        axes.text(0.5, 0.5, "No data: no celery-exporter here", ha="center", color=QUIET, transform=axes.transAxes)
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    (_draw_stack if stacked and lines else _draw_lines)(seen, axes)
    _scale(defaults, axes, max((max(values) for _, _, values in lines), default=0.0))
    for letter, event in zip(LETTER, COURSE, strict=False):
        axes.axvspan(event.start, event.end, color=SHADE, linewidth=0, zorder=-1)
        middle = (event.start + event.end) / 2
        place = axes.get_xaxis_transform()
        axes.text(middle, 0.98, letter, fontsize=SMALL, color=QUIET, ha="center", va="top", transform=place)
    _limits(defaults, axes)
    if lines:
        _legend(lines, seen, axes, panel)


def _visible(lines: Sequence[Line]) -> list[Line]:
    """Without those that would be one with the axis, where there are others."""
    largest = max((max(values) for _, _, values in lines), default=0.0)
    return [line for line in lines if max(line[2]) > INVISIBLE * largest] or list(lines[:1])


def _draw_lines(lines: Sequence[Line], axes: Axes) -> None:
    """A gap is a gap, as in the dashboard."""
    for at, (_, seconds, values) in enumerate(lines):
        step = min((after - before for before, after in pairwise(seconds)), default=0.0)
        xs, ys = [seconds[0]], [values[0]]
        for before, after, value in zip(seconds, seconds[1:], values[1:], strict=False):
            if after - before > 1.5 * step:
                xs.append(after)
                ys.append(math.nan)
            xs.append(after)
            ys.append(value)
        axes.plot(xs, ys, color=PALETTE[at % len(PALETTE)], linewidth=1)


def _draw_stack(lines: Sequence[Line], axes: Axes) -> None:
    """The largest at the bottom; a series that is not there is nothing."""
    seconds = sorted({second for _, there, _ in lines for second in there})
    known = [dict(zip(there, values, strict=True)) for _, there, values in lines]
    columns = [[one.get(second, 0.0) for second in seconds] for one in known]
    axes.stackplot(seconds, *columns, colors=PALETTE[: len(columns)], alpha=0.75, linewidth=0)


def _scale(defaults: Mapping[str, Any], axes: Axes, largest: float) -> None:
    unit = defaults["unit"]
    axes.set_xlim(0, SECONDS)
    axes.xaxis.set_major_locator(ticker.MultipleLocator(60))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(_minutes))
    # What is zero throughout is a line at the bottom of something.
    axes.set_ylim(0, defaults.get("max") or (axes.get_ylim()[1] * 1.05 if largest else 1))
    locator = ticker.MultipleLocator(100 * MIB) if unit == "bytes" else ticker.MaxNLocator(4, integer=unit == "short")
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(partial(_tick, unit=unit)))
    axes.tick_params(labelsize=SMALL, color=QUIET)
    axes.grid(visible=True, axis="y", color=SHADE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _minutes(second: float, _: object) -> str:
    return f"{second / 60:.0f} min"


def _tick(value: float, _: object, *, unit: str) -> str:
    return _shown(value, unit)


def _limits(defaults: Mapping[str, Any], axes: Axes) -> None:
    """Dashed where they are in the picture; said where they are above it."""
    steps = [one for one in defaults["thresholds"]["steps"] if one["value"] is not None]
    above = []
    for one in steps:
        if one["value"] <= axes.get_ylim()[1]:
            axes.axhline(one["value"], color=COLOURS[one["color"]], linestyle="--", linewidth=1)
        else:
            above.append(f"{one['color']} from {_shown(one['value'], defaults['unit'])}")
    if above:
        axes.set_title(", ".join(above), fontsize=SMALL - 1, color=QUIET, loc="right")


def _legend(lines: Sequence[Line], seen: Sequence[Line], axes: Axes, panel: Mapping[str, Any]) -> None:
    """The largest, with their largest value."""
    unit, letters = panel["fieldConfig"]["defaults"]["unit"], int(LETTERS * panel["gridPos"]["w"])
    named = seen[:NAMED]
    handles = [Line2D([], [], color=PALETTE[at % len(PALETTE)], linewidth=2) for at in range(len(named))]
    names = [f"{name}: {_shown(max(values), unit)}" for name, _, values in named]
    if rest := len(lines) - len(named):
        handles.append(Line2D([], [], linewidth=0))
        zero = not any(max(values) for _, _, values in lines if values not in [one[2] for one in named])
        names.append(f"and {rest} at zero" if zero else f"and {rest} smaller")
    axes.legend(
        handles, names, fontsize=SMALL, frameon=False, loc="upper left", bbox_to_anchor=(-0.02, -0.12),
        ncols=2 if max(map(len, names)) <= letters else 1, handlelength=1.2, columnspacing=1, borderaxespad=0,
    )  # fmt: skip


def _lines_of(target: Mapping[str, Any], answers: Answers) -> list[Line]:
    """A target's series with their legends, without what is no number."""
    result = []
    for labels, samples in answers[target["expr"]]:
        there = [(at, float(value)) for at, value in samples if math.isfinite(float(value))]
        if there:
            result.append(
                (_named_by(labels, target["legendFormat"]), [at for at, _ in there], [value for _, value in there])
            )
    return result


def _named_by(labels: Mapping[str, str], legend: str) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend).strip()


def _shown(value: float, unit: str) -> str:
    """As a person reads it, in the dashboard's unit."""
    if unit == "s":
        size, name = next((one for one in STEPS if abs(value) >= one[0]), STEPS[-1])
        return f"{_number(value / size)} {name}" if value else "0 s"
    if unit == "percentunit":
        return f"{_number(100 * value)} %"
    if unit == "bytes":
        return f"{value / MIB:.0f} MiB"
    return _number(value) + SUFFIX.get(unit, "")


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    if value == int(value):
        return f"{value:,.0f}"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits else text
