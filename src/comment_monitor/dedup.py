"""What Redis remembers of stored comments: it saves PostgreSQL work and decides nothing.

Written after the commit, holding revision and digest of the comment, so an entry is proof that this very comment was
committed to this database. Forgotten or away, it costs time only.
"""

import time
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

from comment_monitor import log, metrics
from comment_monitor.breaker import Breaker
from comment_monitor.model import NO_DETAILS, Comment

logger = log.get(__name__)

AWAY: Final = (RedisError, OSError, TimeoutError)

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


class Known(NamedTuple):
    """A comment as Redis should remember it."""

    comment: Comment
    revision: int


class Marks(NamedTuple):
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

    def __init__(self, client: "Redis | None", *, ttl: int):
        self._client = client
        self._ttl = ttl
        self._breaker = Breaker()
        self._remember = client.register_script(REMEMBER) if client else None
        self._reached = False
        self._namespace: bytes | None = None
        self._until = 0.0

    def go_by(self, namespace: bytes | None, until: float) -> None:
        """The database's prefix, as read in time to be gone by until then (of `time.monotonic`); None: it has none.

        What was read earlier than what is known changes nothing.
        """
        if until >= self._until:
            self._namespace, self._until = namespace, until

    @property
    def state(self) -> str:
        """`ok`, `away`, or `off` where no Redis is named; as far as is known."""
        return "off" if not self._client else "ok" if self._reached else "away"

    async def look(self) -> None:
        """Finds out whether Redis is there, also where no comment comes that would show it."""
        if self._client and self._breaker.closed:
            try:
                await self._client.ping()
            except AWAY as error:
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

    def marks(self, comments: Sequence[Comment]) -> Marks:
        """What these comments go by in Redis."""
        if not self.usable or self._namespace is None:
            return Marks(len(comments), [], [])
        return Marks(len(comments), _keys(comments, self._namespace), [digest(one) for one in comments])

    async def seen(self, marks: Marks) -> list[bool]:
        """For each comment whether it is stored just like this; all False when Redis is away. One round trip."""
        if not marks.keys or not self.usable or self._client is None:
            return [False] * marks.amount
        try:
            values = await self._client.mget(marks.keys)
        except AWAY as error:
            self._failed(error)
            return [False] * marks.amount
        self._works()
        result = [
            value is not None and value[4:] == digest for value, digest in zip(values, marks.digests, strict=True)
        ]
        hits = sum(result)
        metrics.CACHE_HITS.inc(hits)
        metrics.CACHE_MISSES.inc(len(result) - hits)
        return result

    async def remember(self, marks: Marks, revisions: Sequence[tuple[int, int]]) -> None:
        """Notes committed comments. One round trip; away, it is left out.

        Args:
            marks: of the comments of the write.
            revisions: index among them, and revision, of each that is to be remembered.
        """
        if not marks.keys:
            return
        values = [revision.to_bytes(4, "big") + marks.digests[index] for index, revision in revisions]
        await self._note([marks.keys[index] for index, _ in revisions], values)

    async def supersede(self, edited: Sequence[Known], namespaces: Sequence[bytes]) -> bool:
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
        if not self.reachable or self._remember is None:
            return False
        try:
            await self._remember(keys=keys, args=[self._ttl, *values])
        except AWAY as error:
            self._failed(error)
            return False
        self._works()
        return True

    def _works(self) -> None:
        self._reached = True
        if self._breaker.success():
            logger.info("redis_back")

    def _failed(self, error: Exception) -> None:
        self._reached = False
        metrics.count_error("cache")
        if self._breaker.failure():
            logger.warning("redis_away", error=type(error).__name__, effect="duplicates are found by PostgreSQL")
