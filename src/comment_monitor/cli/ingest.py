"""`comment-monitor ingest`."""

import asyncio
import codecs
import os
import re
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, NoReturn, Self, TextIO, cast

import click
import msgspec
import uvloop

from comment_monitor.cli.printing import say
from comment_monitor.cli.progress import Progress
from comment_monitor.cli.settings import data_dir_option, load_settings
from comment_monitor.core import errors
from comment_monitor.core.config import Settings, require_dsn
from comment_monitor.core.model import CONFLICT, Comment, Outcome
from comment_monitor.intake.files.formats import (
    FIELDS,
    PRESETS,
    BadLine,
    FileError,
    Kind,
    Numbered,
    Reading,
    open_comments,
)
from comment_monitor.intake.files.idle_reader import PausingInput
from comment_monitor.intake.files.importer import feed

# Rejected lines named one by one; beyond them only the count grows.
NAMED = 20
AGAIN = "Run the same command again to go on: stored comments count as duplicates."
INTERRUPTED = f"interrupted; comments under way may be stored as well. {AGAIN}"
WHOSE_IDS = (
    "If ids count from 1 in each post, use --id-scope post; if the comments are from another platform, name it with "
    "--source."
)
Submit = Callable[[list[Comment]], Awaitable[list[Outcome]]]

NO_TEXT = frozenset(("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"))
CHUNK = 500
# The maximum of chunks in flight: those of two writers, and of the next write, so that no writer waits for the file.
IN_FLIGHT = 6
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):/{1,2}(?=[^/])", re.IGNORECASE)


@click.command
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--format", "kind", type=click.Choice(["jsonl", "csv"]), help="[default: by the file's content]")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="Read the output of this tool: the names of its members, integer ids, times in seconds.",
)
@click.option("--source", help="Source of comments without one. [default: the preset's, else threads]")
@click.option("--post-id", help="Post of comments without one.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="FIELD=NAME",
    help="CSV: the column that holds FIELD. JSON: its member, with dots into objects (author=user.name).",
)
@click.option(
    "--id-scope",
    type=click.Choice(["source", "post"]),
    default="source",
    show_default=True,
    help="post: ids are unique within a post only, and are stored as POST/ID.",
)
@click.option("--delimiter", help="CSV: the character between two values; \\t: a tab. [default: by the header]")
@click.option(
    "--encoding", help="Encoding of the text, such as windows-1252. [default: UTF-8, or by its byte order mark]"
)
@click.option(
    "--rejected",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help=f"Write every rejected line's number, id and reason there, as JSON Lines. [default: {NAMED} are named here]",
)
@click.option("--dry-run", is_flag=True, help="Read and check every line, store nothing.")
@data_dir_option
def ingest(
    file: Path,
    kind: Kind | None,
    preset: str | None,
    source: str | None,
    post_id: str | None,
    columns: tuple[str, ...],
    id_scope: str,
    delimiter: str | None,
    encoding: str | None,
    rejected: Path | None,
    dry_run: bool,
    data_dir: Path,
) -> None:
    """Store the comments of FILE (`-`: standard input) and queue them for analysis.

    JSON Lines, JSON or CSV, gzip or not, any size, constant memory. A line that can't be stored is named, and the
    other lines are stored. If it is cut short, run it again: stored comments count as duplicates.

    Exit code 0: every line is stored or a duplicate. 1: a line was rejected, or the file could not be read to its end.
    """
    how = Reading(
        kind=kind,
        encoding=_encoding(encoding),
        delimiter=_delimiter(delimiter),
        post_id=post_id,
        source=source,
        columns=dict(map(_pair, columns)),
        preset=preset,
        ids_within_posts=id_scope == "post",
    )
    _check_post(how)
    settings = load_settings(data_dir)
    if not dry_run:
        require_dsn(settings, data_dir)
    # The first line of a pipe may be late, and the program waits for it before the event loop handles signals.
    signal.signal(signal.SIGTERM, _interrupt)
    with _open(file) as raw, _Rejects(rejected, raw) as rejects, Progress(_size(file), file.name) as progress:
        report = _Report(progress, raw, rejects)
        _read(file, how, settings, report, dry_run=dry_run)
    report.show(dry_run=dry_run)
    sys.exit(1 if report.failure or report.outcomes["rejected"] else 0)


def _read(file: Path, how: Reading, settings: Settings, report: "_Report", *, dry_run: bool) -> None:
    try:
        items = open_comments(report.raw, how)
    except FileError as error:
        raise click.ClickException(f"{file}: {error}") from None
    except KeyboardInterrupt:
        report.failure = INTERRUPTED
        return
    try:
        # A thread reads the file. With the default interval, it would hold the interpreter ten times as long at a time,
        # and the database would be idle.
        sys.setswitchinterval(0.0005)
        uvloop.run(_run(settings, items, report, dry_run=dry_run))
    except* FileError as group:
        report.failure = f"{file}: {group.exceptions[0]}"
    except* errors.Problem as group:
        report.failure = f"stopped: {group.exceptions[0]} {AGAIN}"
    except* (KeyboardInterrupt, asyncio.CancelledError):
        report.failure = INTERRUPTED
    finally:
        if pausing := _pausing(report.raw):
            pausing.stop()


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


class _Rejects:
    """The file of rejected lines, if one is requested; true if it holds all of them."""

    def __init__(self, path: Path | None, raw: IO[bytes]):
        self._path = path
        self._file: TextIO | None = None
        self._whole = path is not None
        if path is None:
            return
        try:
            if path.exists() and not _pausing(raw) and os.path.samestat(path.stat(), os.fstat(raw.fileno())):
                raise click.BadParameter(f"{path} is the file that is read.", param_hint="--rejected")
            # Buffered by line, so that a full disk shows at once, and a kill leaves whole lines.
            self._file = path.open("w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise click.ClickException(f"{path} can't be written: {error.strerror}.") from None

    def __bool__(self) -> bool:
        return self._whole

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def write(self, line: BadLine) -> str | None:
        """Writes a rejected line; returns an error message at the first failure, after which nothing is written."""
        if self._file is None:
            return None
        found = {"line": line.line, "id": line.id, "reason": line.reason}
        try:
            print(msgspec.json.encode(found).decode(), file=self._file)
        except OSError as error:
            self._close()
            self._whole = False
            return f"{self._path} can't be written: {error.strerror}. Rejected lines are missing there from here on."
        return None

    def _close(self) -> None:
        file, self._file = self._file, None
        if file:
            # A failed write has been reported already.
            with suppress(OSError):
                file.close()


class _Report:
    """Counts during the run and sums up at the end."""

    def __init__(self, progress: Progress, raw: IO[bytes], rejects: "_Rejects"):
        self.progress = progress
        self.raw = raw
        self._rejects = rejects
        self.outcomes: Counter[str] = Counter()
        self.failure: str | None = None
        self._started = time.monotonic()
        self._named = 0
        self._csv_faults = 0
        self._conflicts = 0

    def bad(self, line: BadLine) -> None:
        """Names a rejected line."""
        self.outcomes["rejected"] += 1
        self._csv_faults += line.is_csv_fault
        self._conflicts += line.reason.startswith(CONFLICT.format(line.id))
        self._named += 1
        if fault := self._rejects.write(line):
            self.progress.say(fault)
        if self._named <= NAMED:
            name = f" ({line.id})" if line.id else ""
            self.progress.say(f"line {line.line}{name}: {line.reason}")
        elif self._named == NAMED + 1:
            self.progress.say(f"further rejected lines are {'in the file' if self._rejects else 'only counted'}")

    def completed(self, outcomes: list[Outcome]) -> None:
        """Counts the outcomes of a chunk."""
        self.outcomes.update(outcome.status for outcome in outcomes if outcome.status != "rejected")
        self.progress.at(self.raw.tell() if self.raw.seekable() else 0, self.outcomes.total())

    def show(self, *, dry_run: bool) -> None:
        """Prints the sums."""
        seconds = max(time.monotonic() - self._started, 1e-6)
        total = self.outcomes.total()
        if self._csv_faults:
            lines = "line was" if self._csv_faults == 1 else "lines were"
            say(f"{self._csv_faults} {lines} left out as invalid CSV, and counted as rejected")
        if self._named > NAMED and not self._rejects:
            say("--rejected PATH writes the number and the reason of every rejected line")
        if self._conflicts:
            say(f"Conflicts: {self._conflicts}. {WHOSE_IDS}")
        if dry_run:
            say(f"{total} read: {self.outcomes['valid']} valid, {self.outcomes['rejected']} rejected; nothing stored")
        else:
            say(
                f"{total} read: {self.outcomes['stored']} stored, {self.outcomes['updated']} updated, "
                f"{self.outcomes['duplicate']} duplicates, {self.outcomes['rejected']} rejected; "
                f"{total / seconds:,.0f} comments/s"
            )
        if self.failure:
            say(f"Error: {self.failure}", error=True)


async def _run(
    settings: Settings,
    items: Iterator[Numbered | BadLine],
    report: _Report,
    *,
    dry_run: bool,
) -> None:
    task = asyncio.current_task()
    if task:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with _submitter(settings, dry_run=dry_run) as submit:

        async def submit_and_count(comments: list[Comment]) -> list[Outcome]:
            outcomes = await submit(comments)
            report.completed(outcomes)
            return outcomes

        # The queue refuses a chunk beyond its free capacity; a single chunk fits into an empty queue.
        in_flight = max(1, min(IN_FLIGHT, settings.queue_capacity // CHUNK))
        await feed(
            items, submit_and_count, chunk=CHUNK, in_flight=in_flight, on_bad=report.bad, pausing=_pausing(report.raw)
        )


@asynccontextmanager
async def _submitter(settings: Settings, *, dry_run: bool) -> AsyncIterator[Submit]:
    if dry_run:

        async def only_count(comments: list[Comment]) -> list[Outcome]:
            return [Outcome("valid")] * len(comments)

        yield only_count
        return
    # Imported here: the metrics have to find their folder first.
    from comment_monitor.runtime import open_runtime  # noqa: PLC0415

    async with open_runtime(settings, application="comment-monitor ingest") as runtime:
        runtime.schema.require()
        yield runtime.pipeline.submit


def _open(file: Path) -> IO[bytes]:
    if str(file) == "-":
        if sys.stdin is None:
            raise click.ClickException("Standard input is closed: there is nothing to read.")
        raw: IO[bytes] = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
    else:
        try:
            raw = file.open("rb", buffering=0)
        except IsADirectoryError:
            raise click.ClickException(
                f"{file} is a folder: name a file in it, or several with `cat {file}/* | comment-monitor ingest -`."
            ) from None
        except OSError as error:
            raise click.ClickException(f"{file} can't be read: {error.strerror}.{_if_address(file)}") from None
    regular = stat.S_ISREG(os.fstat(raw.fileno()).st_mode)
    return raw if regular else cast("IO[bytes]", PausingInput(raw))


def _pausing(raw: object) -> PausingInput | None:
    return raw if isinstance(raw, PausingInput) else None


def _if_address(file: Path) -> str:
    """Returns advice if the path is a URL, whose two slashes became one in the path."""
    if not (found := _URL.match(str(file))):
        return ""
    scheme, rest = found["scheme"], str(file)[found.end() :]
    if scheme.lower() == "file":
        return f" It is a URL: name the path, /{rest}."
    return f" It is a URL: `curl -fsSL {scheme}://{rest} | comment-monitor ingest -` reads it."


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _check_post(how: Reading) -> None:
    preset = PRESETS[how.preset] if how.preset else None
    if preset and preset.post and not how.post_id and "post_id" not in how.columns:
        raise click.UsageError(f"--preset {how.preset} needs --post-id: its lines do not name {preset.post}.")


def _encoding(given: str | None) -> str | None:
    if given is None:
        return None
    try:
        name = codecs.lookup(given).name
        codecs.getincrementaldecoder(given)
        # Codecs of bytes, of names and of source code are not encodings of text.
        is_text = name not in NO_TEXT and "a,\n".encode(given).decode(given) == "a,\n"
    except (LookupError, UnicodeError, ValueError, TypeError):
        is_text = False
    if not is_text:
        hint = "must be an encoding of text, such as utf-8, utf-16, windows-1252 or shift_jis"
        raise click.BadParameter(f"{given}: {hint}", param_hint="--encoding") from None
    return name


def _delimiter(given: str | None) -> str | None:
    if given is None:
        return None
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
