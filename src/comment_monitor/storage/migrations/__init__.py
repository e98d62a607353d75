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

__all__ = ["UnknownRevisionError"]

FOLDER: Final = Path(__file__).parent

# The oldest revision that this code works on. A release works on its own schema and on that of the release before
# (expand, then contract), because new pods run for a while before the migration does.
OLDEST_USABLE: Final = "008"


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
    revision = script().get_current_head()
    assert revision is not None  # noqa: S101 - versions/ is part of this package
    return revision


def usable_revisions() -> frozenset[str]:
    """Returns the known revisions of the database on which this code works.

    An unknown revision is newer than the code. It is usable too, because each release keeps its schema usable for the
    release before; the caller decides that.
    """
    return frozenset(step.revision for step in script().iterate_revisions("head", OLDEST_USABLE, inclusive=True))


def known_revisions() -> frozenset[str]:
    """Returns all revisions on disk."""
    return frozenset(step.revision for step in script().walk_revisions())


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
