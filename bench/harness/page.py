"""Writes docs/performance.md: tables and pictures between marks, from each script's last run, which is kept as JSON."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import psutil

from bench.harness.claim import HEADINGS, MICROSECONDS, SHARE, Row, table
from bench.harness.plots import draw_floors, draw_parts
from bench.harness.system import System

PAGE: Final = Path(__file__).parents[2] / "docs" / "performance.md"
DATA: Final = PAGE.with_suffix(".json")
IMAGES: Final = PAGE.parent / "images"
BEGIN: Final = "<!-- written by `make bench` -->"
END: Final = "<!-- end of what `make bench` writes -->"
TIME_BEGIN: Final = "<!-- where the time goes, written by `make bench` -->"
TIME_END: Final = "<!-- end of where the time goes -->"
GIB: Final = 1024**3


class Run(msgspec.Struct, frozen=True):
    """A script's rows with every round; `where` holds the day, the commit and the machine."""

    where: str
    rows: list[Row]


def keep(name: str, rows: list[Row], where: str) -> None:
    """Replaces the rows of a script's last run."""
    kept = {**runs(), name: Run(where, rows)}
    DATA.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")


def runs() -> dict[str, Run]:
    """Returns the last run of each script."""
    return msgspec.json.decode(DATA.read_bytes(), type=dict[str, Run]) if DATA.exists() else {}


def write(names: Sequence[str]) -> None:
    """Draws the pictures and writes the tables into the page, for the named scripts in that order."""
    kept = runs()
    last = {name: kept[name] for name in names if name in kept}
    # Drops the rows of scripts that no longer exist.
    DATA.write_bytes(msgspec.json.format(msgspec.json.encode(last), indent=1) + b"\n")
    rows = [row for run in last.values() for row in run.rows]
    held = [row for row in rows if row.beside or row.floor]
    parts = [row for row in rows if row.unit in (MICROSECONDS, SHARE) and row not in held]
    others = [row for row in rows if row not in held and row not in parts]
    draw_floors(held, IMAGES / "floors.svg")
    for name, unit in (("processors", MICROSECONDS), ("profile", SHARE)):
        draw_parts([row for row in parts if row.unit == unit], unit, IMAGES / f"{name}.svg")
    part = "\n\n".join(
        (
            BEGIN,
            _measured(last),
            "![How far each value is above its floor](images/floors.svg)",
            _markdown(HEADINGS, table(held)),
            "For scale, without a floor:",
            _markdown(("work", "ours"), [line[:2] for line in table(others)]),
            END,
        )
    )
    where = "\n\n".join(
        (
            TIME_BEGIN,
            "![Microseconds of a processor that a comment costs, by program](images/processors.svg)",
            "![Within the processes, by part](images/profile.svg)",
            _markdown(("time", "of it"), [line[:2] for line in table(parts)]),
            TIME_END,
        )
    )
    page = PAGE.read_text()
    for begin, end, text in ((BEGIN, END, part), (TIME_BEGIN, TIME_END, where)):
        before, _, rest = page.partition(begin)
        page = before + text + rest.partition(end)[2]
    PAGE.write_text(page)


def _markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *lines))


def _measured(last: dict[str, Run]) -> str:
    """Returns one line for all scripts, or a line for the scripts of each run."""
    places = dict.fromkeys(run.where for run in last.values())
    if len(places) == 1:
        return f"{next(iter(places))}."
    return "\n".join(
        f"- {', '.join(f'`{name}`' for name, run in last.items() if run.where == where)}: {where}." for where in places
    )


def machine(system: System) -> str:
    """Returns the day, commit, machine and servers of a run."""
    [[postgres]] = system.execute("SHOW server_version")
    versions = f"PostgreSQL {postgres}, {system.broker}, Python {platform.python_version()}"
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    # Files that the benchmark itself writes do not change the program.
    changed = "-dirty" if _git("status", "--porcelain", "--", ".", ":!docs") else ""
    memory = psutil.virtual_memory().total / GIB
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}{changed}: {os.cpu_count()} processors ({_processor()}), "
        f"{memory:.0f} GiB, {versions}; medians, the load generator on the same machine"
    )


def _git(*arguments: str) -> str:
    """Returns git's output, which is empty outside a clone."""
    done = subprocess.run(["git", *arguments], cwd=PAGE.parents[1], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", information.read_text() if information.exists() else "")
    return found[1] if found else platform.machine()
