"""`comment-monitor worker`."""

import os
import shutil
import tempfile
from pathlib import Path

import click

from comment_monitor.cli.settings import load_settings
from comment_monitor.errors import ConfigurationError
from comment_monitor.runtime import require_dsn

MULTIPROC = "PROMETHEUS_MULTIPROC_DIR"


@click.command
@click.option(
    "--concurrency", default=max(1, (os.cpu_count() or 2) - 1), show_default=True, help="Processes that analyse."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of /metrics.")
@click.option("--metrics-port", default=9090, show_default=True, help="Port of /metrics; 0: none.")
def worker(concurrency: int, host: str, metrics_port: int) -> None:
    """Run a Celery worker, which analyses comments.

    SIGTERM: what is begun is finished, then it ends; a batch cut short is analysed by another worker. The processes'
    metrics are added up and served on one port. (`celery -A comment_monitor.tasks worker` works too, without them.)
    """
    settings = load_settings()
    require_dsn(settings)
    if not settings.broker_url:
        raise ConfigurationError("CELERY_BROKER_URL is not set, such as amqp://user:password@host:5672//")
    folder = Path(os.environ.get(MULTIPROC) or tempfile.mkdtemp(prefix="comment-worker-metrics-"))
    os.environ[MULTIPROC] = str(folder)
    try:
        _serve_metrics(folder, host, metrics_port)
        _run(concurrency)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _serve_metrics(folder: Path, host: str, port: int) -> None:
    """Serves the sum over this worker's processes. The folder must be set before the metrics are imported."""
    import prometheus_client  # noqa: PLC0415
    from prometheus_client import multiprocess  # noqa: PLC0415

    for stale in folder.glob("*.db"):
        stale.unlink()
    if not port:
        return
    registry = prometheus_client.CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    try:
        prometheus_client.start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise click.ClickException(
            f"Port {port} on {host} can't be used ({error.strerror}); choose another with --metrics-port."
        ) from None


def _run(concurrency: int) -> None:
    from comment_monitor.tasks import app  # noqa: PLC0415 - loads the analysers

    app.worker_main(
        [
            "worker",
            "--concurrency", str(concurrency),
            "--pool", "prefork",
            "--loglevel", "WARNING",
            "--without-gossip", "--without-mingle",
            "-O", "fair",
        ]
    )  # fmt: skip
