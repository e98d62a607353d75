"""Measures all claims in turn on the same servers, prints a table and writes docs/performance.md.

Some scripts run only if named: `--only soak` takes ten minutes, `--only overload` three and a half per round,
`--only profile` shows where the service's processes spend their time, `--only loops` and `--only staging` compare
rejected alternatives with the current code, `--only servers` compares uvicorn with granian, `--only tracing` measures
the cost of traces.
"""

import click

from bench import (
    analysed,
    batch_size,
    cache,
    duplicates,
    footprint,
    growth,
    ingest_file,
    latency,
    loops,
    outbox,
    overload,
    processors,
    profile,
    requests_of_25,
    requests_of_1000,
    servers,
    soak,
    staging,
    start,
    tracing,
)
from bench.harness import page
from bench.harness.claim import ROUNDS, Row
from bench.harness.run import end, perform, show
from bench.harness.system import running

SCRIPTS = (
    start, requests_of_1000, requests_of_25, processors, duplicates, cache, latency, analysed, batch_size, footprint,
    ingest_file, growth, outbox,
)  # fmt: skip
NAMED_ONLY = (soak, overload, profile, loops, servers, staging, tracing)
ALL = {script.__name__.rpartition(".")[2]: script for script in (*SCRIPTS, *NAMED_ONLY)}


@click.command(help=__doc__)
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1), help="Alternating rounds.")
@click.option(
    "--check",
    is_flag=True,
    help="Exit with 1 if a value misses its floor, and misses it again when its script is repeated. Writes no page.",
)
@click.option("--only", multiple=True, type=click.Choice(list(ALL)), help="Run only this script. May be repeated.")
def main(rounds: int, check: bool, only: tuple[str, ...]) -> None:
    """Runs the command line."""
    rows: list[Row] = []
    writes = not check and rounds >= ROUNDS
    with running() as system:
        where = page.machine(system)
        for name, script in ALL.items():
            if name in only or (not only and script in SCRIPTS):
                found = perform(script.measure, system, rounds)
                # A shared machine may be slow for a while.
                if check and not all(row.holds for row in found):
                    end(found, check=False)
                    found = perform(script.measure, system, rounds)
                rows += found
                if writes:
                    page.keep(name, found, where)
    show(rows)
    if writes:
        page.write(list(ALL))
    elif not check:
        click.echo(f"The page is not written: it shows the medians of at least {ROUNDS} rounds.", err=True)
    end(rows, check=check)


main()
