"""The statement that measures the analysis backlog."""

from typing import Final

from comment_monitor.storage.postgres import Query

# Comments whose analysis is outstanding, and seconds that the oldest of them has waited. An edited comment whose first
# text is not analysed yet counts twice, because two analyses are queued.
WAITING: Final = Query(
    "analysis_backlog",
    """
    SELECT coalesce(sum(cardinality(comment_ids)), 0) AS comments,
        coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest
    FROM analysis_outbox
    """,
)
