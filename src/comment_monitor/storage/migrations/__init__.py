"""The schema's history, run by Alembic on psycopg2."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg2
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError as UnknownRevisionError
from sqlalchemy.pool import NullPool

from comment_monitor.core.dsn import psycopg_arguments
from comment_monitor.storage.migrations.version_table import VERSION_TABLE, require_tables

__all__ = ["UnknownRevisionError"]

FOLDER: Final = Path(__file__).parent

# The oldest revision that this code works on. A release works on its own schema and on the one before (expand,
# then contract), because new pods run for a while before the migration does.
OLDEST_USABLE: Final = "008"


def config() -> Config:
    """Alembic's configuration, without an ini file."""
    result = Config()
    result.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return result


def script() -> ScriptDirectory:
    """The revisions on disk."""
    return ScriptDirectory.from_config(config())


def head() -> str:
    """The newest revision."""
    revision = script().get_current_head()
    assert revision is not None  # noqa: S101 - versions/ is part of this package
    return revision


def usable_revisions() -> frozenset[str]:
    """Revisions of the database on which this code works.

    A revision that this code does not know is newer than the code: the release that made it kept it working for
    the release before, so it is usable too. That is for the caller to decide; this is the list of known ones.
    """
    return frozenset(one.revision for one in script().iterate_revisions("head", OLDEST_USABLE, inclusive=True))


def known_revisions() -> frozenset[str]:
    """All revisions on disk."""
    return frozenset(one.revision for one in script().walk_revisions())


@contextmanager
def _connection(dsn: str) -> Iterator[sqlalchemy.Connection]:
    arguments = psycopg_arguments(dsn, application="comment-monitor migrate")
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg2://", creator=lambda: psycopg2.connect(**arguments), poolclass=NullPool
    )
    with engine.connect() as connection:
        yield connection


def upgrade(dsn: str, revision: str = "head") -> None:
    """Brings the database to a revision; concurrent calls wait for one another.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached, or a lock was not to be had in time.
        UnknownRevisionError: no such revision; or the one that is noted can't be that of the tables that are there.
    """
    with _connection(dsn) as connection:
        settings = config()
        settings.attributes["connection"] = connection
        command.upgrade(settings, revision)
        require_tables(connection, _revision(connection))


def downgrade(dsn: str, revision: str) -> None:
    """Takes the database back to a revision (`base`: to nothing), with what the later ones held."""
    with _connection(dsn) as connection:
        settings = config()
        settings.attributes["connection"] = connection
        command.downgrade(settings, revision)


def current(dsn: str) -> str | None:
    """The database's revision; None where no migration has run."""
    with _connection(dsn) as connection:
        return _revision(connection)


def _revision(connection: sqlalchemy.Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
