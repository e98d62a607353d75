"""`comment-monitor check`."""

import asyncio
import sys
from pathlib import Path

import click

from comment_monitor.cli.printing import say
from comment_monitor.cli.settings import data_dir_option, load_settings
from comment_monitor.core.config import Settings, require_dsn
from comment_monitor.maintenance.system_gauges import TIMEOUTS_TO_WAIT
from comment_monitor.storage.invariants import InvariantResult
from comment_monitor.storage.invariants import check as check_invariants
from comment_monitor.storage.postgres import SCHEMA_MISSING_ERRORS, UNAVAILABLE_ERRORS, in_words, open_database

# Seconds for one statement; a larger database takes more statements.
TIMEOUT = 600.0


@click.command
@click.option(
    "--oldest",
    type=click.IntRange(0, 10**9),
    help=f"Seconds a batch may wait for its analysis. [default: {TIMEOUTS_TO_WAIT} x COMMENT_PROCESSING_TIMEOUT]",
)
@data_dir_option
def check(oldest: int | None, data_dir: Path) -> None:
    """Prove the data's invariants on the live database, in slices that delay no other work.

    Exit code 0: all hold. 1: the output names the broken invariants, with examples.
    """
    settings = load_settings(data_dir)
    require_dsn(settings, data_dir)
    bound = TIMEOUTS_TO_WAIT * settings.processing_timeout if oldest is None else oldest
    try:
        results = asyncio.run(_check(settings, bound))
    except SCHEMA_MISSING_ERRORS:
        raise click.ClickException("The database has no tables yet: run `comment-monitor migrate`.") from None
    except UNAVAILABLE_ERRORS as error:
        raise click.ClickException(f"The database can't be used: {in_words(error)}.") from None
    for result in results:
        state = "ok    " if not result.violations else "BROKEN"
        say(f"{state} {result.description}")
        if result.violations:
            say(f"       {result.name}: {result.violations}, such as {'; '.join(result.examples)}")
    broken = sum(1 for result in results if result.violations)
    say(f"{len(results) - broken} of {len(results)} hold")
    sys.exit(1 if broken else 0)


async def _check(settings: Settings, oldest: float) -> list[InvariantResult]:
    database = await open_database(settings.postgres_dsn, size=1, timeout=TIMEOUT, application="comment-monitor check")
    try:
        async with database.connection() as conn:
            return await check_invariants(conn, oldest=oldest)
    finally:
        await database.close()
