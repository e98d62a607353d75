"""`comment-monitor up`."""

import sys
from collections.abc import Mapping
from pathlib import Path

import click
import rich.console
import rich.text

from comment_monitor.cli.printing import say
from comment_monitor.cli.settings import PORT
from comment_monitor.core import config
from comment_monitor.core.dsn import read_dsn
from comment_monitor.core.printable import printable
from comment_monitor.devserver.supervisor import Where, run
from comment_monitor.observability.redaction import redacted

WHERE = ("host", "port", "db", "dbname", "virtual_host", "user", "sslmode")


@click.command
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=PORT, default=8080, show_default=True, help="Port of the HTTP API.")
@click.option("--metrics-port", type=PORT, default=9090, show_default=True, help="Port of /metrics.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data"),
    show_default=True,
    help="Where PostgreSQL keeps its data, and the servers their logs.",
)
def up(host: str, port: int, metrics_port: int, data_dir: Path) -> None:
    """Run everything on this machine until Ctrl-C: PostgreSQL, Redis, migrations, API and worker.

    The same code as in production; only the servers are embedded. POSTGRES_DSN, REDIS_URL and CELERY_BROKER_URL name
    servers of your own instead. The data folder stays for the next start; the other commands find the servers in it.
    """
    settings = config.load()
    if settings.postgres_dsn:
        read_dsn(settings.postgres_dsn)
    if settings.redis_url or settings.broker_url:
        # Imported here because it loads Celery.
        from comment_monitor.runtime import check_addresses  # noqa: PLC0415

        check_addresses(settings)
    where = Where(host, port, metrics_port, data_dir.absolute())
    run(where, announce)
    say("Stopped.")


def announce(where: Where, endpoints: Mapping[str, str]) -> None:
    """Prints the address of each part."""
    rows = [
        ("API", where.url(where.port, "/comments/process")),
        ("Documentation", where.url(where.port, "/docs")),
        ("Health", where.url(where.port, "/health")),
        ("Metrics", where.url(where.metrics_port, "/metrics")),
        ("PostgreSQL", _without_password(endpoints["POSTGRES_DSN"])),
        ("Redis", _without_password(endpoints["REDIS_URL"])),
        ("Queue", _without_password(endpoints["CELERY_BROKER_URL"])),
        ("Data", str(where.data_dir)),
    ]
    lines = [
        rich.text.Text.assemble("\n", ("Comment Monitoring Pipeline is up", "bold green"), " (Ctrl-C stops all of it)"),
        *(rich.text.Text.assemble((f"{name + ':':16}", "bold"), printable(value)) for name, value in rows),
    ]
    # Never cut or folded, because users copy the lines. A single write, so that no server's log comes between them.
    rich.console.Console(soft_wrap=True, highlight=False).print(rich.text.Text("\n").join(lines))
    sys.stdout.flush()


def _without_password(url: str) -> str:
    """Returns a server's address as it may be shown: without password, with only the parameters that locate it."""
    url, question, query = url.partition("?")
    shown = "&".join(parameter for parameter in query.split("&") if parameter.partition("=")[0] in WHERE)
    head, at, tail = url.rpartition("@")
    scheme, colon, user = head.partition("://")
    address = f"{scheme}{colon}{user.split(':')[0]}{at}{tail}" if at else url
    return redacted(f"{address}{question if shown else ''}{shown}")
