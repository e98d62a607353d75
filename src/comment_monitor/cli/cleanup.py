"""`comment-monitor cleanup`."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from comment_monitor.cli.printing import say
from comment_monitor.cli.progress import Progress
from comment_monitor.cli.settings import data_dir_option, load_settings
from comment_monitor.core.config import Settings, require_dsn
from comment_monitor.storage import retention
from comment_monitor.storage.postgres import (
    CONFLICT_ERRORS,
    SCHEMA_MISSING_ERRORS,
    UNAVAILABLE_ERRORS,
    in_words,
    open_database,
)

# Seconds for one statement: an index over a large table takes long, but blocks nothing.
TIMEOUT = 6 * 3600.0


@click.command
@click.option("--days", type=click.IntRange(1, 36_500), help="Keep this many days. [default: COMMENT_RETENTION_DAYS]")
@click.option("--yes", is_flag=True, help="Remove them. Without it: a dry run, which prints what would be removed.")
@data_dir_option
def cleanup(days: int | None, yes: bool, data_dir: Path) -> None:
    """Remove comments stored longer ago than COMMENT_RETENTION_DAYS, and renew the index of recent comments.

    A dry run unless --yes is given. Works in small transactions beside live traffic; if it is cut short, run it again.
    """
    settings = load_settings(data_dir)
    require_dsn(settings, data_dir)
    before = datetime.now(UTC) - timedelta(days=days or settings.retention_days)
    try:
        asyncio.run(_cleanup(settings, before, act=yes))
    except SCHEMA_MISSING_ERRORS:
        raise click.ClickException("The database has no tables yet: run `comment-monitor migrate`.") from None
    except (*UNAVAILABLE_ERRORS, *CONFLICT_ERRORS) as error:
        raise click.ClickException(f"Cut short by the database: {in_words(error)}. Run it again.") from None


async def _cleanup(settings: Settings, before: datetime, *, act: bool) -> None:
    database = await open_database(
        settings.postgres_dsn, size=1, timeout=TIMEOUT, application="comment-monitor cleanup"
    )
    try:
        old = await retention.count_old(database, before)
        day = before.date()
        if not act:
            say(f"{old.amount} comments stored before {day} would be removed (dry run; --yes removes them)")
            return
        removed = 0
        with Progress(old.amount, "removing") as progress:
            async for amount in retention.delete_old(database, before):
                removed += amount
                progress.at(removed, removed)
        say(f"{removed} comments stored before {day} removed")
        name, replaced = await retention.roll_recent_index(database)
        say(f"index of recent comments: {name}" + (f", in place of {', '.join(replaced)}" if replaced else ""))
    finally:
        await database.close()
