"""docs/performance.md: the table of a run between two marks; what stands around it is written by hand."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil

from bench.harness.claim import HEADINGS, MICROSECONDS, Row, table
from bench.harness.plots import draw_floors, draw_processors
from bench.harness.system import System

PAGE: Final = Path(__file__).parents[2] / "docs" / "performance.md"
IMAGES: Final = PAGE.parent / "images"
BEGIN: Final = "<!-- written by `make bench` -->"
END: Final = "<!-- end of what `make bench` writes -->"
GIB: Final = 1024**3


def versions(system: System) -> str:
    """What it was measured with."""
    [[postgres]] = system.execute("SHOW server_version")
    return f"PostgreSQL {postgres}, {system.broker}, Python {platform.python_version()}"


def write(rows: Sequence[Row], versions: str) -> None:
    """Draws the pictures, and puts them and the tables in their place."""
    held = [row for row in rows if row.beside or row.floor]
    others = [row for row in rows if not (row.beside or row.floor)]
    draw_floors(held, IMAGES / "floors.svg")
    draw_processors([row for row in rows if row.unit == MICROSECONDS], IMAGES / "processors.svg")
    part = "\n\n".join(
        (
            BEGIN,
            _machine(versions),
            "![How far each value is above its floor](images/floors.svg)",
            _markdown(HEADINGS, table(held)),
            "For scale, without a floor:",
            _markdown(("work", "ours"), [line[:2] for line in table(others)]),
            "![Microseconds of a processor that a comment costs, by program](images/processors.svg)",
            END,
        )
    )
    page = PAGE.read_text()
    PAGE.write_text(re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: part, page, flags=re.DOTALL))


def _markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *lines))


def _machine(versions: str) -> str:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=PAGE.parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    memory = psutil.virtual_memory().total / GIB
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit or 'unknown'}: {os.cpu_count()} processors ({_processor()}), "
        f"{memory:.0f} GiB, {versions}; medians, the load generator on the same machine."
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", information.read_text() if information.exists() else "")
    return found[1] if found else platform.machine()
