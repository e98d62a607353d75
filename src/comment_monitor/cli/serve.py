"""`comment-monitor serve`."""

import sys

import click
import uvloop

from comment_monitor.api import server
from comment_monitor.cli.settings import load_settings
from comment_monitor.config import require_dsn
from comment_monitor.exposition import serve_metrics


@click.command
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, help="Port of the HTTP API.")
@click.option("--metrics-port", default=9090, show_default=True, help="Port of /metrics.")
def serve(host: str, port: int, metrics_port: int) -> None:
    """Run the HTTP API and this process's part of the pipeline.

    Answers /health at once, even before the database is there or migrated. SIGTERM: /health turns 503, accepted
    work is finished, then the process ends.
    """
    settings = load_settings()
    require_dsn(settings)
    serve_metrics(host, metrics_port)
    if not uvloop.run(server.serve(settings, host=host, port=port)):
        sys.exit(1)
