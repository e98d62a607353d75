"""A process that sets metrics and then waits to be ended: `python -m tests.support.counting ATTEMPTS QUEUE SECONDS`.

QUEUE and SECONDS (of an observation) may be `-`: none. The process prints its PID after it has set the metrics.
"""

import os
import sys

from comment_monitor.observability import metrics

if __name__ == "__main__":
    attempts, queue, seconds = sys.argv[1:]
    metrics.ATTEMPTS.inc(int(attempts))
    if queue != "-":
        metrics.QUEUE_LENGTH.inc(int(queue))
        metrics.SCHEMA_USABLE.set(0)
        metrics.BACKLOG.set(int(queue))
    if seconds != "-":
        metrics.PROCESSING_DURATION.observe(float(seconds))
        metrics.DB_QUERY_DURATION.labels(query="write_comments").observe(float(seconds))
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    sys.stdin.read()
