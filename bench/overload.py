"""Overload: more comments than a slowed worker can analyse, for longer than it takes until rows would be sent again.

What counts is the worker's rate once waiting rows are due, beside its rate before; and its rate right after the load.
The same by the worker's own processor time is what it does on a machine that others use too.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import click

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import end, perform, show
from bench.harness.system import Process, System, running

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


class Look(NamedTuple):
    """Seconds since the beginning of the load, comments analysed, and processor seconds of the worker."""

    moment: float
    analysed: int
    processor: float


class Part(NamedTuple):
    """What a worker did between two looks: comments a second, and a second of its own processor time."""

    rate: float
    efficiency: float


class Course:
    """The course of a load, second by second."""

    def __init__(self, system: System, worker: Process):
        self._system = system
        self._worker = worker
        self._began = time.monotonic()
        self._seen: list[Look] = []
        self._look()

    def watch(self, until: float) -> None:
        """Looks on until so many seconds after the beginning."""
        while (now := time.monotonic() - self._began) < until:
            time.sleep(min(1.0, until - now))
            self._look()

    def _look(self) -> None:
        analysed, processor = self._system.count(RESULTS), self._worker.processor_seconds()
        self._seen.append(Look(time.monotonic() - self._began, analysed, processor))

    def part(self, begin: float, end: float) -> Part:
        """Between two moments."""
        seen = [one for one in self._seen if begin <= one.moment <= end]
        first, last = seen[0], seen[-1]
        done = last.analysed - first.analysed
        return Part(done / (last.moment - first.moment), done / (last.processor - first.processor))


def measure(tools: Tools, *, seconds: int = SECONDS, resend_after: int = RESEND_AFTER, sources: str = "") -> list[Row]:
    """A round: a load for `seconds`, and a look at what comes after it."""
    before: list[Part] = []
    during: list[Part] = []
    after: list[Part] = []
    resent: list[float] = []
    for number in range(tools.rounds):
        tools.system.forget()
        settings = {"COMMENT_BATCH_SIZE": str(BATCH), "COMMENT_RESEND_AFTER": str(resend_after)}
        program = ("-m", "bench.harness.slowed", "0", sources)
        slowed = ("-m", "bench.harness.slowed", str(SLOWER), sources)
        with (
            tools.system.serving(program=program, **settings) as (url, _),
            tools.system.working(program=slowed, **settings) as worker,
            _loaded(url, seconds, number),
        ):
            course = Course(tools.system, worker)
            course.watch(seconds + AFTER)
            resent.append(tools.system.count("SELECT count(*) FROM analysis_outbox WHERE resends > 0"))
        before.append(course.part(WARMING, resend_after * 0.9))
        during.append(course.part(resend_after * 1.1, seconds))
        after.append(course.part(seconds + 1, seconds + AFTER))
        tools.say(
            f"{before[-1].rate:,.0f} comments/s, once rows are due {during[-1].rate:,.0f}, after the load "
            f"{after[-1].rate:,.0f}; {resent[-1]:,.0f} rows wait that were sent again"
        )
    what = f"{RATE:,} comments/s for {seconds} s on a worker slowed to half, batch {BATCH}"
    rows = []
    for work, found in (("once rows are due", during), ("right after the load", after)):
        rows += [
            Row(
                work=f"analysed {work}, {what}", unit="comments/s", ours=[one.rate for one in found],
                beside=[one.rate for one in before], beside_what="before they are due", floor=0.9,
            ),
            Row(
                work=f"the same a second of the worker's processor time, {work}", unit="comments",
                ours=[one.efficiency for one in found], beside=[one.efficiency for one in before],
                beside_what="before they are due", floor=0.9,
            ),
        ]  # fmt: skip
    sent = Row(work="rows that wait and were sent again", unit="rows", ours=resent, floor=100, most=True)
    return [*rows, sent]


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
