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

from bench.harness.claim import HEADINGS, Row, table
from bench.harness.system import System

PAGE: Final = Path(__file__).parents[2] / "docs" / "performance.md"
BEGIN: Final = "<!-- written by `make bench` -->"
END: Final = "<!-- end of what `make bench` writes -->"
GIB: Final = 1024**3


def versions(system: System) -> str:
    """What it was measured with."""
    [[postgres]] = system.execute("SHOW server_version")
    return f"PostgreSQL {postgres}, {system.broker}, Python {platform.python_version()}"


def write(rows: Sequence[Row], versions: str, rounds: int) -> None:
    """Puts the table in its place."""
    lines = [list(HEADINGS), ["---"] * len(HEADINGS), *table(rows)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    part = f"{BEGIN}\n\n{_machine(versions, rounds)}\n\n{text}\n\n{END}"
    page = PAGE.read_text()
    PAGE.write_text(re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: part, page, flags=re.DOTALL))


def _machine(versions: str, rounds: int) -> str:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=PAGE.parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    memory = psutil.virtual_memory().total / GIB
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit or 'unknown'}: {os.cpu_count()} processors ({_processor()}), "
        f"{memory:.0f} GiB, {versions}; medians of {rounds} rounds, the load generator on the same machine."
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", information.read_text() if information.exists() else "")
    return found[1] if found else platform.machine()
