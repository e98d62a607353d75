"""What the handlers share: the runtime, and whether this process is on its way out."""

import asyncio
from typing import Any

from litestar import Request
from litestar.datastructures import State

from comment_monitor import errors
from comment_monitor.api.bodies import Bodies
from comment_monitor.api.clients import client_of
from comment_monitor.api.encodings import Unpacker
from comment_monitor.api.reads import Reads
from comment_monitor.config import networks
from comment_monitor.runtime import Runtime


class Service:
    """One process's HTTP side.

    `leaving` turns `/health` to 503 so that load balancers look elsewhere; `draining` refuses new work too.
    """

    def __init__(self, runtime: Runtime):
        self.runtime = runtime
        self.leaving = False
        self.draining = False
        self.bodies = Bodies(runtime.settings.body_bytes_in_flight)
        self.unpacker = Unpacker()
        # Bodies that are parsed comment by comment at the same time, beside the event loop.
        self.careful = asyncio.Semaphore(2)
        self.reads = Reads(runtime.settings.read_connections, runtime.settings.reads_per_client)
        self._proxies = networks(runtime.settings.trusted_proxies)

    def client_of(self, request: Request[Any, Any, State]) -> str:
        """Who sent a request, as limits count clients."""
        return client_of(request.client.host if request.client else "", request.scope["headers"], self._proxies)

    def drain(self) -> None:
        """From now on no new work."""
        self.draining = True
        self.bodies.drain()

    def require_work(self) -> None:
        """Raises where this process takes no comments now."""
        if not self.runtime.settings.enabled:
            raise errors.Disabled("COMMENT_MONITORING_ENABLED is false here.")
        if self.draining:
            raise errors.Draining("This process is shutting down; repeat the request.")
        self.runtime.schema.require_writes()
        self.runtime.pipeline.queue.require_room()
