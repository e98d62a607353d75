"""Alembic's environment: one migrator at a time, and no long wait for a table lock that would block live traffic."""

from alembic import context
from sqlalchemy import text

from comment_monitor.storage.migrations.version_table import VERSION_TABLE, adopt_legacy_table
from comment_monitor.storage.revisions import KNOWN

# Key of the advisory lock: any constant that all migrators of this program share.
MIGRATION_LOCK = 0x636F6D6D656E74

connection = context.config.attributes["connection"]
connection.execute(text("SET statement_timeout = '15min'"))
connection.execute(text("SET timezone = 'UTC'"))
# The wait for the advisory lock has no lock timeout, because another migrator does the same work meanwhile.
connection.execute(text("SET lock_timeout = 0"))
connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
# A migration that waits for its table lock blocks every writer that queues behind it. So it gives up after 4 seconds,
# and the job tries again. The statement timeout bounds the damage of an unintended full scan.
connection.execute(text("SET lock_timeout = '4s'"))
connection.commit()
try:
    with connection.begin():
        adopt_legacy_table(connection, KNOWN)
    context.configure(connection=connection, transaction_per_migration=True, version_table=VERSION_TABLE)
    with context.begin_transaction():
        context.run_migrations()
finally:
    connection.rollback()
    connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
    connection.commit()
