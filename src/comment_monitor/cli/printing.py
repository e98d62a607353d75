"""The one way in which commands print: a line is a line, whatever a file, a database or a service has put into it."""

import click

from comment_monitor.core.printable import printable


def say(line: str, *, error: bool = False) -> None:
    """Prints one line.

    Args:
        line: may hold text of others, such as an id.
        error: to standard error.
    """
    click.echo(printable(line), err=error)


def say_all(lines: str) -> None:
    """Prints lines of this program's own."""
    for line in lines.split("\n"):
        say(line)
