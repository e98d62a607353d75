"""The cache of stored comments in Redis, which saves queries to PostgreSQL.

After a commit, an entry is written that holds the comment's revision and digest, under a key with the database's own
prefix. So the entry proves that this comment was committed to this database: if the comment is sent again, it is a
duplicate, and PostgreSQL is not queried. Before the commit of an edit, the entry is replaced by one without a digest,
which matches no comment. PostgreSQL decides about all other comments. A lost entry or an unavailable Redis costs only
time.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b, sha1
from typing import Any, Final, NamedTuple, TypeVar

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ClusterCrossSlotError, MovedError, NoScriptError

from comment_monitor.core.circuit_breaker import Breaker
from comment_monitor.core.model import NO_DETAILS, Comment
from comment_monitor.observability import logs, metrics
from comment_monitor.storage.redis_client import UNAVAILABLE, close_redis

logger = logs.get(__name__)

# Sets each key to its new value unless the key has a later revision: two processes may write the same comment's entry
# out of order, and an old text must not be mistaken for the latest. A value is a revision (four bytes; 0: unknown) and
# a digest; an entry that was invalidated has no digest.
REMEMBER: Final = """
local ttl = ARGV[1]
local function revision(value) return #value >= 4 and struct.unpack('>I4', value) or 0 end
for i, key in ipairs(KEYS) do
    local new = ARGV[i + 1]
    local old = redis.call('GET', key)
    if not old or revision(old) <= revision(new) then redis.call('SET', key, new, 'EX', ttl) end
end
"""


REMEMBER_SHA: Final = sha1(REMEMBER.encode(), usedforsecurity=False).hexdigest()

Client = Redis | RedisCluster
T = TypeVar("T")


class Known(NamedTuple):
    """A comment and its revision, to be stored in Redis."""

    comment: Comment
    revision: int


class CacheKeys(NamedTuple):
    """The cache key and digest of each comment of a write, computed once for lookup and store.

    Both lists are empty while the cache is not usable. `amount` is the number of comments in any case.
    """

    amount: int
    keys: list[bytes]
    digests: list[bytes]


def digest(comment: Comment) -> bytes:
    """Returns 12 bytes: the digest of the fields by which the cache recognises a repeat (see `Comment.content`).

    NUL, which no field contains, separates the fields.
    """
    content = f"{comment.post_id}\0{comment.author or ''}\0{comment.text}"
    if comment.details != NO_DETAILS:
        content += "".join(f"\0{'' if detail is None else detail}" for detail in comment.details)
    return blake2b(content.encode(), digest_size=12).digest()


def _keys(comments: Sequence[Comment], namespace: bytes) -> list[bytes]:
    # Hashed, so that Redis holds no comment's id. The prefix is part of the hashed data: as blake2b's `key` it would
    # cost one more block per comment.
    return [
        blake2b(namespace + f"{comment.source}\0{comment.id}".encode(), digest_size=16).digest() for comment in comments
    ]


class DedupCache:
    """The cache of one process. Comments are looked up only while the current database's prefix is known."""

    def __init__(
        self,
        client: "Redis | None",
        *,
        ttl: int,
        open_cluster: "Callable[[], RedisCluster] | None" = None,
    ):
        self._client: Client | None = client
        self._opened: list[Client] = [client] if client else []
        self._open_cluster = open_cluster
        # Whether Redis is a cluster, which rejects a command on keys of several slots: then each key has its own
        # command, all in one pipeline. Both modes use the same keys, so processes share entries even while only some of
        # them have noticed that Redis is a cluster.
        self._each = False
        self._ttl = ttl
        self._breaker = Breaker()
        self._reached = False
        self._namespace: bytes | None = None
        self._until = 0.0

    def use_namespace(self, namespace: bytes | None, until: float) -> None:
        """Sets the database's prefix, valid until `until` (of `time.monotonic`); None: no prefix is usable.

        A prefix that was read earlier than the current one is ignored.
        """
        if until >= self._until:
            self._namespace, self._until = namespace, until

    @property
    def state(self) -> str:
        """The last known state of Redis: `ok`, `away` (unavailable), or `off` (no Redis is configured)."""
        return "off" if not self._client else "ok" if self._reached else "away"

    async def probe(self) -> None:
        """Checks whether Redis is available, because without comments nothing else would show it."""
        if self._client and self._breaker.closed:
            try:
                await self._client.ping()
            except UNAVAILABLE as error:
                self._failed(error)
            else:
                self._works()

    @property
    def usable(self) -> bool:
        """Whether entries can be trusted now: Redis is reachable, and the prefix is known and has not expired."""
        return self.reachable and self._namespace is not None and time.monotonic() < self._until

    @property
    def reachable(self) -> bool:
        """Whether Redis was available at the last attempt, or may be tried again."""
        return self._client is not None and self._breaker.closed

    def keys_of(self, comments: Sequence[Comment]) -> CacheKeys:
        """Returns the cache keys and digests of these comments."""
        if not self.usable or self._namespace is None:
            return CacheKeys(len(comments), [], [])
        return CacheKeys(len(comments), _keys(comments, self._namespace), [digest(comment) for comment in comments])

    async def lookup(self, cache_keys: CacheKeys) -> list[bool]:
        """Returns for each comment whether Redis has it with the same content, in one round trip.

        All values are False if Redis or the prefix is unavailable.
        """
        if not cache_keys.keys or not self.usable or self._client is None:
            return [False] * cache_keys.amount
        try:
            values = await self._with_client(lambda client: self._get(client, cache_keys.keys))
        except UNAVAILABLE as error:
            self._failed(error)
            return [False] * cache_keys.amount
        self._works()
        result = [
            value is not None and value[4:] == digest for value, digest in zip(values, cache_keys.digests, strict=True)
        ]
        hits = sum(result)
        metrics.CACHE_HITS.inc(hits)
        metrics.CACHE_MISSES.inc(len(result) - hits)
        return result

    async def store(self, cache_keys: CacheKeys, revisions: Sequence[tuple[int, int]]) -> None:
        """Stores entries for committed comments, in one round trip; does nothing if Redis is unavailable.

        Args:
            cache_keys: the cache keys of all comments of the write.
            revisions: index and revision of each comment to store.
        """
        if not cache_keys.keys:
            return
        values = [revision.to_bytes(4, "big") + cache_keys.digests[index] for index, revision in revisions]
        await self._note([cache_keys.keys[index] for index, _ in revisions], values)

    async def invalidate(self, edited: Sequence[Known], namespaces: Sequence[bytes]) -> bool:
        """Invalidates the entries of edited comments: each gets the new revision and no digest, and matches no comment.

        The caller does this before it commits the edits. After the commit it would be too late: if this process died in
        between, the old text would pass for the latest until the entry expires.

        Returns False if Redis could not be updated. Then the caller must record in the database that no existing entry
        in Redis may be used (see `cache_namespace.disown`).

        Args:
            edited: the comments with their new revisions.
            namespaces: every prefix that some process may use at the time of the commit.
        """
        values = [known.revision.to_bytes(4, "big") for known in edited]
        comments = [known.comment for known in edited]
        keys = [key for namespace in namespaces for key in _keys(comments, namespace)]
        return await self._note(keys, values * len(namespaces))

    async def _note(self, keys: list[bytes], values: list[bytes]) -> bool:
        if not keys:
            return True
        if not self.reachable:
            return False
        try:
            await self._with_client(lambda client: self._set(client, keys, values))
        except UNAVAILABLE as error:
            self._failed(error)
            return False
        self._works()
        return True

    async def _with_client(self, use: "Callable[[Client], Awaitable[T]]") -> T:
        """Runs commands; repeats them if Redis turns out to be a cluster, or another node has the key."""
        while True:
            assert self._client is not None  # noqa: S101 - callers have checked
            try:
                return await use(self._client)
            except ClusterCrossSlotError:
                if self._each:
                    raise
                self._each = True
                logger.info("redis_is_a_cluster", effect="one command per key")
            except MovedError:
                if self._open_cluster is None:
                    raise
                self._client, self._open_cluster, self._each = self._open_cluster(), None, True
                self._opened.append(self._client)
                logger.info("redis_is_a_cluster", effect="commands go to the node that has the key")

    async def _get(self, client: "Client", keys: Sequence[bytes]) -> list[Any]:
        if not self._each:
            return list(await client.mget(keys))
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.get(key)
        return list(await pipeline.execute())

    async def _set(self, client: "Client", keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        try:
            await self._run_script(client, keys, values)
        except NoScriptError:
            await client.script_load(REMEMBER)
            await self._run_script(client, keys, values)

    async def _run_script(self, client: "Client", keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        if not self._each:
            await client.evalsha(REMEMBER_SHA, len(keys), *keys, self._ttl, *values)
            return
        pipeline = client.pipeline(transaction=False)
        for key, value in zip(keys, values, strict=True):
            # redis-py's `evalsha` refuses to run on a cluster, where it can't ensure that the script is loaded.
            pipeline.execute_command("EVALSHA", REMEMBER_SHA, 1, key, self._ttl, value)
        await pipeline.execute()

    async def close(self) -> None:
        """Closes the connections."""
        for client in self._opened:
            await close_redis(client)

    def _works(self) -> None:
        self._reached = True
        if self._breaker.success():
            logger.info("redis_back")

    def _failed(self, error: Exception) -> None:
        self._reached = False
        metrics.count_error("cache")
        if self._breaker.failure():
            logger.warning("redis_away", error=type(error).__name__, effect="PostgreSQL finds the duplicates")
