"""The rate limit of `POST /comments/process`: a moving minute per client, shared by all pods through Redis.

The `limits` library counts, with one atomic script in Redis. While Redis is unavailable, each process counts its own
requests.
"""

import asyncio
import time
from typing import Any, Final, NamedTuple

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import MovedError

from comment_monitor.core.circuit_breaker import Breaker
from comment_monitor.observability import logs, metrics
from comment_monitor.storage.redis_client import UNAVAILABLE, close_redis, open_cluster, open_redis

logger = logs.get(__name__)

WINDOW: Final = 60
CONNECTIONS: Final = 10
NAMESPACE: Final = "process"


class Verdict(NamedTuple):
    """Whether a request is allowed, the number of further allowed requests, and the seconds until the limit resets."""

    allowed: bool
    limit: int
    remaining: int
    reset: int

    @property
    def headers(self) -> dict[str, str]:
        """The headers `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers)."""
        return {
            "RateLimit-Policy": f'"{NAMESPACE}";q={self.limit};w={WINDOW}',
            "RateLimit": f'"{NAMESPACE}";r={self.remaining};t={self.reset}',
        }


class RateLimit:
    """Counts one hit per request and client. A limit of 0 disables it."""

    def __init__(self, per_minute: int, redis_url: str):
        self._item = RateLimitItemPerMinute(max(per_minute, 1), namespace=NAMESPACE)
        self._off = per_minute == 0
        self._breaker = Breaker()
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._url = redis_url
        self._client = open_redis("" if self._off else redis_url, connections=CONNECTIONS)
        self._cluster: RedisCluster | None = None
        self._storage = RedisStorage("async+redis://", implementation="redispy") if self._client else None
        self._shared: MovingWindowRateLimiter | None = None
        if self._storage and self._client:
            self._use(self._storage, self._client)
            self._shared = MovingWindowRateLimiter(self._storage)

    async def hit(self, client: str) -> Verdict | None:
        """Counts a request of `client`; returns None if no limit is set."""
        if self._off:
            return None
        if self._shared:
            # A request waits for a connection: more concurrent requests than connections are not an outage.
            async with self._turns:
                if self._breaker.closed and (verdict := await self._hit_shared(self._shared, client)):
                    return verdict
        return await self._hit(self._own, client)

    async def _hit_shared(self, limiter: MovingWindowRateLimiter, client: str) -> Verdict | None:
        try:
            verdict = await self._hit_there(limiter, client)
        except UNAVAILABLE as error:
            metrics.count_error("rate-limit-store")
            if self._breaker.failure():
                logger.warning("rate_limit_store_away", error=type(error).__name__, effect="counting per process")
            return None
        if self._breaker.success():
            logger.info("rate_limit_store_back")
        return verdict

    async def _hit_there(self, limiter: MovingWindowRateLimiter, client: str) -> Verdict:
        try:
            return await self._hit(limiter, client)
        except MovedError:
            # Redis is a node of a cluster, and another node has this client's count.
            if self._cluster is None and self._storage:
                self._cluster = open_cluster(self._url)
                self._use(self._storage, self._cluster)
            return await self._hit(limiter, client)

    @staticmethod
    def _use(storage: RedisStorage, client: "Redis | RedisCluster") -> None:
        """Replaces the library's client: it builds clients only from URLs, without time limits and Sentinels."""
        bridge: Any = storage.bridge
        bridge.storage, bridge.connection_getter = client, lambda _: client
        bridge.register_scripts()

    async def close(self) -> None:
        """Closes the connections."""
        for client in (self._client, self._cluster):
            if client:
                await close_redis(client)

    async def _hit(self, limiter: MovingWindowRateLimiter, client: str) -> Verdict:
        allowed = await limiter.hit(self._item, client)
        stats = await limiter.get_window_stats(self._item, client)
        reset = max(1, round(stats.reset_time - time.time()))
        return Verdict(allowed, self._item.amount, max(0, stats.remaining) if allowed else 0, reset)
