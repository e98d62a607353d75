"""The version tables of this program, of its earlier releases and of other projects."""

import asyncio
import re

import httpx
import psycopg2
import psycopg2.extensions
import pytest
import sqlalchemy
from alembic.runtime.migration import MigrationContext
from sqlalchemy.pool import NullPool
from tests.conftest import MakeSettings, execute, metric, open_client, until
from tests.integration.storage.test_migrations import migrate, migrator
from tests.support.database import blocked, holding, violated_invariants
from tests.support.intake import lifecycle, outcome_counts, process
from tests.support.requests import comment

from comment_monitor.storage import migrations
from comment_monitor.storage.migrations.version_table import TABLES, VersionTableError

OLD_TABLE = "CREATE TABLE alembic_version (version_num varchar(32) CONSTRAINT alembic_version_pkc PRIMARY KEY)"
KIND = "SELECT relname::text, relkind::text FROM pg_class WHERE relname ~ '_version$' ORDER BY 1"
OURS_ALONE = [("comment_monitor_version", "r")]
AFTER_AN_UPGRADE = [("alembic_version", "v"), ("comment_monitor_version", "r")]


def make_old_installation(dsn: str, revision: str = "010") -> None:
    """Creates an installation of an earlier release, with its revision in Alembic's own table."""
    migrations.upgrade(dsn, revision)
    execute(dsn, "ALTER TABLE comment_monitor_version RENAME TO alembic_version")
    execute(dsn, "ALTER INDEX comment_monitor_version_pkc RENAME TO alembic_version_pkc")


def read_as_the_release_before(dsn: str) -> str | None:
    """Reads the revision as the previous release does: by Alembic with its default table name."""
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg2://", creator=lambda: psycopg2.connect(dsn), poolclass=NullPool
    )
    with engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    assert execute(dsn, "SELECT version_num FROM alembic_version") == ([(revision,)] if revision else [])
    return revision


FOREIGN = {
    "first-revision": (OLD_TABLE, "INSERT INTO alembic_version VALUES ('008')"),
    "head-revision": (OLD_TABLE, f"INSERT INTO alembic_version VALUES ('{migrations.head()}')"),  # noqa: S608
    "earlier-number": (OLD_TABLE, "INSERT INTO alembic_version VALUES ('007')"),
    "hash": (OLD_TABLE, "INSERT INTO alembic_version VALUES ('ab12cd34ef56')"),
    "terminal-escapes": (OLD_TABLE, "INSERT INTO alembic_version VALUES (E'\\x1b[31m')"),
    "two-branches": (OLD_TABLE, "INSERT INTO alembic_version VALUES ('008'), ('009')"),
    "empty-table": (OLD_TABLE,),
    "other-columns": ("CREATE TABLE alembic_version (id int, name text)",),
    "integer-column": ("CREATE TABLE alembic_version (version_num int)", "INSERT INTO alembic_version VALUES (8)"),
    "view": ("CREATE VIEW alembic_version AS SELECT '008'::varchar AS version_num",),
    "sequence": ("CREATE SEQUENCE alembic_version",),
    "whole-installation": (OLD_TABLE, "INSERT INTO alembic_version VALUES ('008')",
        "CREATE TABLE other_comments (id int)", "CREATE SCHEMA installation"),
}  # fmt: skip


@pytest.mark.parametrize("statements", FOREIGN.values(), ids=FOREIGN)
async def test_another_projects_version_table_is_ignored_and_unchanged(
    statements: tuple[str, ...], empty_dsn: str, make_settings: MakeSettings
) -> None:
    for statement in statements:
        execute(empty_dsn, statement)
    before = execute(empty_dsn, "SELECT * FROM alembic_version")
    async with open_client(make_settings(POSTGRES_DSN=empty_dsn)) as client:
        checks = (await client.get("/health")).json()["checks"]
        assert checks["database"] == "The database has no tables yet: run `comment-monitor migrate`."
        assert checks["schema"] == "unknown"
        assert await migrate(empty_dsn) == (0, f"The database is at revision {migrations.head()}.\n", "")
        await until(lambda: metric("comment_schema_usable") == 1)
        assert outcome_counts(await process(client, comment(1))) == (1, 0, 0, 0)
    assert execute(empty_dsn, "SELECT * FROM alembic_version") == before
    assert (await migrate(empty_dsn, "--down", "base"))[0] == 0
    assert execute(empty_dsn, "SELECT * FROM alembic_version") == before


async def test_another_projects_version_table_need_not_be_readable(empty_dsn: str, make_settings: MakeSettings) -> None:
    name = f"user_of_{psycopg2.extensions.parse_dsn(empty_dsn)['dbname']}"
    execute(empty_dsn, f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    try:
        execute(empty_dsn, OLD_TABLE)
        execute(empty_dsn, f"GRANT CREATE, USAGE ON SCHEMA public TO {name}")
        own = psycopg2.extensions.make_dsn(empty_dsn, user=name, password="secret")  # noqa: S106
        async with open_client(make_settings(POSTGRES_DSN=own)) as client:
            assert "no tables yet" in (await client.get("/health")).json()["checks"]["database"]
            assert (await migrate(own))[0] == 0
            await until(lambda: metric("comment_schema_usable") == 1)
    finally:
        execute(empty_dsn, f"DROP OWNED BY {name} CASCADE")
        execute(empty_dsn, f"DROP ROLE {name}")


async def test_another_projects_comments_table_ends_the_migration_with_an_error(empty_dsn: str) -> None:
    for statement in (OLD_TABLE, "INSERT INTO alembic_version VALUES ('008')", "CREATE TABLE comments (id int)"):
        execute(empty_dsn, statement)
    code, out, error = await migrate(empty_dsn)
    assert (code, out) == (1, "")
    assert error == 'Error: Not migrated: relation "comments" already exists\n'


def test_a_new_installation_has_only_its_own_version_table(dsn: str) -> None:
    assert execute(dsn, KIND) == OURS_ALONE


@pytest.mark.parametrize("revision", ["008", "009", "010"])
async def test_an_installation_of_an_earlier_release_keeps_working(
    revision: str, empty_dsn: str, make_settings: MakeSettings
) -> None:
    make_old_installation(empty_dsn, revision)
    settings = make_settings(POSTGRES_DSN=empty_dsn)
    async with open_client(settings) as client:
        checks = (await client.get("/health")).json()["checks"]
        assert checks["database"] == "ok"
        assert checks["schema"].startswith(revision)
        assert outcome_counts(await process(client, comment(1))) == (1, 0, 0, 0)
        await asyncio.to_thread(migrations.upgrade, empty_dsn)
        await until(lambda: service_revision(client) == migrations.head())
        assert outcome_counts(await process(client, comment(1), comment(2))) == (1, 0, 1, 0)
    assert execute(empty_dsn, KIND) == AFTER_AN_UPGRADE
    assert read_as_the_release_before(empty_dsn) == migrations.current(empty_dsn) == migrations.head()
    assert await violated_invariants(settings) == []


def service_revision(client: httpx.AsyncClient) -> str | None:
    return lifecycle(client).runtime.schema.revision


def test_the_previous_release_finds_the_revision_after_a_downgrade(empty_dsn: str) -> None:
    """A downgrade is for the pods and the `migrate` of the previous release, which know the old name."""
    make_old_installation(empty_dsn)
    migrations.upgrade(empty_dsn)
    migrations.downgrade(empty_dsn, "009")
    assert read_as_the_release_before(empty_dsn) == "009"
    # Migrations of the previous release write through the view.
    execute(empty_dsn, "UPDATE alembic_version SET version_num = '008' WHERE version_num = '009'")
    assert migrations.current(empty_dsn) == "008"
    execute(empty_dsn, "UPDATE alembic_version SET version_num = '009' WHERE version_num = '008'")
    migrations.upgrade(empty_dsn)
    migrations.downgrade(empty_dsn, "base")
    assert read_as_the_release_before(empty_dsn) is None
    migrations.upgrade(empty_dsn)
    assert read_as_the_release_before(empty_dsn) == migrations.head()


def test_readers_of_the_old_table_can_read_the_view_and_the_new_table(empty_dsn: str) -> None:
    make_old_installation(empty_dsn)
    name = f"reader of {psycopg2.extensions.parse_dsn(empty_dsn)['dbname']}"
    execute(empty_dsn, f'CREATE ROLE "{name}"')
    try:
        execute(empty_dsn, f'GRANT SELECT ON alembic_version TO "{name}"')
        migrations.upgrade(empty_dsn)
        for table in ("alembic_version", "comment_monitor_version"):
            assert execute(empty_dsn, f"SELECT has_table_privilege('{name}', '{table}', 'SELECT')") == [(True,)]
    finally:
        execute(empty_dsn, f'DROP OWNED BY "{name}"')
        execute(empty_dsn, f'DROP ROLE "{name}"')


KILLED_AT = {
    # A reader of the table blocks its renaming.
    "renaming": "LOCK TABLE alembic_version IN ACCESS SHARE MODE",
    # The rule of the view is the last row written.
    "commit": "LOCK TABLE pg_rewrite IN EXCLUSIVE MODE",
}


@pytest.mark.parametrize("statement", KILLED_AT.values(), ids=KILLED_AT)
async def test_a_killed_renaming_is_rolled_back_and_the_next_migration_renames(statement: str, empty_dsn: str) -> None:
    make_old_installation(empty_dsn)
    with holding(empty_dsn, statement):
        process = migrator(empty_dsn)
        await until(lambda: blocked(empty_dsn))
        process.kill()
        await process.ended()
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        execute(empty_dsn, others)
    assert execute(empty_dsn, KIND) == [("alembic_version", "r")]
    assert (await migrate(empty_dsn))[0] == 0
    assert execute(empty_dsn, KIND) == AFTER_AN_UPGRADE
    assert migrations.current(empty_dsn) == migrations.head()


async def test_a_reader_of_the_old_table_ends_the_migration_without_a_change(empty_dsn: str) -> None:
    make_old_installation(empty_dsn)
    with holding(empty_dsn, "SELECT * FROM alembic_version"):
        code, out, error = await migrate(empty_dsn)
    assert (code, out, error) == (1, "", "Error: Not migrated: canceling statement due to lock timeout\n")
    assert execute(empty_dsn, KIND) == [("alembic_version", "r")]


@pytest.mark.parametrize(
    "rows", ["", "('ab12cd34ef56')", "('008'), ('009')", "(E'\\x1b[31m')"], ids=["empty", "foreign", "two", "escapes"]
)
async def test_an_unusable_revision_in_the_old_table_ends_the_migration(rows: str, empty_dsn: str) -> None:
    make_old_installation(empty_dsn)
    execute(empty_dsn, "DELETE FROM alembic_version")
    if rows:
        execute(empty_dsn, f"INSERT INTO alembic_version VALUES {rows}")  # noqa: S608
    code, out, error = await migrate(empty_dsn)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"Error: Not migrated: The tables exist, but alembic_version holds [ -~]+\n", error)
    assert execute(empty_dsn, KIND) == [("alembic_version", "r")]


@pytest.mark.parametrize("table", TABLES)
async def test_a_revision_without_its_tables_is_an_error(table: str, dsn: str) -> None:
    execute(dsn, f"DROP TABLE {table} CASCADE")
    code, out, error = await migrate(dsn)
    assert (code, out) == (1, "")
    assert f"these tables are missing: {table}." in error
    with pytest.raises(VersionTableError, match=table):
        migrations.upgrade(dsn)


def test_a_version_table_in_another_schema_is_not_renamed(empty_dsn: str) -> None:
    """Another project uses `public`, and this program its own schema through `search_path`."""
    execute(empty_dsn, OLD_TABLE)
    execute(empty_dsn, "INSERT INTO alembic_version VALUES ('008')")
    execute(empty_dsn, "CREATE SCHEMA ours")
    own = psycopg2.extensions.make_dsn(empty_dsn, options="-c search_path=ours,public")
    migrations.upgrade(own)
    rows = execute(
        own, "SELECT relnamespace::regnamespace::text, relname::text FROM pg_class WHERE relname ~ '_version$'"
    )
    assert sorted(rows) == [("ours", "comment_monitor_version"), ("public", "alembic_version")]
