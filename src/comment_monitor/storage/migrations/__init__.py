"""The migrations of the schema, run by Alembic on psycopg2."""

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
from comment_monitor.storage.revisions import HEAD

__all__ = ["UnknownRevisionError"]

FOLDER: Final = Path(__file__).parent


def config() -> Config:
    """Returns Alembic's configuration, without an ini file."""
    result = Config()
    result.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return result


def script() -> ScriptDirectory:
    """Returns the revisions on disk."""
    return ScriptDirectory.from_config(config())


def head() -> str:
    """Returns the newest revision."""
    return HEAD


@contextmanager
def _connection(dsn: str) -> Iterator[sqlalchemy.Connection]:
    arguments = psycopg_arguments(dsn, application="comment-monitor migrate")
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg2://", creator=lambda: psycopg2.connect(**arguments), poolclass=NullPool
    )
    with engine.connect() as connection:
        yield connection


def upgrade(dsn: str, revision: str = "head") -> None:
    """Upgrades the database to a revision; concurrent calls wait for one another.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached, or a lock could not be acquired in time.
        UnknownRevisionError: the revision does not exist, or the recorded revision does not match the existing tables.
    """
    with _connection(dsn) as connection:
        settings = config()
        settings.attributes["connection"] = connection
        command.upgrade(settings, revision)
        require_tables(connection, _revision(connection))


def downgrade(dsn: str, revision: str) -> None:
    """Downgrades the database to a revision (`base`: no tables), and deletes the data of the later revisions."""
    with _connection(dsn) as connection:
        settings = config()
        settings.attributes["connection"] = connection
        command.downgrade(settings, revision)


def current(dsn: str) -> str | None:
    """Returns the database's revision; None where no migration has run."""
    with _connection(dsn) as connection:
        return _revision(connection)


def _revision(connection: sqlalchemy.Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
