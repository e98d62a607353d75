"""The rate limit of `POST /comments/process`: a moving minute per client, shared by all pods through Redis.

The counting is the `limits` library's (one atomic script in Redis); with Redis away it is this process's own.
"""

import asyncio
import time
from typing import Final, NamedTuple

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import ConnectionPool

from comment_monitor import log, metrics
from comment_monitor.breaker import Breaker
from comment_monitor.dedup import AWAY

logger = log.get(__name__)

WINDOW: Final = 60
CONNECTIONS: Final = 10
NAMESPACE: Final = "process"


class Verdict(NamedTuple):
    """Whether a request may pass, how many more may, and in how many seconds there is room again."""

    allowed: bool
    limit: int
    remaining: int
    reset: int

    @property
    def headers(self) -> dict[str, str]:
        """`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers)."""
        return {
            "RateLimit-Policy": f'"{NAMESPACE}";q={self.limit};w={WINDOW}',
            "RateLimit": f'"{NAMESPACE}";r={self.remaining};t={self.reset}',
        }


class RateLimit:
    """Counts one hit per request and client. A limit of 0 switches it off."""

    def __init__(self, per_minute: int, redis_url: str, *, timeout: float = 0.5):
        self._item = RateLimitItemPerMinute(max(per_minute, 1), namespace=NAMESPACE)
        self._off = per_minute == 0
        self._breaker = Breaker()
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._pool: ConnectionPool | None = None
        self._shared: MovingWindowRateLimiter | None = None
        if redis_url and not self._off:
            self._pool = ConnectionPool.from_url(
                redis_url, socket_timeout=timeout, socket_connect_timeout=timeout, max_connections=CONNECTIONS
            )
            storage = RedisStorage(
                "async+redis://",
                implementation="redispy",
                connection_pool=self._pool,  # type: ignore[arg-type]  # declared too narrowly
            )
            self._shared = MovingWindowRateLimiter(storage)

    async def hit(self, client: str) -> Verdict | None:
        """Counts a request of `client`; None where there is no limit."""
        if self._off:
            return None
        if self._shared:
            # A request waits for its turn: more at once than the pool has connections is no sign of an outage.
            async with self._turns:
                if self._breaker.closed and (verdict := await self._hit_shared(self._shared, client)):
                    return verdict
        return await self._hit(self._own, client)

    async def _hit_shared(self, limiter: MovingWindowRateLimiter, client: str) -> Verdict | None:
        try:
            verdict = await self._hit(limiter, client)
        except AWAY as error:
            metrics.count_error("rate-limit-store")
            if self._breaker.failure():
                logger.warning("rate_limit_store_away", error=type(error).__name__, effect="counting per process")
            return None
        if self._breaker.success():
            logger.info("rate_limit_store_back")
        return verdict

    async def close(self) -> None:
        """Gives back the connections."""
        if self._pool:
            await self._pool.disconnect()

    async def _hit(self, limiter: MovingWindowRateLimiter, client: str) -> Verdict:
        allowed = await limiter.hit(self._item, client)
        stats = await limiter.get_window_stats(self._item, client)
        reset = max(1, round(stats.reset_time - time.time()))
        return Verdict(allowed, self._item.amount, max(0, stats.remaining) if allowed else 0, reset)
