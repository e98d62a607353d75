"""Serves `/metrics` on a separate port and in separate threads, so that a busy event loop does not delay a scrape.

Where PROMETHEUS_MULTIPROC_DIR is set, it serves the sum of all processes that share the folder: a worker with its pool,
and on one machine all processes of `up` together with an `ingest`.
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

# Maximum number of connections, with a thread each, and of further connections in the listen queue.
CONNECTIONS: Final = 64


class WithoutUnknown(Collector):
    """Exports another collector's metrics without gauges whose value is unknown (`OptionalGauge.clear`)."""

    def __init__(self, collector: Collector):
        self._collector = collector

    def collect(self) -> Iterator[Metric]:
        """Yields the current metrics."""
        for metric in self._collector.collect():
            if metric.type == "gauge":
                metric.samples = [sample for sample in metric.samples if not math.isnan(sample.value)]
            if metric.type != "gauge" or metric.samples:
                yield metric


class _Handler(WSGIRequestHandler):
    """Logs no requests, and closes a connection that is idle for `timeout` seconds, because each occupies a thread."""

    timeout = 30
    open = 0
    lock = Lock()

    def handle(self) -> None:
        """Handles a connection and counts it as open."""
        with self.lock:
            _Handler.open += 1
        try:
            # The connection timed out, or the client disconnected.
            with suppress(OSError):
                super().handle()
        finally:
            with self.lock:
                _Handler.open -= 1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the library calls it
        """Logs nothing."""


def _with_head(app: "WSGIApplication") -> "WSGIApplication":
    """Wraps an application so that it answers HEAD like GET, without the body."""

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
    """Serves this process's metrics, or those of all processes that share its folder; returns a function that stops it.

    Raises:
        ConfigurationError: the port can't be used.
    """
    registry = prometheus_client.CollectorRegistry()
    if folder := os.environ.get(FOLDER_VARIABLE):
        registry.register(WithoutUnknown(SharedCounts(Path(folder))))
        # Metrics that the shared folder does not have: memory, processor time and open files of the scraped process.
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
    # The library's listen queue has five places, and a sixth client would retry after a second.
    server.socket.listen(CONNECTIONS)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
