"""`comment-monitor smoke-test`."""

from contextlib import suppress
from pathlib import Path

import click
import psycopg2

from comment_monitor.cli.printing import say
from comment_monitor.cli.settings import DEFAULT_URL, data_dir_option, load_settings, service_address
from comment_monitor.core.config import Settings, require_dsn
from comment_monitor.core.errors import ConfigurationError
from comment_monitor.diagnostics.smoke_test import SOURCE, SmokeError, SmokeTest


@click.command("smoke-test")
@click.option("--url", help=f"The service's address. [default: that of a running `up`, else {DEFAULT_URL}]")
@click.option("--timeout", type=click.IntRange(1, 3600), default=60, show_default=True, help="Seconds for each step.")
@click.option("--keep", is_flag=True, help="Keep the comment; no database is needed then.")
@data_dir_option
def smoke_test(url: str | None, timeout: int, keep: bool, data_dir: Path) -> None:
    """Send one comment through a running service: stored, found, a duplicate when sent again, analysed, removed.

    Exit code 0: every step succeeded. 1: a step failed; its line says what happened instead.
    """
    settings = load_settings(data_dir)
    if not keep:
        require_dsn(settings, data_dir)
    address = service_address(url, data_dir)
    if not address.startswith(("http://", "https://")):
        raise ConfigurationError(f"--url {address}: must be an address such as {DEFAULT_URL}")
    test = SmokeTest(address, timeout)
    try:
        for step in test.steps():
            say(f"ok    {step.name} ({step.seconds:.2f} s)")
    except SmokeError as error:
        say(f"FAIL  {error}")
        if not keep:
            with suppress(psycopg2.Error):
                test.remove(settings.postgres_dsn)
        raise SystemExit(1) from None
    if keep:
        say(f"The comment stays: {SOURCE}/{test.id}")
    else:
        _remove(test, settings)


def _remove(test: SmokeTest, settings: Settings) -> None:
    try:
        test.remove(settings.postgres_dsn)
    except psycopg2.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise click.ClickException(f"The comment could not be removed ({reason}): {SOURCE}/{test.id}.") from None
    say("ok    it is removed")
