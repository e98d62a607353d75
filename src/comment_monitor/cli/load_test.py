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
import uvloop

from comment_monitor.cli.printing import say, say_all
from comment_monitor.cli.progress import Progress
from comment_monitor.cli.settings import service_address
from comment_monitor.loadtest.drive import Driver, Pace, Result
from comment_monitor.loadtest.plan import Load, Mix, made_up
from comment_monitor.loadtest.replay import Skipped, from_file
from comment_monitor.loadtest.report import Bounds, failures, in_words, summary

SHARE = click.FloatRange(0, 1)
POSITIVE = click.FloatRange(0, min_open=True)
# 80 requests: the default rate limit lets 100 a minute pass.
DEFAULT_COMMENTS = 2_000
# Seconds between two updates of the progress: few updates, because they share the machine with the measured service.
UPDATE_INTERVAL = 0.5
INTERRUPTED = 130


@click.command("load-test")
@click.argument("url", required=False)
@click.option("--comments", type=click.IntRange(1), help="Comments to send. [default: 2,000, or the whole file]")
@click.option("--duration", type=POSITIVE, help="Seconds to send for.")
@click.option("--rate", type=POSITIVE, help="Comments a second. [default: as fast as possible]")
@click.option("--concurrency", type=click.IntRange(1), default=64, show_default=True, help="Connections.")
@click.option("--batch", type=click.IntRange(1), default=25, show_default=True, help="Comments a request.")
@click.option(
    "--posts", type=click.IntRange(1), default=20, show_default=True, help="Posts over which the comments are spread."
)
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
@click.option("--repeat", is_flag=True, help="Start the file again at its end.")
@click.option("--api-key", envvar="COMMENT_MONITOR_API_KEY", help="Sent as X-API-Key.")
@click.option(
    "--retry", is_flag=True, help="Repeat requests that met 429, 503 or a broken connection until they succeed."
)
@click.option("--max-p95", type=float, help="Fail above this 95th percentile of the latency, in milliseconds.")
@click.option("--max-p99", type=float, help="Fail above this 99th percentile of the latency, in milliseconds.")
@click.option("--min-throughput", type=float, help="Fail below this many comments a second.")
@click.option(
    "--max-error-rate", type=SHARE, default=0.0, show_default=True, help="Fail above this share of failed requests."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def load_test(
    url: str | None,
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

    Without a URL: the `up` that runs on ./data, else http://127.0.0.1:8080.

    Prints throughput, latency (with --rate: from the moment a request was due), duplicates and errors, and checks
    every answer's counts. Ctrl-C ends it early, with the report so far.

    The service's rate limit counts too: switch it off (COMMENT_RATE_LIMIT_PER_MINUTE=0), or use --retry.

    Exit code 0: within all bounds, and the counts of made-up comments are as expected. 1: otherwise. 130: interrupted.
    """
    skipped = Skipped() if path else None
    mix = Mix(run_id or secrets.token_hex(4), seed, posts, duplicates, edits)
    _check(mix, path, repeat=repeat)
    total = comments if comments or duration or path else DEFAULT_COMMENTS
    if path and skipped:
        loads = from_file(path, batch=batch, total=total, repeat=repeat, skipped=skipped)
    else:
        loads = made_up(mix, batch=batch, total=total)
    run = _Run(service_address(url), Pace(concurrency, rate, duration, retry), api_key)
    run.go(loads, total)
    found = summary(run.result, skipped=skipped)
    failed = failures(found, Bounds(max_p95, max_p99, min_throughput, max_error_rate))
    say_all(json.dumps({**found, "failed": failed}) if as_json else in_words(found))
    for line in failed:
        say(f"Failed: {line}", error=True)
    sys.exit(1 if failed else INTERRUPTED if run.interrupts else 0)


def _check(mix: Mix, path: Path | None, *, repeat: bool) -> None:
    if mix.duplicates + mix.edits > 1:
        raise click.UsageError("--duplicates and --edits together are more than 1: nothing would be new.")
    if path and (mix.duplicates or mix.edits):
        raise click.UsageError("--duplicates and --edits are for made-up comments, not for those of --file.")
    if repeat and not path:
        raise click.UsageError("--repeat starts a file again: name the file with --file.")


class _Run:
    """One run and its progress. A first Ctrl-C waits for the requests under way, a second one cancels them."""

    def __init__(self, url: str, pace: Pace, api_key: str | None):
        self.interrupts = 0
        self._url = url
        self._pace = pace
        self._api_key = api_key
        self.result = Result()

    def go(self, loads: Iterator[Load], total: int | None) -> None:
        """Runs to the end."""
        try:
            uvloop.run(self._drive(loads, total))
        except aiohttp.InvalidURL:
            raise click.ClickException(f"{self._url} is not an address such as http://127.0.0.1:8080.") from None
        except (aiohttp.ClientConnectorError, TimeoutError) as error:
            reason = getattr(error, "os_error", None) or "no answer"
            raise click.ClickException(
                f"Nothing answers at {self._url} ({reason}). Is the service running? `make up` starts it."
            ) from None
        except aiohttp.ClientError as error:
            raise click.ClickException(f"{self._url} can't be used ({type(error).__name__}: {error}).") from None

    async def _drive(self, loads: Iterator[Load], total: int | None) -> None:
        driver = Driver(self._url, self._pace, self._api_key)
        self.result = driver.result
        with Progress(total or (int(self._pace.seconds) if self._pace.seconds else None), "load-test") as progress:
            work = asyncio.create_task(driver.run(loads))
            watch = asyncio.create_task(self._watch(progress, total))
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self._interrupt, driver, work)
            try:
                await work
            except asyncio.CancelledError:
                if not self.interrupts:
                    raise
            finally:
                watch.cancel()

    def _interrupt(self, driver: Driver, work: "asyncio.Task[None]") -> None:
        self.interrupts += 1
        if self.interrupts > 1:
            work.cancel()
            return
        driver.stop()
        say("Interrupted: waiting for the requests under way; a second Ctrl-C cancels them.", error=True)

    async def _watch(self, progress: Progress, total: int | None) -> None:
        while True:
            sent = self.result.comments
            progress.at(sent if total else int(time.perf_counter() - self.result.started), sent)
            await asyncio.sleep(UPDATE_INTERVAL)
