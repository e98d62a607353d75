"""The migrations on real databases: upgrade, downgrade, concurrent migrators, locks and lost connections."""

import os
import re
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from tests.conftest import execute, until
from tests.support import forked
from tests.support.database import blocked, holding, terminate_blocked

from comment_monitor.devserver.postgres_process import _binary
from comment_monitor.storage import migrations, revisions

# The advisory lock of every migrator; later releases must use the same lock.
MIGRATION_LOCK = int.from_bytes(b"comment")
# An uncommitted table that the migration also creates: the migration waits for it.
CONFLICTING_TABLE = "CREATE TABLE comment_analyses (id int)"
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1"
OURS = [
    "analysis_outbox", "comment_analyses", "comment_monitor_version", "comment_versions", "comments", "installation",
    "invariant_checks", "unannounced_edits",
]  # fmt: skip


def tables(dsn: str) -> list[str]:
    return [name for (name,) in execute(dsn, TABLES)]


def schema(dsn: str) -> str:
    """Returns the schema as pg_dump writes it, without its random restrict keys."""
    command = [str(_binary("pg_dump")), "--schema-only", "--no-owner", dsn]
    dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.sub(r"(?m)^\\(un)?restrict .*$", "", dump)


def migrator(dsn: str, *arguments: str) -> forked.Popen:
    return forked.Popen(
        [sys.executable, "-m", "comment_monitor", "migrate", *arguments],
        env={**os.environ, "POSTGRES_DSN": dsn},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


async def migrate(dsn: str, *arguments: str) -> tuple[int | None, str, str]:
    """Returns exit code, output and error output of the command."""
    process = migrator(dsn, *arguments)
    out, error = await process.ended()
    return process.returncode, out.decode(), error.decode()


def test_revisions_form_a_linear_history_ordered_by_name() -> None:
    history = [step.revision for step in migrations.script().walk_revisions()]
    assert tuple(reversed(history)) == revisions.KNOWN
    assert migrations.script().get_heads() == [migrations.head()]


def test_the_first_revision_is_named_as_in_the_deployment_guide() -> None:
    first = migrations.script().get_revision("008")
    assert first.down_revision is None
    assert Path(first.path).name == "008_add_comment_monitoring_tables.py"


def test_downgrade_and_upgrade_restore_the_same_schema(empty_dsn: str) -> None:
    empty = schema(empty_dsn)
    migrations.upgrade(empty_dsn)
    before = schema(empty_dsn)
    assert tables(empty_dsn) == OURS
    migrations.downgrade(empty_dsn, "base")
    execute(empty_dsn, "DROP TABLE comment_monitor_version")
    assert schema(empty_dsn) == empty
    migrations.upgrade(empty_dsn)
    assert schema(empty_dsn) == before


def test_a_repeated_migration_changes_nothing(dsn: str) -> None:
    before, installation = schema(dsn), execute(dsn, "SELECT * FROM installation")
    migrations.upgrade(dsn)
    assert (schema(dsn), execute(dsn, "SELECT * FROM installation")) == (before, installation)


@pytest.mark.parametrize(
    "definition",
    [
        r"UNIQUE INDEX \w+ ON public.comments USING btree \(source, comment_id\)",
        r"INDEX \w+ ON public.comments USING btree \(post_id, occurred_at DESC, id DESC\)",
        r"INDEX \w+ ON public.comments USING btree \(author, occurred_at DESC, id DESC\)",
        r"INDEX \w+ ON public.comments USING btree \(occurred_at DESC, id DESC\)",
        r"INDEX \w+ ON public.analysis_outbox USING btree \(due_at\)",
    ],
    ids=["identity", "post", "author", "time", "due"],
)
def test_the_index_exists(dsn: str, definition: str) -> None:
    rows = execute(dsn, "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'")
    assert [row for (row,) in rows if re.fullmatch(f"CREATE {definition}", row)]


def test_the_index_of_recent_comments_covers_seven_days(empty_dsn: str) -> None:
    days = {datetime.now(UTC).date()}
    migrations.upgrade(empty_dsn)
    days.add(datetime.now(UTC).date())
    ((found,),) = execute(empty_dsn, "SELECT indexdef FROM pg_indexes WHERE indexname LIKE 'comments\\_recent\\_%'")
    predicate = re.search(r"WHERE \(occurred_at >= '(\S+) 00:00:00\+00'::timestamp with time zone\)$", found)
    assert predicate
    assert date.fromisoformat(predicate[1]) in {day - timedelta(days=7) for day in days}


async def test_concurrent_migrators_wait_for_each_other_and_all_succeed(empty_dsn: str) -> None:
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
        " AND now() - query_start > interval '5 s'"
    )
    with holding(empty_dsn, f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"):
        processes = [migrator(empty_dsn) for _ in range(3)]
        await until(lambda: execute(empty_dsn, waiting) == [(3,)], seconds=60)
        assert tables(empty_dsn) == []
    ends = [await process.ended() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ends
    assert tables(empty_dsn) == OURS
    assert execute(empty_dsn, "SELECT count(*) FROM installation") == [(1,)]


async def test_a_locked_table_ends_an_upgrade_with_a_one_line_error_and_no_change(empty_dsn: str) -> None:
    with holding(empty_dsn, CONFLICTING_TABLE):
        code, out, error = await migrate(empty_dsn)
    assert (code, out) == (1, "")
    assert error == "Error: Not migrated: canceling statement due to lock timeout\n"
    assert tables(empty_dsn) == []
    assert (await migrate(empty_dsn))[0] == 0


async def test_a_reader_ends_a_downgrade_with_a_one_line_error_and_no_change(dsn: str) -> None:
    # Each revision is a separate transaction; the reader blocks that of 009.
    migrations.downgrade(dsn, "009")
    before = schema(dsn)
    with holding(dsn, "SELECT FROM comments"):
        code, out, error = await migrate(dsn, "--down", "base")
    assert (code, out) == (1, "")
    assert error == "Error: Not migrated: canceling statement due to lock timeout\n"
    assert schema(dsn) == before
    assert migrations.current(dsn) == "009"


async def test_a_killed_migration_leaves_no_partial_schema(empty_dsn: str) -> None:
    with holding(empty_dsn, CONFLICTING_TABLE):
        process = migrator(empty_dsn)
        await until(lambda: blocked(empty_dsn))
        process.kill()
        await process.ended()
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    await until(lambda: execute(empty_dsn, others) == [(0,)])
    assert tables(empty_dsn) == []
    assert (await migrate(empty_dsn))[0] == 0
    assert tables(empty_dsn) == OURS


async def test_a_cut_connection_ends_a_migration_with_a_one_line_error(empty_dsn: str) -> None:
    with holding(empty_dsn, CONFLICTING_TABLE):
        process = migrator(empty_dsn)
        await until(lambda: blocked(empty_dsn))
        terminate_blocked(empty_dsn)
        out, error = await process.ended()
    assert (process.returncode, out) == (1, b"")
    assert re.fullmatch(r"Error: Not migrated: .+\n", error.decode())
    assert tables(empty_dsn) == []


def test_both_timeouts_are_set_while_tables_are_created(empty_dsn: str) -> None:
    execute(
        empty_dsn,
        """
        CREATE TABLE noted AS SELECT '' AS lock, '' AS statement WHERE false;
        CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO noted SELECT current_setting('lock_timeout'), current_setting('statement_timeout');
        END $$;
        CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION note();
        """,
    )
    migrations.upgrade(empty_dsn)
    assert execute(empty_dsn, "SELECT DISTINCT lock, statement FROM noted") == [("4s", "15min")]


async def test_the_command_prints_the_revision_of_the_database(empty_dsn: str) -> None:
    head = migrations.head()
    for arguments, place in (((), head), (("--down", "base"), "base (empty)"), (("008",), "008")):
        assert await migrate(empty_dsn, *arguments) == (0, f"The database is at revision {place}.\n", "")


async def test_an_unknown_revision_is_a_one_line_error(empty_dsn: str) -> None:
    code, out, error = await migrate(empty_dsn, "nonsense")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"Error: Not migrated: .*nonsense.*\n", error)


async def test_a_database_of_a_later_release_is_unchanged_and_a_one_line_error(dsn: str) -> None:
    execute(dsn, "UPDATE comment_monitor_version SET version_num = '999'")
    before = schema(dsn)
    code, out, error = await migrate(dsn)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"Error: Not migrated: .*999.*\n", error)
    assert (schema(dsn), migrations.current(dsn)) == (before, "999")


async def test_an_unavailable_database_is_a_one_line_error_without_its_password() -> None:
    code, out, error = await migrate("postgresql://ana:geheim@127.0.0.1:1/comments")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"Error: Not migrated: .+\n", error)
    assert "geheim" not in error
