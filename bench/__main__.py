"""All claims, one after the other on the same servers: one table, and docs/performance.md with it.

Some run only where they are named: `--only soak` takes ten minutes, `--only overload` three and a half a round,
`--only profile` says where the time goes within our processes, `--only loops` and `--only staging` hold what was tried
beside what is there, `--only servers` uvicorn beside granian, `--only tracing` says what traces cost.
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
ALL = {one.__name__.rpartition(".")[2]: one for one in (*SCRIPTS, *NAMED_ONLY)}


@click.command(help=__doc__)
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1), help="Alternating rounds.")
@click.option(
    "--check",
    is_flag=True,
    help="Exit code 1 where a value falls below its floor, also when its script runs once more. Writes no page.",
)
@click.option("--only", multiple=True, type=click.Choice(list(ALL)), help="This script only. May be repeated.")
def main(rounds: int, check: bool, only: tuple[str, ...]) -> None:
    """See above."""
    rows: list[Row] = []
    writes = not check and rounds >= ROUNDS
    with running() as system:
        where = page.machine(system)
        for name, script in ALL.items():
            if name in only or (not only and script in SCRIPTS):
                found = perform(script.measure, system, rounds)
                # A machine that others use too may be slow for a while.
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
        click.echo(f"The page stays as it is: it has the medians of at least {ROUNDS} rounds.", err=True)
    end(rows, check=check)


main()
