"""What waits for its analysis."""

from typing import Final

from comment_monitor.storage.postgres import Query

# Comments whose analysis is outstanding, and seconds since the first of them began to wait. An edit that waits beside
# its first text counts twice: two analyses wait.
WAITING: Final = Query(
    "analysis_backlog",
    """
    SELECT coalesce(sum(cardinality(comment_ids)), 0) AS comments,
        coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest
    FROM analysis_outbox
    """,
)
