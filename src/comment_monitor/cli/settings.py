"""The settings of a command, from the environment or else from the `up` that runs on its data folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from comment_monitor.core import config
from comment_monitor.core.config import Settings
from comment_monitor.devserver.endpoints import read_endpoints
from comment_monitor.observability import log_level, logs
from comment_monitor.observability.multiprocess_metrics import FOLDER_VARIABLE

DEFAULT_DATA_DIR = Path("data")
DEFAULT_URL = "http://127.0.0.1:8080"
PORT = click.IntRange(1, 65535)


def data_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--data-dir` to a command that uses a running `up`."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=DEFAULT_DATA_DIR,
        show_default=True,
        help="Data folder of a running `up`, whose servers are used if POSTGRES_DSN is not set.",
    )(command)


def service_address(url: str | None, data_dir: Path = DEFAULT_DATA_DIR) -> str:
    """Returns the service's address: `url` (http:// may be left out, as for curl), else that of the running `up`."""
    if url is None:
        return (read_endpoints(data_dir) or {}).get("API_URL", DEFAULT_URL)
    return url if "://" in url else f"http://{url}"


def metrics_address(service: str, data_dir: Path = DEFAULT_DATA_DIR) -> str:
    """Returns the URL of the metrics: that of the running `up`, else port 9090 of the service's machine."""
    endpoints = read_endpoints(data_dir) or {}
    if endpoints.get("API_URL") == service and (found := endpoints.get("METRICS_URL")):
        return found
    parts = urlsplit(service)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:9090/metrics"


def load_settings(data_dir: Path, *, share_metrics: bool = True, follow: bool = False) -> Settings:
    """Returns the settings, and sets up logging by them.

    Args:
        data_dir: where to look for a running `up`.
        share_metrics: whether the metrics port of that `up` exports this process's counts too.
        follow: whether to follow LOG_LEVEL_FILE, as long-running commands do.
    """
    environment = {name: value for name, value in os.environ.items() if value}
    if "POSTGRES_DSN" not in environment:
        environment = {**(read_endpoints(data_dir) or {}), **environment}
        if share_metrics and (folder := environment.get(FOLDER_VARIABLE)):
            # Read when the metrics are created, which is when a command imports them.
            os.environ[FOLDER_VARIABLE] = folder
    settings = config.load(environment)
    logs.configure(settings.log_level)
    if follow:
        log_level.follow(settings.log_level_file, settings.log_level)
    return settings
