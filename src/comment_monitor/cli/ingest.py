"""`comment-monitor ingest`."""

import asyncio
import io
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import click

from comment_monitor import errors
from comment_monitor.cli.progress import Progress
from comment_monitor.cli.settings import data_dir_option, load_settings
from comment_monitor.config import Settings, require_dsn
from comment_monitor.feed import feed
from comment_monitor.ingest import FIELDS, BadLine, FileError, Numbered, open_stream, read_csv, read_json_lines
from comment_monitor.model import Comment, Fate
from comment_monitor.pausing import PausingInput

# Rejected lines named one by one; beyond them only the count grows.
NAMED = 20
AGAIN = "Run the same command again to go on: what is stored already counts as a duplicate."
Settle = Callable[[list[Comment]], Awaitable[list[Fate]]]

CHUNK = 500
# At the most: what two writers have in hand, and the next write, so that none of them waits for the file.
IN_FLIGHT = 6


@click.command
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--format", "kind", type=click.Choice(["jsonl", "csv"]), help="[default: by the file's name, else jsonl]")
@click.option("--source", help="Source of comments that name none. [default: threads]")
@click.option("--post-id", help="Post of comments that name none.")
@click.option("--column", "columns", multiple=True, metavar="FIELD=NAME", help="CSV: the column that holds FIELD.")
@click.option("--delimiter", default=",", show_default=True, help="CSV: what stands between two values; \\t: a tab.")
@click.option("--dry-run", is_flag=True, help="Read and check every line, store nothing.")
@data_dir_option
def ingest(
    file: Path,
    kind: str | None,
    source: str | None,
    post_id: str | None,
    columns: tuple[str, ...],
    delimiter: str,
    dry_run: bool,
    data_dir: Path,
) -> None:
    """Store the comments of FILE (`-`: standard input) and queue them for analysis.

    JSON Lines or CSV, gzip or not, any size, constant memory. A line that can't be stored is named and the rest goes
    on. Cut short, run it again: what is stored already counts as a duplicate.

    Exit code 0: every line is stored or known. 1: some line was rejected, or the file could not be read to its end.
    """
    settings = load_settings(data_dir)
    if not dry_run:
        require_dsn(settings, data_dir)
    is_csv = kind == "csv" or (kind is None and ".csv" in file.suffixes)
    names = _columns(columns, is_csv=is_csv)
    with _open(file) as raw, Progress(_size(file), file.name) as progress:
        stream = _stream(file, raw)
        items = (
            read_csv(stream, post_id=post_id, source=source, columns=names, delimiter=_delimiter(delimiter))
            if is_csv
            else read_json_lines(stream, post_id=post_id, source=source)
        )
        report = _Report(progress, raw)
        try:
            asyncio.run(_run(settings, items, report, dry_run=dry_run))
        except* FileError as group:
            report.failure = f"{file}: {group.exceptions[0]}"
        except* errors.Problem as group:
            report.failure = f"stopped: {group.exceptions[0]} {AGAIN}"
        except* KeyboardInterrupt:
            report.failure = f"interrupted; what was under way may be stored as well. {AGAIN}"
        finally:
            if pausing := _pausing(raw):
                pausing.stop()
    report.show(dry_run=dry_run)
    sys.exit(1 if report.failure or report.fates["rejected"] else 0)


class _Report:
    """Counts while it runs, sums up at the end."""

    def __init__(self, progress: Progress, raw: IO[bytes]):
        self.progress = progress
        self.raw = raw
        self.fates: Counter[str] = Counter()
        self.failure: str | None = None
        self._started = time.monotonic()
        self._named = 0

    def bad(self, line: BadLine) -> None:
        """Names a rejected line."""
        self.fates["rejected"] += 1
        self._named += 1
        if self._named <= NAMED:
            name = f" ({line.id})" if line.id else ""
            self.progress.say(f"line {line.line}{name}: {line.reason}")
        elif self._named == NAMED + 1:
            self.progress.say("further rejected lines are only counted")

    def settled(self, fates: list[Fate]) -> None:
        """Counts what became of a chunk."""
        self.fates.update(fate.kind for fate in fates if fate.kind != "rejected")
        self.progress.at(self.raw.tell() if self.raw.seekable() else 0, self.fates.total())

    def show(self, *, dry_run: bool) -> None:
        """The sum."""
        seconds = max(time.monotonic() - self._started, 1e-6)
        total = self.fates.total()
        if dry_run:
            click.echo(f"{total} read: {self.fates['valid']} valid, {self.fates['rejected']} rejected; nothing stored")
        else:
            click.echo(
                f"{total} read: {self.fates['stored']} stored, {self.fates['updated']} updated, "
                f"{self.fates['duplicate']} duplicates, {self.fates['rejected']} rejected; "
                f"{total / seconds:,.0f} comments/s"
            )
        if self.failure:
            click.echo(f"Error: {self.failure}", err=True)


async def _run(
    settings: Settings,
    items: Iterator[Numbered | BadLine],
    report: _Report,
    *,
    dry_run: bool,
) -> None:
    async with _settler(settings, dry_run=dry_run) as settle:

        async def settle_and_count(comments: list[Comment]) -> list[Fate]:
            fates = await settle(comments)
            report.settled(fates)
            return fates

        pausing = _pausing(report.raw)
        # A chunk that the queue has no room for would be refused; one fits where nothing else is.
        in_flight = max(1, min(IN_FLIGHT, settings.queue_capacity // CHUNK))
        await feed(items, settle_and_count, chunk=CHUNK, in_flight=in_flight, on_bad=report.bad, pausing=pausing)


@asynccontextmanager
async def _settler(settings: Settings, *, dry_run: bool) -> AsyncIterator[Settle]:
    if dry_run:

        async def only_count(comments: list[Comment]) -> list[Fate]:
            return [Fate("valid")] * len(comments)

        yield only_count
        return
    # Imported here: the metrics have to find their folder first.
    from comment_monitor.runtime import open_runtime  # noqa: PLC0415

    async with open_runtime(settings, application="comment-monitor ingest") as runtime:
        runtime.schema.require()
        yield runtime.pipeline.settle


def _open(file: Path) -> IO[bytes]:
    if str(file) == "-":
        if sys.stdin is None:
            raise click.ClickException("Standard input is closed: there is nothing to read.")
        raw = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
    else:
        try:
            raw = file.open("rb", buffering=0)
        except OSError as error:
            raise click.ClickException(f"{file} can't be read: {error.strerror}.") from None
    regular = stat.S_ISREG(os.fstat(raw.fileno()).st_mode)
    return io.BufferedReader(raw if regular else PausingInput(raw), 1 << 20)


def _stream(file: Path, raw: IO[bytes]) -> IO[bytes]:
    try:
        return open_stream(raw)
    except FileError as error:
        raise click.ClickException(f"{file}: {error}") from None


def _pausing(raw: IO[bytes]) -> PausingInput | None:
    below = raw.raw if isinstance(raw, io.BufferedReader) else None
    return below if isinstance(below, PausingInput) else None


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _columns(columns: tuple[str, ...], *, is_csv: bool) -> dict[str, str]:
    if columns and not is_csv:
        raise click.UsageError("--column is for CSV files; --format csv reads the file as one.")
    return dict(_pair(column) for column in columns)


def _delimiter(given: str) -> str:
    delimiter = "\t" if given == "\\t" else given
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise click.BadParameter(f"{given}: must be one character, such as ; or \\t", param_hint="--delimiter")
    return delimiter


def _pair(column: str) -> tuple[str, str]:
    field, equals, name = column.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{column}: must be FIELD=NAME, such as text=CONTENT", param_hint="--column")
    if field not in FIELDS:
        raise click.BadParameter(f"{field}: must be one of {', '.join(FIELDS)}", param_hint="--column")
    return field, name
