"""Bytes per comment in PostgreSQL by table and index, in its log and in Redis; and the cost of each index."""

import time
from typing import Final

import redis

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.limit import upsert_rate
from bench.harness.load import send
from bench.harness.run import alone
from bench.harness.system import System

COMMENTS: Final = 100_000
INDEXED: Final = 50_000
SIZE: Final = 25
CONNECTIONS: Final = 16
BYTES: Final = "bytes a comment"
LOG_POSITION: Final = "SELECT (pg_current_wal_lsn() - '0/0')::bigint"
SIZES: Final = """
    SELECT relname, pg_table_size(oid) FROM pg_class WHERE relname IN ('comments', 'comment_analyses')
    UNION ALL
    SELECT relname, pg_relation_size(oid) FROM pg_class
    WHERE relkind = 'i' AND (relname LIKE 'comments\\_%' OR relname LIKE 'comment\\_analyses\\_%')
"""


def measure(tools: Tools) -> list[Row]:
    """Measures bytes once, because they hardly vary, and each index by upserts with and without it, in rounds."""
    return [*_bytes(tools.system), *_indexes(tools)]


def _bytes(system: System) -> list[Row]:
    system.forget()
    client = redis.Redis.from_url(system.redis.url)
    bodies = make_bodies(make_columns(COMMENTS, run=14), SIZE)
    with system.serving() as (url, _):
        memory, log = _used(client), system.count(LOG_POSITION)
        send(url, bodies, connections=CONNECTIONS)
        found = {"Redis, until the entry expires": _used(client) - memory}
        found["write-ahead log, storing"] = system.count(LOG_POSITION) - log
        log = system.count(LOG_POSITION)
        with system.working():
            while system.count("SELECT count(*) FROM analysis_outbox"):
                time.sleep(0.1)
        found["write-ahead log, analysing"] = system.count(LOG_POSITION) - log
    client.close()
    found |= {f"PostgreSQL, {name}": int(str(size)) for name, size in system.execute(SIZES)}
    return [Row(work=f"size: {name}", unit=BYTES, ours=[size / COMMENTS]) for name, size in found.items()]


def _used(client: "redis.Redis") -> int:
    return int(client.info("memory")["used_memory"])


def _indexes(tools: Tools) -> list[Row]:
    system, columns = tools.system, make_columns(INDEXED, run=13)
    rows = []
    for name, definition in system.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'comments' "
        "AND indexname NOT IN ('comments_pkey', 'comments_identity') ORDER BY indexname"
    ):
        with_it, without = [], []
        for _ in range(tools.rounds):
            system.forget()
            with_it.append(upsert_rate(system.dsn, columns))
            system.execute(f"DROP INDEX {name}")
            try:
                system.forget()
                without.append(upsert_rate(system.dsn, columns))
            finally:
                system.execute(str(definition))
        tools.say(f"{name}: {with_it[-1]:,.0f} with it, {without[-1]:,.0f} without it")
        kind = "the index of recent ones" if str(name).startswith("comments_recent") else name
        rows.append(
            Row(
                work=f"upserts with all indexes, beside those without {kind}", unit="comments/s", ours=with_it,
                beside=without, beside_what="without it",
            )
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    alone(measure)
