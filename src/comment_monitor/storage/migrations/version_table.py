"""The table that names the revision of this program's tables, and how installations of the releases before get it.

Alembic's own name for it, `alembic_version`, is every project's: in a database that another project uses too, its
revision would pass for ours. See docs/adr/0039.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

from alembic.util import CommandError
from sqlalchemy import Connection, text

VERSION_TABLE: Final = "comment_monitor_version"
# Where releases up to revision 010 kept it.
LEGACY_TABLE: Final = "alembic_version"
TABLES: Final = ("comments", "comment_versions", "comment_analyses", "analysis_outbox", "installation")


class VersionTableError(CommandError):
    """The revision that is noted can't be that of the tables that are there."""


class Legacy(NamedTuple):
    """A table of the legacy name: its schema, quoted, and whether it can hold a revision."""

    schema: str
    readable: bool


# A table of that name, where tables that only this program has stand in the same schema.
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

# Who may read the table may read the view.
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
    """Renames the version table of the releases before; leaves a view under the old name to their pods.

    Runs in one transaction, which the caller commits: killed anywhere, the table has either name. A table of the old
    name that another project made is left alone.

    Args:
        connection: a connection that holds the migration lock.
        known: all revisions of this program.

    Raises:
        VersionTableError: this program's tables are there, and the old table does not tell their revision.
    """
    if connection.scalar(text(f"SELECT to_regclass('{VERSION_TABLE}')")) is not None:
        return
    row = connection.execute(FIND_LEGACY).one_or_none()
    if row is None:
        return
    legacy = Legacy(*row)
    revisions = _revisions(connection, legacy)
    if len(revisions) != 1 or revisions[0] not in known:
        said = ", ".join(ascii(one) for one in revisions[:3]) or "no revision"
        raise VersionTableError(
            f"The tables are there, but {LEGACY_TABLE} holds {said}, not the one revision that they are at "
            f"({', '.join(sorted(known))}): create a table {VERSION_TABLE} (version_num varchar(32) PRIMARY KEY) "
            "with it"
        )
    schema = legacy.schema
    for statement in (
        f"ALTER TABLE {schema}.{LEGACY_TABLE} RENAME TO {VERSION_TABLE}",
        # Primary keys made by hand may have another name.
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
    """Raises where a revision is noted whose tables are not there.

    Raises:
        VersionTableError: it names the missing tables.
    """
    missing = [name for name in TABLES if connection.scalar(text(f"SELECT to_regclass('{name}')")) is None]
    if revision and missing:
        raise VersionTableError(
            f"{VERSION_TABLE} holds {revision}, but these tables are missing: {', '.join(missing)}. Restore them from "
            f"a backup, or drop {VERSION_TABLE} and what is left of them to begin with an empty database"
        )
