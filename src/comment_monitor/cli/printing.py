"""The one way in which commands print: a line stays one line, whatever a file, a database or a service put into it."""

import click

from comment_monitor.core.printable import printable


def say(line: str, *, error: bool = False) -> None:
    """Prints one line.

    Args:
        line: the line, which may hold text from outside, such as an id.
        error: whether to print to standard error.
    """
    click.echo(printable(line), err=error)


def say_all(lines: str) -> None:
    """Prints several lines of this program's own text."""
    for line in lines.split("\n"):
        say(line)
