"""What the handlers share: the runtime, and whether this process is on its way out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from comment_monitor import errors
from comment_monitor.runtime import Runtime

# Seconds that a client gets for the rest of its request once this process takes no new ones.
GRACE: Final = 2.0


class Service:
    """One process's HTTP side.

    `leaving` turns `/health` to 503 so that load balancers look elsewhere; `draining` refuses new work too.
    """

    def __init__(self, runtime: Runtime):
        self.runtime = runtime
        self.leaving = False
        self.draining = False
        self._reading: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """A request's body is being read: nothing of it is accepted yet.

        Raises:
            TimeoutError: this process drains and the rest did not come within the grace.
        """
        async with asyncio.timeout(GRACE if self.draining else None) as limit:
            self._reading.add(limit)
            try:
                yield
            finally:
                self._reading.discard(limit)

    def drain(self) -> None:
        """From now on no new work."""
        self.draining = True
        until = asyncio.get_running_loop().time() + GRACE
        for limit in self._reading:
            limit.reschedule(until)

    def require_work(self) -> None:
        """Raises where this process takes no comments now."""
        if not self.runtime.settings.enabled:
            raise errors.Disabled("COMMENT_MONITORING_ENABLED is false here.")
        if self.draining:
            raise errors.Draining("This process is shutting down; repeat the request.")
        self.runtime.schema.require()
