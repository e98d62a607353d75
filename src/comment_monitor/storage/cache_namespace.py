"""The prefix of the keys in Redis: the only module that reads and changes it.

The database holds the prefix, and entries under any other prefix are ignored. So a change of the prefix invalidates all
entries in Redis.
"""

from typing import Final, NamedTuple

from comment_monitor.storage.postgres import Connection, Query

# Seconds between two reads of the prefix by a process.
READ_EVERY: Final = 2.0
# Seconds for which a process uses a prefix that it has read, counted from the start of the read, so that a read that
# hangs does not extend it. Once these seconds have passed since a change, no process uses the previous prefix.
LEASE: Final = 2 * READ_EVERY + 1

NAMESPACE: Final = Query(
    "cache_namespace",
    "SELECT cache_namespace, false, current_setting('transaction_read_only') = 'on' FROM installation",
)
# Also whether an edit was committed that Redis does not know of: then no prefix may be used.
CACHE_STATE: Final = Query(
    "cache_state",
    """
    SELECT cache_namespace, EXISTS (SELECT FROM unannounced_edits), current_setting('transaction_read_only') = 'on'
    FROM installation
    """,
)
# Changes the prefix because of such edits, if the last change was at least $1 seconds ago, so that no process is two
# prefixes behind. The change covers the edits that are committed by now, and deletes their rows in
# `unannounced_edits`; the row of a later edit stays for the next change. A write with edits may lock the row of the
# installation briefly: the statement skips the row then.
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

# Notes that this write has edits that Redis does not know of: from the commit on, a process that reads the prefix does
# not use Redis until the prefix is changed. The note is an inserted row, so no other write waits for it.
NOTE_UNANNOUNCED: Final = Query("note_unannounced_edits", "INSERT INTO unannounced_edits DEFAULT VALUES")

# Invalidates all entries in Redis in a database without the table `unannounced_edits`. Such writes wait for each other.
NEW_NAMESPACE: Final = Query(
    "new_cache_namespace",
    """
    UPDATE installation SET previous_namespace = cache_namespace, cache_namespace = gen_random_uuid(),
        namespace_since = clock_timestamp()
    RETURNING cache_namespace
    """,
)

# Changes the prefix unless the last change was less than $1 seconds ago. Edits invalidate Redis keys under two
# prefixes, so no process may be two prefixes behind. (BETWEEN, not >=: a time in the future, from a clock that was
# ahead, must not block changes.)
NEW_NAMESPACE_LATER: Final = Query(
    "new_cache_namespace_later",
    """
    UPDATE installation SET previous_namespace = cache_namespace, cache_namespace = gen_random_uuid(),
        namespace_since = clock_timestamp()
    WHERE namespace_since NOT BETWEEN clock_timestamp() - make_interval(secs => $1) AND clock_timestamp()
    RETURNING cache_namespace
    """,
)

# The prefix that is valid when this transaction commits (the lock prevents a change until then), the previous prefix,
# and whether neither may be used.
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
    """The prefixes that a process may be using when this transaction commits; `believed`: whether any may be used."""

    current: bytes
    previous: bytes
    believed: bool


async def read(conn: Connection, *, before_012: bool) -> tuple[bytes | None, bool]:
    """Returns the prefix, and whether the database is read-only.

    The prefix is None while Redis has outdated entries and the prefix can't be changed yet.
    """
    [(namespace, unannounced, read_only)] = await conn.fetch(NAMESPACE if before_012 else CACHE_STATE)
    if unannounced:
        namespace = None if read_only else await conn.value(ANNOUNCE, LEASE)
    return bytes(namespace.bytes) if namespace else None, read_only


async def hold(conn: Connection, *, before_012: bool) -> Valid:
    """Locks the prefix against changes until this transaction ends."""
    [(current, previous, unannounced)] = await conn.fetch(NAMESPACES_BEFORE_012 if before_012 else NAMESPACES)
    return Valid(current.bytes, previous.bytes, not unannounced)


async def disown(conn: Connection, *, before_012: bool) -> bytes | None:
    """Invalidates all entries in Redis as of this transaction's commit.

    Returns the prefix to use from then on; None: no prefix may be used until it is read again.
    """
    if before_012:
        return bytes((await conn.value(NEW_NAMESPACE)).bytes)
    await conn.fetch(NOTE_UNANNOUNCED)
    return None


async def current(conn: Connection) -> bytes:
    """Returns the prefix, whether or not it may be used."""
    found: bytes = (await conn.value(NAMESPACE)).bytes
    return found


async def change(conn: Connection) -> bool:
    """Changes the prefix; returns False if its last change was less than LEASE ago."""
    return await conn.value(NEW_NAMESPACE_LATER, LEASE) is not None
