"""`comment-monitor serve`."""

import gc
import sys
from pathlib import Path

import click
import uvloop

from comment_monitor.cli.settings import PORT, data_dir_option, load_settings
from comment_monitor.core.config import require_dsn
from comment_monitor.observability import tracing
from comment_monitor.observability.metrics_server import serve_metrics
from comment_monitor.runtime import check_addresses
from comment_monitor.web import server

SERVICE = "orchestrator"


@click.command
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=PORT, default=8080, show_default=True, help="Port of the HTTP API.")
@click.option("--metrics-port", type=PORT, default=9090, show_default=True, help="Port of /metrics.")
@data_dir_option
def serve(host: str, port: int, metrics_port: int, data_dir: Path) -> None:
    """Run the HTTP API and this process's part of the pipeline.

    Answers /health at once, even before the database is available or migrated. SIGTERM: /health turns 503, accepted
    work is finished, then the process ends.
    """
    settings = load_settings(data_dir, share_metrics=False, follow=True)
    require_dsn(settings, data_dir)
    check_addresses(settings)
    _spare_the_collector()
    listening = server.listen(host, port)
    serve_metrics(host, metrics_port)
    tracing.start(settings.otlp_endpoint, SERVICE)
    try:
        if not uvloop.run(server.serve(settings, listening)):
            sys.exit(1)
    finally:
        tracing.stop()


def _spare_the_collector() -> None:
    """Runs the garbage collector less often: thousands of comments come and go, and none is in a reference cycle."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
