"""`comment-monitor load-test`."""

import asyncio
import json
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import click

from comment_monitor.cli.progress import Progress
from comment_monitor.loadtest import plan
from comment_monitor.loadtest.drive import Driver, Load, Result
from comment_monitor.loadtest.report import Bounds, failures, in_words, summary
from comment_monitor.loadtest.texts import Expected, make_comments

SHARE = click.FloatRange(0, 1)


@click.command("load-test")
@click.argument("url", default="http://127.0.0.1:8080")
@click.option("--comments", type=click.IntRange(1), help="Comments to send. [default: 10,000 without --duration]")
@click.option("--duration", type=click.FloatRange(0, min_open=True), help="Seconds to send for.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="Comments a second. [default: as fast as it goes]"
)
@click.option("--concurrency", type=click.IntRange(1), default=64, show_default=True, help="Connections.")
@click.option("--batch", type=click.IntRange(1), default=25, show_default=True, help="Comments a request.")
@click.option("--posts", type=click.IntRange(1), default=20, show_default=True, help="Posts they are spread over.")
@click.option("--duplicates", type=SHARE, default=0.0, help="Share of comments that repeat an earlier one.")
@click.option("--edits", type=SHARE, default=0.0, help="Share of comments that edit an earlier one.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same comments.")
@click.option("--run-id", help="Prefix of the comments' ids. [default: random]")
@click.option(
    "--file",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Send these comments (JSON Lines, .gz too) instead of made-up ones.",
)
@click.option("--repeat", is_flag=True, help="Begin the file again at its end.")
@click.option("--api-key", envvar="COMMENT_MONITOR_API_KEY", help="Sent as X-API-Key.")
@click.option("--retry", is_flag=True, help="Repeat 429 and 503 after Retry-After until the request is in.")
@click.option("--max-p95", type=float, help="Fail above this many milliseconds.")
@click.option("--max-p99", type=float, help="Fail above this many milliseconds.")
@click.option("--min-throughput", type=float, help="Fail below this many comments a second.")
@click.option("--max-error-rate", type=SHARE, default=0.0, show_default=True, help="Fail above this share of requests.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def load_test(
    url: str,
    comments: int | None,
    duration: float | None,
    rate: float | None,
    concurrency: int,
    batch: int,
    posts: int,
    duplicates: float,
    edits: float,
    seed: int,
    run_id: str | None,
    path: Path | None,
    repeat: bool,
    api_key: str | None,
    retry: bool,
    max_p95: float | None,
    max_p99: float | None,
    min_throughput: float | None,
    max_error_rate: float,
    as_json: bool,
) -> None:
    """Drive the running service at URL and measure it.

    Prints throughput, latency (from the moment a request was due), duplicates and errors, and checks every answer's
    counts. Exit code 1 past a given bound, on errors, or where the service stored other than was sent. The service's
    rate limit counts too: switch it off (COMMENT_RATE_LIMIT_PER_MINUTE=0), or use --retry.
    """
    total = comments if comments or duration or path else 10_000
    # Repeats and edits have a certain outcome only where their request comes after the first one's answer.
    expected = Expected() if path is None and not (concurrency > 1 and (edits or duplicates)) else None
    if path:
        loads = plan.from_file(path, batch=batch, total=total, repeat=repeat)
    else:
        made = make_comments(
            run_id=run_id or secrets.token_hex(4),
            seed=seed,
            posts=posts,
            duplicates=duplicates,
            edits=edits,
            expected=expected or Expected(),
        )
        until = time.perf_counter() + duration if duration else None
        loads = plan.made_up(made, batch=batch, total=total, until=until)
    driver = Driver(url, concurrency=concurrency, rate=rate / batch if rate else None, api_key=api_key, retry=retry)
    _drive(driver, loads, url, total)
    found = summary(driver.result, expected)
    failed = failures(found, Bounds(max_p95, max_p99, min_throughput, max_error_rate))
    click.echo(json.dumps({**found, "failed": failed}) if as_json else in_words(found))
    for line in failed:
        click.echo(f"Failed: {line}", err=True)
    sys.exit(1 if failed else 0)


def _drive(driver: Driver, loads: Iterator[Load], url: str, total: int | None) -> None:
    """Runs to the end, or to Ctrl-C, after which the report covers what was sent."""
    with Progress(total, "load-test") as progress:

        def on_progress(result: Result) -> None:
            progress.at(result.comments, result.comments)

        try:
            asyncio.run(_until_interrupted(driver, loads, on_progress))
        except aiohttp.ClientConnectorError as error:
            raise click.ClickException(
                f"Nothing answers at {url} ({error.os_error.strerror}). Start it: make up"
            ) from None
        except (aiohttp.InvalidURL, aiohttp.ClientError) as error:
            raise click.ClickException(f"{url} can't be used: {type(error).__name__} {error}") from None
        except ValueError as error:
            raise click.ClickException(str(error)) from None


async def _until_interrupted(driver: Driver, loads: Iterator[Load], on_progress: object) -> None:
    task = asyncio.ensure_future(driver.run(loads, on_progress))  # type: ignore[arg-type]
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        click.echo("interrupted; the report covers what was sent", err=True)
