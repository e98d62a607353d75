"""Runs one script's measurement, or all of them on the same servers, and prints the table."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench.harness.claim import HEADINGS, ROUNDS, Measure, Row, Tools, table
from bench.harness.system import System, running


def show(rows: Sequence[Row]) -> None:
    """Prints the table."""
    shown = Table(*HEADINGS, title="medians of alternating rounds", title_justify="left")
    for line in table(rows):
        shown.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 160).print(shown)


def perform(measure: Measure, system: System, rounds: int) -> list[Row]:
    """Runs a measurement and prints its progress."""
    # The file's name, because the module of a script that is run alone is called __main__.
    name = Path(sys.modules[measure.__module__].__file__ or "").stem
    started = time.monotonic()

    def say(progress: str) -> None:
        click.echo(f"{time.monotonic() - started:6.1f} s  {name}: {progress}", err=True)

    return measure(Tools(system, rounds, say))


def end(rows: Sequence[Row], *, check: bool) -> None:
    """Prints the rows that miss their floor; with `check` exits with 1 if there are any."""
    below = [row.work for row in rows if not row.holds]
    for work in below:
        click.echo(f"Does not hold: {work}", err=True)
    if check and below:
        sys.exit(1)


def alone(measure: Measure) -> None:
    """Runs the command line of a script that is run alone."""

    @click.command(help=sys.modules[measure.__module__].__doc__)
    @click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1), help="Alternating rounds.")
    @click.option("--check", is_flag=True, help="Exit with 1 if a value misses its floor.")
    def command(rounds: int, check: bool) -> None:
        with running() as system:
            rows = perform(measure, system, rounds)
        show(rows)
        end(rows, check=check)

    command()
