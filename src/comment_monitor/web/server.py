"""The process that serves HTTP: uvicorn, its listening socket, and an orderly shutdown."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import uvicorn

from comment_monitor.core.config import Settings
from comment_monitor.core.errors import ConfigurationError
from comment_monitor.observability import logs
from comment_monitor.web.app import create_app, create_asgi
from comment_monitor.web.connection import Connection
from comment_monitor.web.door import Door
from comment_monitor.web.lifecycle import Lifecycle

logger = logs.get(__name__)

BACKLOG: Final = 2048


class Server(uvicorn.Server):
    """uvicorn without its signal handlers, which on SIGTERM would stop listening first."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures no signals."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """Returns the socket to serve on.

    Raises:
        ConfigurationError: the port can't be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # `::` means all addresses of both families, whatever the system's default is.
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        # `create_server` appends the attempted address to the system's message.
        reason = (error.strerror or str(error)).partition(" (while ")[0]
        raise ConfigurationError(
            f"Port {port} on {host} can't be used ({reason}); choose another with --port."
        ) from None


async def serve(settings: Settings, listening: socket.socket) -> bool:
    """Serves until SIGTERM or SIGINT, then drains; returns False if the start failed (uvicorn has logged why)."""
    app = create_app(settings)
    door = Door(settings.max_connections)
    server = Server(
        uvicorn.Config(
            create_asgi(app),
            loop="uvloop",
            http=partial(Connection, door=door),  # type: ignore[arg-type]
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            # COMMENT_TRUSTED_PROXIES names the proxies to believe; uvicorn would believe any process on this host.
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=settings.processing_timeout + 5,
        )
    )
    stop = _stop_on_signals()
    watching = asyncio.create_task(door.watch())
    serving = asyncio.create_task(server.serve([listening]))
    host, port = listening.getsockname()[:2]
    logger.info("serving", host=host, port=port)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not serving.done():
        # A signal may come before the start is complete: then there is nothing to drain.
        if lifecycle := app.state.get("lifecycle"):
            await _drain(lifecycle, settings)
        server.should_exit = True
    await serving
    watching.cancel()
    return server.started


def _stop_on_signals() -> asyncio.Event:
    """Returns an event that SIGTERM or SIGINT sets. A later SIGINT, such as a second Ctrl-C, ends the process at once.

    The comments of answered requests are committed by then, and clients may repeat unanswered requests.
    """
    stop = asyncio.Event()

    def interrupt() -> None:
        if stop.is_set():
            logger.warning("leaving_at_once")
            os._exit(128 + signal.SIGINT)
        stop.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    return stop


async def _drain(lifecycle: Lifecycle, settings: Settings) -> None:
    """Turns `/health` to 503 first, then refuses new work; accepted work is finished."""
    lifecycle.not_ready = True
    logger.info("leaving", drain_delay=settings.drain_delay)
    await asyncio.sleep(settings.drain_delay)
    lifecycle.drain()
    logger.info("draining", waiting=len(lifecycle.runtime.pipeline.queue))
