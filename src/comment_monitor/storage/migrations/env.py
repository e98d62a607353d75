"""How Alembic runs here: one migrator at a time, and never a long wait for a lock in front of live traffic."""

from alembic import context
from sqlalchemy import text

from comment_monitor.storage.migrations import known_revisions
from comment_monitor.storage.migrations.version_table import VERSION_TABLE, adopt_legacy_table

# Any constant serves; every migrator of this program uses this one.
MIGRATION_LOCK = 0x636F6D6D656E74

connection = context.config.attributes["connection"]
connection.execute(text("SET statement_timeout = '15min'"))
connection.execute(text("SET timezone = 'UTC'"))
# The advisory lock is waited for without the lock timeout: another migrator is doing our work meanwhile.
connection.execute(text("SET lock_timeout = 0"))
connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
# A migration that cannot have its table lock at once would hold up every writer that queues behind it: give up
# instead, and let the job try again. The statement timeout bounds the damage of a forgotten full scan.
connection.execute(text("SET lock_timeout = '4s'"))
connection.commit()
try:
    with connection.begin():
        adopt_legacy_table(connection, known_revisions())
    context.configure(connection=connection, transaction_per_migration=True, version_table=VERSION_TABLE)
    with context.begin_transaction():
        context.run_migrations()
finally:
    connection.rollback()
    connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
    connection.commit()
