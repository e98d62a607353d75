"""`comment-monitor serve` on granian instead of uvicorn, for the comparison in docs/adr/0036.

python -m bench.harness.under_granian <arguments of comment-monitor>; needs `pip install granian`, which is not a
dependency of this project.
"""

import asyncio
import signal
import socket

# Not in any lock file.
from granian.constants import HTTPModes, Interfaces  # type: ignore[import-not-found, unused-ignore]
from granian.http import HTTP1Settings  # type: ignore[import-not-found, unused-ignore]
from granian.server.embed import Server  # type: ignore[import-not-found, unused-ignore]

from comment_monitor.cli import main
from comment_monitor.core.config import Settings
from comment_monitor.web import server
from comment_monitor.web.app import create_app, create_asgi

HEAD_BYTES = 65_536


async def serve(settings: Settings, listening: socket.socket) -> bool:
    """Serves until SIGTERM."""
    host, port = listening.getsockname()[:2]
    listening.close()
    granian = Server(
        create_asgi(create_app(settings)),
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=server.BACKLOG,
        log_enabled=False,
        http1_settings=HTTP1Settings(header_read_timeout=30_000, max_buffer_size=HEAD_BYTES),
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving = asyncio.create_task(granian.serve())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    granian.stop()  # type: ignore[no-untyped-call, unused-ignore]
    await serving
    return True


if __name__ == "__main__":
    server.serve = serve
    main()
