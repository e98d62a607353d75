"""Progress: a bar on a terminal, otherwise a plain line every few seconds; both on standard error."""

import sys
import time
from types import TracebackType
from typing import Self

import rich.console
import rich.progress

from comment_monitor.cli.printing import say
from comment_monitor.core.printable import printable

# Seconds between two lines if there is no terminal.
LINE_INTERVAL = 5.0


class Progress:
    """Progress over `total` units (None: unknown), with the number of comments beside it."""

    def __init__(self, total: int | None, title: str):
        self._total = total
        self._title = title
        self._count = 0
        self._last_line = time.monotonic()
        self._bar: rich.progress.Progress | None = None
        if sys.stderr.isatty():
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.TaskProgressColumn(),
                rich.progress.TextColumn("{task.fields[count]:,} comments"),
                rich.progress.TimeRemainingColumn(),
                console=rich.console.Console(stderr=True),
                transient=True,
            )

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, count=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def at(self, done: int, count: int) -> None:
        """Shows the progress: `done` of the total, `count` comments."""
        self._count = count
        if self._bar:
            self._bar.update(self._task, completed=done, count=count)
        elif time.monotonic() - self._last_line >= LINE_INTERVAL:
            self._last_line = time.monotonic()
            share = f" ({done / self._total:.0%})" if self._total else ""
            say(f"{count:,} comments{share}", error=True)

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self._bar:
            self._bar.console.print(printable(line), markup=False, highlight=False)
        else:
            say(line, error=True)
