"""`/metrics` on a port and threads of its own, so that a busy event loop is still scraped.

Where PROMETHEUS_MULTIPROC_DIR is set, processes that share the folder are added up: a worker with its pool, and on one
machine everything that `up` started, with an `ingest` beside it. It has to be set before prometheus_client is imported.
"""

import os
from typing import Final

import prometheus_client
from prometheus_client import multiprocess

from comment_monitor.container import ContainerCollector
from comment_monitor.errors import ConfigurationError

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"


def serve_metrics(host: str, port: int) -> None:
    """Serves this process's metrics, or those of all that share its folder.

    Raises:
        ConfigurationError: the port can't be used.
    """
    registry = prometheus_client.REGISTRY
    if os.environ.get(FOLDER_VARIABLE):
        registry = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        # What the shared folder does not hold: memory, processor time and open files of the process that is asked.
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
    registry.register(ContainerCollector())
    try:
        prometheus_client.start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ConfigurationError(
            f"Port {port} on {host} can't be used ({error.strerror}); choose another with --metrics-port."
        ) from None


def leave() -> None:
    """Takes this process's gauges out of the sum; its counts stay."""
    if os.environ.get(FOLDER_VARIABLE):
        multiprocess.mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]
