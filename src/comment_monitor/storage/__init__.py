"""PostgreSQL and Redis: connections, statements, migrations, and what keeps the tables small and true."""
