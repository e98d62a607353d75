"""The prefix of the keys in Redis: read, changed and given up here, and nowhere else.

The database holds it, and what stands under another prefix proves nothing. So a change of the prefix disowns all that
Redis remembers.
"""

from typing import Final, NamedTuple

from comment_monitor.storage.postgres import Connection, Query

# Seconds between two times that a process reads the prefix.
READ_EVERY: Final = 2.0
# Seconds for which a process goes by a prefix in Redis that it has read; a read that hangs does not make it longer. So
# long after a change of the prefix no process goes by the one before.
LEASE: Final = 2 * READ_EVERY + 1

NAMESPACE: Final = Query(
    "cache_namespace",
    "SELECT cache_namespace, false, current_setting('transaction_read_only') = 'on' FROM installation",
)
# With whether some edit was committed that Redis was not told of: then no prefix may be gone by.
CACHE_STATE: Final = Query(
    "cache_state",
    """
    SELECT cache_namespace, EXISTS (SELECT FROM unannounced_edits), current_setting('transaction_read_only') = 'on'
    FROM installation
    """,
)
# Changes the prefix because of such edits, where the last change lies $1 seconds back: so no process is two behind.
# Edits that are committed by now are disowned, and their notes go; a later one leaves its note for the next change. A
# write that holds edits may have the row for a moment: it is not waited for.
ANNOUNCE: Final = Query(
    "announce_edits",
    """
    WITH free AS MATERIALIZED (
        SELECT only_one FROM installation
        WHERE namespace_since NOT BETWEEN clock_timestamp() - make_interval(secs => $1) AND clock_timestamp()
        FOR NO KEY UPDATE SKIP LOCKED
    ), changed AS (
        UPDATE installation SET previous_namespace = cache_namespace, cache_namespace = gen_random_uuid(),
            namespace_since = clock_timestamp()
        FROM free WHERE installation.only_one = free.only_one
        RETURNING installation.cache_namespace
    ), gone AS (
        DELETE FROM unannounced_edits WHERE EXISTS (SELECT FROM changed)
    )
    SELECT cache_namespace FROM changed
    """,
)

# Notes that this write holds edits which Redis was not told of: after the commit no process that looks believes it,
# until the prefix of its keys is changed. An appended row, which no other write waits for.
NOTE_UNANNOUNCED: Final = Query("note_unannounced_edits", "INSERT INTO unannounced_edits DEFAULT VALUES")

# The same for a database without that table, one write after the other: disowns all that Redis remembers.
NEW_NAMESPACE: Final = Query(
    "new_cache_namespace",
    """
    UPDATE installation SET previous_namespace = cache_namespace, cache_namespace = gen_random_uuid(),
        namespace_since = clock_timestamp()
    RETURNING cache_namespace
    """,
)

# The same, where it can wait: not within $1 seconds of the last change. Edits tell Redis under two prefixes, so no
# process may be two behind. (A change in the future is one by a server whose clock was ahead.)
NEW_NAMESPACE_LATER: Final = Query(
    "new_cache_namespace_later",
    """
    UPDATE installation SET previous_namespace = cache_namespace, cache_namespace = gen_random_uuid(),
        namespace_since = clock_timestamp()
    WHERE namespace_since NOT BETWEEN clock_timestamp() - make_interval(secs => $1) AND clock_timestamp()
    RETURNING cache_namespace
    """,
)

# The prefix in Redis that holds when this transaction commits (nobody can change it until then), and the one before;
# and whether neither may be believed.
NAMESPACES: Final = Query(
    "cache_namespaces",
    """
    SELECT cache_namespace, previous_namespace, EXISTS (SELECT FROM unannounced_edits) FROM installation FOR SHARE
    """,
)
NAMESPACES_BEFORE_012: Final = Query(
    "cache_namespaces_before_012", "SELECT cache_namespace, previous_namespace, false FROM installation FOR SHARE"
)


class Valid(NamedTuple):
    """The prefixes by which some process may go when this transaction commits; `believed`: whether any may."""

    current: bytes
    previous: bytes
    believed: bool


async def read(conn: Connection, *, before_012: bool) -> tuple[bytes | None, bool]:
    """The prefix, and whether the database is read-only.

    None: Redis holds what is not so any more, and the prefix can't be changed yet.
    """
    [(namespace, unannounced, read_only)] = await conn.fetch(NAMESPACE if before_012 else CACHE_STATE)
    if unannounced:
        namespace = None if read_only else await conn.value(ANNOUNCE, LEASE)
    return bytes(namespace.bytes) if namespace else None, read_only


async def hold(conn: Connection, *, before_012: bool) -> Valid:
    """Keeps the prefix as it is until this transaction ends."""
    [(current, previous, unannounced)] = await conn.fetch(NAMESPACES_BEFORE_012 if before_012 else NAMESPACES)
    return Valid(current.bytes, previous.bytes, not unannounced)


async def disown(conn: Connection, *, before_012: bool) -> bytes | None:
    """With this transaction's commit nothing in Redis counts any more.

    Returns the prefix to go by from now on; None: none until it was read again.
    """
    if before_012:
        return bytes((await conn.value(NEW_NAMESPACE)).bytes)
    await conn.fetch(NOTE_UNANNOUNCED)
    return None


async def current(conn: Connection) -> bytes:
    """The prefix, whether it may be gone by or not."""
    found: bytes = (await conn.value(NAMESPACE)).bytes
    return found


async def change(conn: Connection) -> bool:
    """Changes the prefix; False where its last change is less than LEASE ago."""
    return await conn.value(NEW_NAMESPACE_LATER, LEASE) is not None
