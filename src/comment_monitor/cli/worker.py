"""`comment-monitor worker`."""

import asyncio
import os
import sys
import warnings
from pathlib import Path

import click

from comment_monitor.cli.settings import data_dir_option, load_settings
from comment_monitor.core.config import Settings, require_dsn
from comment_monitor.core.errors import ConfigurationError
from comment_monitor.messaging.celery_app import refuse_cluster
from comment_monitor.observability import tracing
from comment_monitor.observability.multiprocess_metrics import own_folder


@click.command
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=lambda: max(1, (os.cpu_count() or 2) - 1),
    show_default="one less than the processors",
    help="Processes that analyse.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of /metrics.")
@click.option(
    "--metrics-port", type=click.IntRange(0, 65535), default=9090, show_default=True, help="Port of /metrics; 0: none."
)
@data_dir_option
def worker(concurrency: int, host: str, metrics_port: int, data_dir: Path) -> None:
    """Run a Celery worker, which analyses comments.

    It ends at once if the database refuses login, database name or certificate, and waits for an unavailable database.
    On SIGTERM it finishes begun batches, then ends; another worker analyses a batch that was cut short. The metrics of
    its processes are added up and served on one port. (`celery -A comment_monitor.tasks worker` works too, but serves
    no metrics.)
    """
    settings = load_settings(data_dir)
    require_dsn(settings, data_dir)
    if not settings.broker_url:
        raise ConfigurationError("CELERY_BROKER_URL is not set, such as amqp://user:password@host:5672//")
    refuse_cluster(settings.broker_url)
    # Celery's application and the processes of its pool read these variables.
    os.environ["POSTGRES_DSN"], os.environ["CELERY_BROKER_URL"] = settings.postgres_dsn, settings.broker_url
    tracing.check(settings.otlp_endpoint)
    with own_folder():
        _run(settings, concurrency, host, metrics_port)


def _run(settings: Settings, concurrency: int, host: str, metrics_port: int) -> None:
    # Imported here, because the metrics have to find their folder, and because the analysers take long to import.
    from comment_monitor.observability.metrics_server import serve_metrics  # noqa: PLC0415
    from comment_monitor.storage.postgres import require_login  # noqa: PLC0415
    from comment_monitor.tasks import app  # noqa: PLC0415

    timeout = settings.processing_timeout
    asyncio.run(require_login(settings.postgres_dsn, timeout=timeout, application="comment-monitor worker"))
    stop_serving = serve_metrics(host, metrics_port) if metrics_port else None
    # Celery warns of root because of pickled messages; only JSON is accepted here.
    warnings.filterwarnings("ignore", message="(?s).*superuser privileges")
    try:
        # Not by Celery's command line, whose imports (a terminal's prompt) cost 0.2 seconds and 8 MiB.
        controller = app.Worker(
            concurrency=concurrency,
            pool_cls="prefork",
            loglevel="WARNING",
            quiet=True,
            without_gossip=True,
            without_mingle=True,
            optimization="fair",
        )
        controller.start()
        # A worker that can't go on has failed.
        if controller.exitcode:
            sys.exit(controller.exitcode)
    finally:
        if stop_serving:
            # Before the folder is removed: with half of the counts gone, the rest would look like a start from zero,
            # and be added again.
            stop_serving()
