"""PostgreSQL and Redis: connections, statements, migrations, retention and invariant checks."""
