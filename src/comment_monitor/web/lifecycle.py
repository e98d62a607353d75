"""The state that the handlers share: the runtime, and whether this process is shutting down."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from weakref import WeakValueDictionary

from litestar import Request
from litestar.datastructures import State

from comment_monitor.core import errors
from comment_monitor.core.config import networks
from comment_monitor.runtime import Runtime
from comment_monitor.web.bodies import Bodies
from comment_monitor.web.clients import client_of
from comment_monitor.web.encodings import Unpacker
from comment_monitor.web.reads import Reads

# Bodies that are parsed comment by comment at the same time, and seconds that a body waits for its turn.
CAREFUL_AT_ONCE: Final = 2
CAREFUL_PATIENCE: Final = 5.0


class Lifecycle:
    """The HTTP side of one process.

    `not_ready` turns `/health` to 503, so that load balancers use other processes; `draining` refuses new work too.
    """

    def __init__(self, runtime: Runtime):
        self.runtime = runtime
        self.not_ready = False
        self.draining = False
        self.bodies = Bodies(runtime.settings.body_bytes_in_flight)
        self.unpacker = Unpacker()
        self._careful = asyncio.Semaphore(CAREFUL_AT_ONCE)
        # By client, for as long as a request holds the client's turn or waits for it.
        self._careful_of: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.reads = Reads(runtime.settings.read_connections, runtime.settings.reads_per_client)
        self._proxies = networks(runtime.settings.trusted_proxies)

    def client_of(self, request: Request[Any, Any, State]) -> str:
        """Returns the name under which limits count the client of a request."""
        return client_of(request.client.host if request.client else "", request.scope["headers"], self._proxies)

    @asynccontextmanager
    async def careful(self, request: Request[Any, Any, State]) -> AsyncIterator[None]:
        """Holds a turn at parsing a body comment by comment in a thread; each client has one turn at a time.

        Raises:
            Overloaded: no turn became free in time.
        """
        client = self.client_of(request)
        own = self._careful_of.setdefault(client, asyncio.Lock())
        try:
            async with asyncio.timeout(CAREFUL_PATIENCE), AsyncExitStack() as waited:
                await waited.enter_async_context(own)
                await waited.enter_async_context(self._careful)
                turn = waited.pop_all()
        except TimeoutError:
            raise errors.Overloaded("Other requests with invalid comments are being parsed; repeat this one.") from None
        async with turn:
            yield

    def drain(self) -> None:
        """Refuses new work from now on."""
        self.draining = True
        self.bodies.drain()

    def require_work(self) -> None:
        """Raises if this process accepts no comments now."""
        if not self.runtime.settings.enabled:
            raise errors.Disabled("COMMENT_MONITORING_ENABLED is false here.")
        if self.draining:
            raise errors.Draining("This process is shutting down; repeat the request.")
        self.runtime.schema.require_writes()
        self.runtime.pipeline.queue.require_capacity()
