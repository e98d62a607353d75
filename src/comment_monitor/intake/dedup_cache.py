"""What Redis remembers of stored comments: it saves PostgreSQL work and decides nothing.

Written after the commit, holding revision and digest of the comment, so an entry is proof that this very comment was
committed to this database. Forgotten or away, it costs time only.
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

# Sets each key to revision and digest unless a later revision stands there: two processes may answer for the same
# comment out of order, and an old text must not pass for the latest.
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
    """A comment as Redis should remember it."""

    comment: Comment
    revision: int


class CacheKeys(NamedTuple):
    """Key and digest of each comment of a write, made once for asking and for remembering; none while Redis is away."""

    amount: int
    keys: list[bytes]
    digests: list[bytes]


def digest(comment: Comment) -> bytes:
    """12 bytes that stand for all that a repeat is compared by. NUL, which no field holds, keeps the fields apart."""
    content = f"{comment.post_id}\0{comment.author or ''}\0{comment.text}"
    if comment.details != NO_DETAILS:
        content += "".join(f"\0{'' if one is None else one}" for one in comment.details)
    return blake2b(content.encode(), digest_size=12).digest()


def _keys(comments: Sequence[Comment], namespace: bytes) -> list[bytes]:
    # Hashed: what is in Redis tells nothing of who wrote what. The prefix goes in as data, not as a key, which would
    # cost a block more for each.
    return [blake2b(namespace + f"{one.source}\0{one.id}".encode(), digest_size=16).digest() for one in comments]


class DedupCache:
    """The cache of one process; without the prefix of the database in use it is asked nothing."""

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
        # Whether it is a cluster, which takes no command on keys of several slots: each key has its own then, all in
        # one pipeline. The keys are the same, so processes that know of it and those that do not yet agree.
        self._each = False
        self._ttl = ttl
        self._breaker = Breaker()
        self._reached = False
        self._namespace: bytes | None = None
        self._until = 0.0

    def use_namespace(self, namespace: bytes | None, until: float) -> None:
        """The database's prefix, as read in time to be gone by until then (of `time.monotonic`); None: it has none.

        What was read earlier than what is known changes nothing.
        """
        if until >= self._until:
            self._namespace, self._until = namespace, until

    @property
    def state(self) -> str:
        """`ok`, `away`, or `off` where no Redis is named; as far as is known."""
        return "off" if not self._client else "ok" if self._reached else "away"

    async def probe(self) -> None:
        """Finds out whether Redis is there, also where no comment comes that would show it."""
        if self._client and self._breaker.closed:
            try:
                await self._client.ping()
            except UNAVAILABLE as error:
                self._failed(error)
            else:
                self._works()

    @property
    def usable(self) -> bool:
        """Whether what it says can be believed now."""
        return self.reachable and self._namespace is not None and time.monotonic() < self._until

    @property
    def reachable(self) -> bool:
        """Whether it can be told something, as far as is known."""
        return self._client is not None and self._breaker.closed

    def keys_of(self, comments: Sequence[Comment]) -> CacheKeys:
        """What these comments go by in Redis."""
        if not self.usable or self._namespace is None:
            return CacheKeys(len(comments), [], [])
        return CacheKeys(len(comments), _keys(comments, self._namespace), [digest(one) for one in comments])

    async def lookup(self, cache_keys: CacheKeys) -> list[bool]:
        """For each comment whether it is stored just like this; all False when Redis is away. One round trip."""
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
        """Notes committed comments. One round trip; away, it is left out.

        Args:
            cache_keys: of the comments of the write.
            revisions: index among them, and revision, of each that is to be remembered.
        """
        if not cache_keys.keys:
            return
        values = [revision.to_bytes(4, "big") + cache_keys.digests[index] for index, revision in revisions]
        await self._note([cache_keys.keys[index] for index, _ in revisions], values)

    async def invalidate(self, edited: Sequence[Known], namespaces: Sequence[bytes]) -> bool:
        """Before edits are committed: whatever Redis holds of them is no longer their latest text.

        False where Redis could not be told: then it must be disowned. (A note of the new text after the commit would
        come too late: this process may be gone by then, and the old text would pass for the latest until it expires.)

        Args:
            edited: the comments with their new revisions.
            namespaces: every prefix by which some process may go at the commit.
        """
        values = [one.revision.to_bytes(4, "big") for one in edited]
        comments = [one.comment for one in edited]
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
        """Runs commands; again where the answer is that this is a cluster, or another node's part of one."""
        while True:
            assert self._client is not None  # noqa: S101 - callers have looked
            try:
                return await use(self._client)
            except ClusterCrossSlotError:
                if self._each:
                    raise
                self._each = True
                logger.info("redis_is_a_cluster", effect="one command a key")
            except MovedError:
                if self._open_cluster is None:
                    raise
                self._client, self._open_cluster, self._each = self._open_cluster(), None, True
                self._opened.append(self._client)
                logger.info("redis_is_a_cluster", effect="each node is asked for its own keys")

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
            # The method of this name refuses to work on a cluster, where it can't see to the script's being there.
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
            logger.warning("redis_away", error=type(error).__name__, effect="duplicates are found by PostgreSQL")
