"""PostgreSQL and Redis as children of this process, for one machine without servers."""
