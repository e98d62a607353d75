"""The table that holds the revision of this program's tables, and its adoption in installations of earlier releases.

Alembic's default name, `alembic_version`, is common to all projects: in a shared database, the revision of another
project would be taken for this program's. See docs/adr/0039.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

from alembic.util import CommandError
from sqlalchemy import Connection, text

VERSION_TABLE: Final = "comment_monitor_version"
# The table of the releases up to revision 010.
LEGACY_TABLE: Final = "alembic_version"
TABLES: Final = ("comments", "comment_versions", "comment_analyses", "analysis_outbox", "installation")


class VersionTableError(CommandError):
    """The recorded revision does not match the existing tables."""


class Legacy(NamedTuple):
    """A table with the legacy name: its quoted schema, and whether it can hold a revision."""

    schema: str
    readable: bool


# Finds a table with the legacy name in a schema that also has tables which only this program creates.
FIND_LEGACY: Final = text(
    """
    SELECT quote_ident(n.nspname), v.relkind = 'r' AND EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = v.oid AND attname = 'version_num' AND NOT attisdropped
    )
    FROM pg_class v JOIN pg_namespace n ON n.oid = v.relnamespace
    WHERE v.oid = to_regclass('alembic_version') AND 3 = (
        SELECT count(*) FROM pg_attribute a JOIN pg_class t ON t.oid = a.attrelid
        WHERE t.relnamespace = v.relnamespace AND t.relkind = 'r' AND (t.relname, a.attname) IN
            (('installation', 'cache_namespace'), ('analysis_outbox', 'comment_ids'), ('comments', 'revision'))
    )
    """
)

# Grants SELECT on the view to all roles that may read the table.
GRANT_AGAIN: Final = """
DO $$
DECLARE granted record;
BEGIN
    FOR granted IN
        SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS role
        FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.oid = '{schema}.comment_monitor_version'::regclass AND a.privilege_type = 'SELECT'
            AND a.grantee <> c.relowner
    LOOP
        EXECUTE 'GRANT SELECT ON {schema}.alembic_version TO ' || granted.role;
    END LOOP;
END
$$
"""


def adopt_legacy_table(connection: Connection, known: Collection[str]) -> None:
    """Renames the version table of earlier releases; creates a view with the old name for the pods of those releases.

    Runs in one transaction, which the caller commits: if it is killed, the table has either the old or the new name. A
    table with the old name that belongs to another project is not changed.

    Args:
        connection: a connection that holds the migration lock.
        known: all revisions of this program.

    Raises:
        VersionTableError: this program's tables exist, but the old table does not hold their revision.
    """
    if connection.scalar(text(f"SELECT to_regclass('{VERSION_TABLE}')")) is not None:
        return
    row = connection.execute(FIND_LEGACY).one_or_none()
    if row is None:
        return
    legacy = Legacy(*row)
    revisions = _revisions(connection, legacy)
    if len(revisions) != 1 or revisions[0] not in known:
        found = ", ".join(ascii(revision) for revision in revisions[:3]) or "no revision"
        raise VersionTableError(
            f"The tables exist, but {LEGACY_TABLE} holds {found}, not the one revision that they have "
            f"({', '.join(sorted(known))}): create a table {VERSION_TABLE} (version_num varchar(32) PRIMARY KEY) "
            "with it"
        )
    schema = legacy.schema
    for statement in (
        f"ALTER TABLE {schema}.{LEGACY_TABLE} RENAME TO {VERSION_TABLE}",
        # A primary key that was created by hand may have another name.
        f"ALTER INDEX IF EXISTS {schema}.{LEGACY_TABLE}_pkc RENAME TO {VERSION_TABLE}_pkc",
        f"CREATE VIEW {schema}.{LEGACY_TABLE} AS TABLE {schema}.{VERSION_TABLE}",
        GRANT_AGAIN.format(schema=schema),
    ):
        connection.exec_driver_sql(statement)


def _revisions(connection: Connection, legacy: Legacy) -> list[object]:
    if not legacy.readable:
        return []
    query = f"SELECT version_num FROM {legacy.schema}.{LEGACY_TABLE} LIMIT 10"  # noqa: S608 - the schema is quoted
    return list(connection.scalars(text(query)))


def require_tables(connection: Connection, revision: str | None) -> None:
    """Checks that the tables of a recorded revision exist.

    Raises:
        VersionTableError: tables are missing; the message names them.
    """
    missing = [name for name in TABLES if connection.scalar(text(f"SELECT to_regclass('{name}')")) is None]
    if revision and missing:
        raise VersionTableError(
            f"{VERSION_TABLE} holds {revision}, but these tables are missing: {', '.join(missing)}. Restore them from "
            f"a backup, or drop {VERSION_TABLE} and the rest of these tables to begin with an empty database"
        )
