"""`/metrics` on a port and threads of its own, so that a busy event loop is still scraped.

Where PROMETHEUS_MULTIPROC_DIR is set, processes that share the folder are added up: a worker with its pool, and on one
machine everything that `up` started, with an `ingest` beside it.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler

import prometheus_client
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from comment_monitor.core.errors import ConfigurationError
from comment_monitor.observability.cgroup import ContainerCollector
from comment_monitor.observability.multiprocess_metrics import FOLDER_VARIABLE, SharedCounts

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

# Connections at the same time, a thread each; and so many may wait to be taken up.
CONNECTIONS: Final = 64


class WithoutUnknown(Collector):
    """What another collector has, but for figures that nobody knows at the moment (`OptionalGauge.forget`)."""

    def __init__(self, collector: Collector):
        self._collector = collector

    def collect(self) -> Iterator[Metric]:
        """As of now."""
        for metric in self._collector.collect():
            if metric.type == "gauge":
                metric.samples = [one for one in metric.samples if not math.isnan(one.value)]
            if metric.type != "gauge" or metric.samples:
                yield metric


class _Handler(WSGIRequestHandler):
    """Logs nothing of requests, and ends a connection that says nothing for so many seconds: each has a thread."""

    timeout = 30
    open = 0
    lock = Lock()

    def handle(self) -> None:
        """Counts the connections."""
        with self.lock:
            _Handler.open += 1
        try:
            # One that says nothing, or goes away.
            with suppress(OSError):
                super().handle()
        finally:
            with self.lock:
                _Handler.open -= 1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the library calls it
        """Nothing."""


def _with_head(app: "WSGIApplication") -> "WSGIApplication":
    """Answers HEAD as GET, without the body."""

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
        head = environ["REQUEST_METHOD"] == "HEAD"

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            headers = [(name, value if name != "Allow" else f"{value},HEAD") for name, value in headers]
            started.append((status, headers, *more))
            return lambda _: None

        started: list[Any] = []
        body = b"".join(app({**environ, "REQUEST_METHOD": "GET"} if head else environ, start))
        status, headers, *more = started[0]
        start_response(status, [*headers, ("Content-Length", str(len(body)))], *more)
        return [b"" if head else body]

    return answer


def serve_metrics(host: str, port: int) -> Callable[[], None]:
    """Serves this process's metrics, or those of all that share its folder; returns what ends it.

    Raises:
        ConfigurationError: the port can't be used.
    """
    registry = prometheus_client.CollectorRegistry()
    if folder := os.environ.get(FOLDER_VARIABLE):
        registry.register(WithoutUnknown(SharedCounts(Path(folder))))
        # What the shared folder does not hold: memory, processor time and open files of the process that is asked.
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
    else:
        registry.register(WithoutUnknown(prometheus_client.REGISTRY))
    registry.register(ContainerCollector())
    try:
        server, thread = prometheus_client.start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ConfigurationError(
            f"Port {port} on {host} can't be used ({error.strerror}); choose another with --metrics-port."
        ) from None

    server.set_app(_with_head(prometheus_client.make_wsgi_app(registry)))
    server.RequestHandlerClass = _Handler
    server.verify_request = lambda *_: _Handler.open < CONNECTIONS  # type: ignore[method-assign]
    # The library's own is five, and who comes as the sixth asks again after a second.
    server.socket.listen(CONNECTIONS)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
