"""Overload: more comments than a slowed worker can analyse, for longer than it takes until rows would be sent again.

What counts is the worker's rate once waiting rows are due, beside its rate before; and its rate right after the load.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import end, perform, show
from bench.harness.system import System, running
from comment_monitor.publish import QUEUE_LIMIT

SECONDS: Final = 180
RESEND_AFTER: Final = 60
BATCH: Final = 25
CONNECTIONS: Final = 8
# What makes the analysis of a comment take twice as long.
SLOWER: Final = 0.00012
# Comments a second that are sent: at least twice of what the worker does.
RATE: Final = 6_000
CHUNK: Final = 30_000
# Seconds that are looked at before the first row is due, and after the load.
WARMING: Final = 10
AFTER: Final = 30
RESULTS: Final = "SELECT pg_stat_get_tuples_inserted('comment_analyses'::regclass)"


class Course:
    """Comments analysed, second by second, from the beginning of the load."""

    def __init__(self, system: System):
        self._system = system
        self._began = time.monotonic()
        self._seen = [(0.0, system.count(RESULTS))]

    def watch(self, until: float) -> None:
        """Looks on until so many seconds after the beginning."""
        while (now := time.monotonic() - self._began) < until:
            time.sleep(min(1.0, until - now))
            self._seen.append((time.monotonic() - self._began, self._system.count(RESULTS)))

    def rate(self, begin: float, end: float) -> float:
        """Comments a second between two moments."""
        part = [one for one in self._seen if begin <= one[0] <= end]
        (first, before), (last, after) = part[0], part[-1]
        return (after - before) / (last - first)


def measure(tools: Tools, *, seconds: int = SECONDS, resend_after: int = RESEND_AFTER, sources: str = "") -> list[Row]:
    """A round: a load for `seconds`, and a look at what comes after it."""
    before, during, after, resent = [], [], [], []
    for number in range(tools.rounds):
        tools.system.forget()
        settings = {"COMMENT_BATCH_SIZE": str(BATCH), "COMMENT_RESEND_AFTER": str(resend_after)}
        program = ("-m", "bench.harness.slowed", "0", sources)
        slowed = ("-m", "bench.harness.slowed", str(SLOWER), sources)
        with (
            tools.system.serving(program=program, **settings) as (url, _),
            tools.system.working(program=slowed, **settings),
            _loaded(url, seconds, number),
        ):
            course = Course(tools.system)
            course.watch(seconds + AFTER)
            resent.append(tools.system.count("SELECT count(*) FROM analysis_outbox WHERE resends > 0"))
        before.append(course.rate(WARMING, resend_after * 0.9))
        during.append(course.rate(resend_after * 1.1, seconds))
        after.append(course.rate(seconds + 1, seconds + AFTER))
        tools.say(
            f"{before[-1]:,.0f} comments/s, once rows are due {during[-1]:,.0f}, after the load {after[-1]:,.0f}; "
            f"{resent[-1]:,} rows wait that were sent again"
        )
    what = f"{RATE:,} comments/s for {seconds} s on a worker slowed to half, batch {BATCH}"
    return [
        Row(
            work=f"analysed once rows are due, {what}", unit="comments/s", ours=during, beside=before,
            beside_what="before they are", floor=0.9,
        ),
        Row(
            work=f"analysed right after the load, {what}", unit="comments/s", ours=after, beside=before,
            beside_what="before rows are due", floor=0.9,
        ),
        Row(work=f"rows sent again that wait, of {QUEUE_LIMIT:,} at most", unit="rows", ours=resent, beside=[],
            floor=100, most=True),
    ]  # fmt: skip


@contextmanager
def _loaded(url: str, seconds: int, number: int) -> Iterator[None]:
    """A load for so many seconds from the beginning of the block."""
    failures: list[BaseException] = []

    def load() -> None:
        end = time.monotonic() + seconds
        part = 0
        try:
            while time.monotonic() < end:
                part += 1
                bodies = make_bodies(make_columns(CHUNK, run=10_000 * (number + 1) + part), BATCH)
                send(url, bodies, connections=CONNECTIONS, rate=RATE / BATCH)
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


@click.command(help=__doc__)
@click.option("--rounds", default=1, show_default=True, type=click.IntRange(1), help="Rounds.")
@click.option("--seconds", default=SECONDS, show_default=True, type=click.IntRange(30), help="How long the load lasts.")
@click.option(
    "--resend-after", default=RESEND_AFTER, show_default=True, type=click.IntRange(15), help="COMMENT_RESEND_AFTER."
)
@click.option("--beside", default="", help="The sources (src) of another commit, which is measured first.")
@click.option("--check", is_flag=True, help="Exit code 1 where a value falls below its floor.")
def main(rounds: int, seconds: int, resend_after: int, beside: str, check: bool) -> None:
    """The command line of this script."""
    rows = []
    with running() as system:
        for sources in [beside, ""] if beside else [""]:
            click.echo(f"Sources: {sources or 'these'}", err=True)

            def once(tools: Tools, sources: str = sources) -> list[Row]:
                return measure(tools, seconds=seconds, resend_after=resend_after, sources=sources)

            rows = perform(once, system, rounds)
            show(rows)
    end(rows, check=check)


if __name__ == "__main__":
    main()
