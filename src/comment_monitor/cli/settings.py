"""Where a command's settings come from: the environment, else the `up` that runs on this data folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from comment_monitor import config, log
from comment_monitor.config import Settings
from comment_monitor.embedded.state import read_endpoints

# Read by prometheus_client when it is imported, so before anything here may import it.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def data_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--data-dir`, for commands that use a running `up`."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("data"),
        show_default=True,
        help="Data folder of a running `up`, whose servers are used where POSTGRES_DSN is not set.",
    )(command)


def load_settings(data_dir: Path | None = None) -> Settings:
    """The settings; logging is set up by them."""
    environment = dict(os.environ)
    if data_dir is not None and not environment.get("POSTGRES_DSN"):
        environment = {**(read_endpoints(data_dir) or {}), **{k: v for k, v in environment.items() if v}}
        if folder := environment.get(FOLDER_VARIABLE):
            # Counts made here show on the port of the `up` that runs.
            os.environ.setdefault(FOLDER_VARIABLE, folder)
    settings = config.load(environment)
    log.configure(settings.log_level)
    return settings
