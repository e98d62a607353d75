"""Every way to start the program."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from comment_monitor import __version__
from comment_monitor.cli.printing import say
from comment_monitor.core.errors import CommentMonitorError
from comment_monitor.core.printable import printable

# The disk is full, or the reader of the output is gone.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EPIPE, errno.EIO)


@contextmanager
def _printable_errors() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        # The message is the help: several lines of this program's own text.
        raise
    except click.ClickException as error:
        shown = printable(error.format_message())
        error.format_message = lambda: shown  # type: ignore[method-assign]
        raise


class Commands(click.Group):
    """A group that imports a command only when it runs: `--help` need not load a language model."""

    modules = (
        ("up", "up", "Run everything on this machine: servers, API and worker, until Ctrl-C."),
        ("serve", "serve", "Run the HTTP API."),
        ("worker", "worker", "Run a Celery worker, which analyses comments."),
        ("migrate", "migrate", "Bring the database to this version's schema."),
        ("status", "status", "Show what a running system does, once or live."),
        ("check", "check", "Prove the data's invariants on the live database."),
        ("ingest", "ingest", "Read comments from a file: JSON or CSV, also .gz."),
        ("cleanup", "cleanup", "Remove old comments, and renew the index of recent ones."),
        ("smoke-test", "smoke_test", "Send one comment through a running service, and remove it again."),
        ("load-test", "load_test", "Drive a running service and measure it."),
    )

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Reads the command line, with printable error messages."""
        with _printable_errors():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command, with printable error messages, which may quote files and servers."""
        with _printable_errors():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the commands in the order in which a user meets them."""
        return [name for name, _, _ in self.modules]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module."""
        module = next((module for name, module, _ in self.modules if name == cmd_name), None)
        if module is None:
            return None
        command: click.Command = getattr(__import__(f"comment_monitor.cli.{module}", fromlist=[module]), module)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, _, text in self.modules])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="comment-monitor")
def cli() -> None:
    """Comment Monitoring Pipeline: every comment, once, analysed and searchable, never lost.

    Settings are environment variables (docs/configuration.md). While `up` runs, the other commands use its
    servers without settings.
    """


def main() -> None:
    """Runs the console script; an error of this program is one line, not a traceback."""
    try:
        try:
            cli()
        finally:
            # Here, because a failure at the interpreter's exit would print a traceback.
            if sys.stdout:
                sys.stdout.flush()
    except CommentMonitorError as error:
        say(f"Error: {error}", error=True)
        sys.exit(1)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        say(f"Error: The output can't be written ({error.strerror}).", error=True)
        # The rest of the buffer can't be written anywhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
