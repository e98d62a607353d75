"""The rate limit of `POST /comments/process`: a moving minute per client, shared by all pods through Redis.

The counting is the `limits` library's (one atomic script in Redis); with Redis away it is this process's own.
"""

import time
from typing import Final, NamedTuple

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import MovingWindowRateLimiter

from comment_monitor import log, metrics
from comment_monitor.breaker import Breaker
from comment_monitor.dedup import AWAY

logger = log.get(__name__)

WINDOW: Final = 60
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
        self._storage = _redis_storage(redis_url, timeout) if redis_url and not self._off else None
        self._shared = MovingWindowRateLimiter(self._storage) if self._storage else None

    async def hit(self, client: str) -> Verdict | None:
        """Counts a request of `client`; None where there is no limit."""
        if self._off:
            return None
        if self._shared and self._breaker.closed:
            try:
                verdict = await self._hit(self._shared, client)
            except AWAY as error:
                metrics.count_error("rate-limit-store")
                if self._breaker.failure():
                    logger.warning("rate_limit_store_away", error=type(error).__name__, effect="counting per process")
            else:
                self._breaker.success()
                return verdict
        return await self._hit(self._own, client)

    async def _hit(self, limiter: MovingWindowRateLimiter, client: str) -> Verdict:
        allowed = await limiter.hit(self._item, client)
        stats = await limiter.get_window_stats(self._item, client)
        reset = max(1, round(stats.reset_time - time.time()))
        return Verdict(allowed, self._item.amount, max(0, stats.remaining) if allowed else 0, reset)


def _redis_storage(url: str, timeout: float) -> Storage:
    scheme, _, rest = url.partition("://")
    address = f"async+redis+unix://{rest}" if scheme == "unix" else f"async+{scheme}://{rest}"
    return RedisStorage(address, implementation="redispy", socket_timeout=timeout, socket_connect_timeout=timeout)
