"""`/metrics` on a port and threads of its own, so that a busy event loop is still scraped.

Where PROMETHEUS_MULTIPROC_DIR is set, processes that share the folder are added up: a worker with its pool, and on one
machine everything that `up` started, with an `ingest` beside it.
"""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import prometheus_client
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from comment_monitor.container import ContainerCollector
from comment_monitor.errors import ConfigurationError
from comment_monitor.sharing import FOLDER_VARIABLE, SharedCounts


class Known(Collector):
    """What another collector has, but for figures that nobody knows at the moment (`LateGauge.forget`)."""

    def __init__(self, collector: Collector):
        self._collector = collector

    def collect(self) -> Iterator[Metric]:
        """As of now."""
        for metric in self._collector.collect():
            if metric.type == "gauge":
                metric.samples = [one for one in metric.samples if not math.isnan(one.value)]
            if metric.type != "gauge" or metric.samples:
                yield metric


def serve_metrics(host: str, port: int) -> Callable[[], None]:
    """Serves this process's metrics, or those of all that share its folder; returns what ends it.

    Raises:
        ConfigurationError: the port can't be used.
    """
    registry = prometheus_client.CollectorRegistry()
    if folder := os.environ.get(FOLDER_VARIABLE):
        registry.register(Known(SharedCounts(Path(folder))))
        # What the shared folder does not hold: memory, processor time and open files of the process that is asked.
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
    else:
        registry.register(Known(prometheus_client.REGISTRY))
    registry.register(ContainerCollector())
    try:
        server, thread = prometheus_client.start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ConfigurationError(
            f"Port {port} on {host} can't be used ({error.strerror}); choose another with --metrics-port."
        ) from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
