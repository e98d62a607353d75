"""`comment-monitor migrate`."""

from pathlib import Path

import click
import psycopg2
import sqlalchemy.exc

from comment_monitor.cli.printing import say
from comment_monitor.cli.settings import data_dir_option, load_settings
from comment_monitor.core.config import require_dsn
from comment_monitor.storage import migrations


@click.command
@click.argument("revision", default="head")
@click.option("--down", is_flag=True, help="Go back to REVISION (`base`: to an empty database). Data is lost.")
@data_dir_option
def migrate(revision: str, down: bool, data_dir: Path) -> None:
    """Bring the database to REVISION (default: this version's newest).

    Concurrent migrations wait for one another. Runs beside live traffic: if a lock is not available within 4 seconds,
    the command ends with exit code 1 and changes nothing; run it again.
    """
    settings = load_settings(data_dir)
    require_dsn(settings, data_dir)
    try:
        (migrations.downgrade if down else migrations.upgrade)(settings.postgres_dsn, revision)
    except (psycopg2.Error, sqlalchemy.exc.DBAPIError) as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise click.ClickException(f"Not migrated: {reason}") from None
    except migrations.UnknownRevisionError as error:
        raise click.ClickException(f"Not migrated: {error}") from None
    say(f"The database is at revision {migrations.current(settings.postgres_dsn) or 'base (empty)'}.")
