"""Overload: more comments than a slowed worker can analyse, for longer than COMMENT_RESEND_AFTER.

Compares the worker's rate once waiting rows are due, and its rate right after the load, with its rate before. The rates
per second of the worker's own processor time hold on a shared machine too.
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
# Additional seconds per comment, which make its analysis take twice as long.
SLOWER: Final = 0.00012
# Comments sent per second: at least twice as many as the worker analyses.
RATE: Final = 6_000
CHUNK: Final = 30_000
# Seconds skipped at the beginning of the load, and seconds measured after it.
WARMING: Final = 10
AFTER: Final = 30
RESULTS: Final = "SELECT pg_stat_get_tuples_inserted('comment_analyses'::regclass)"


class Sample(NamedTuple):
    """Seconds since the beginning of the load, comments analysed, and processor seconds of the worker."""

    moment: float
    analysed: int
    processor: float


class Part(NamedTuple):
    """A worker's comments per second, and per second of its own processor time, between two samples."""

    rate: float
    efficiency: float


class Course:
    """The course of a load, second by second."""

    def __init__(self, system: System, worker: Process):
        self._system = system
        self._worker = worker
        self._began = time.monotonic()
        self._samples: list[Sample] = []
        self._sample()

    def watch(self, until: float) -> None:
        """Samples every second until `until` seconds after the beginning."""
        while (now := time.monotonic() - self._began) < until:
            time.sleep(min(1.0, until - now))
            self._sample()

    def _sample(self) -> None:
        analysed, processor = self._system.count(RESULTS), self._worker.processor_seconds()
        self._samples.append(Sample(time.monotonic() - self._began, analysed, processor))

    def part(self, begin: float, end: float) -> Part:
        """Returns the part between two moments, in seconds since the beginning."""
        samples = [sample for sample in self._samples if begin <= sample.moment <= end]
        first, last = samples[0], samples[-1]
        done = last.analysed - first.analysed
        return Part(done / (last.moment - first.moment), done / (last.processor - first.processor))


def measure(tools: Tools, *, seconds: int = SECONDS, resend_after: int = RESEND_AFTER, sources: str = "") -> list[Row]:
    """Runs a load for `seconds` in each round, and samples the worker during and after it."""
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
            f"{after[-1].rate:,.0f}; {resent[-1]:,.0f} resent rows wait"
        )
    load = f"{RATE:,} comments/s for {seconds} s on a worker slowed to half, batch {BATCH}"
    rows = []
    for work, found in (("once rows are due", during), ("right after the load", after)):
        rows += [
            Row(
                work=f"analysed {work}, {load}", unit="comments/s", ours=[part.rate for part in found],
                beside=[part.rate for part in before], beside_what="before they are due", floor=0.9,
            ),
            Row(
                work=f"the same a second of the worker's processor time, {work}", unit="comments",
                ours=[part.efficiency for part in found], beside=[part.efficiency for part in before],
                beside_what="before they are due", floor=0.9,
            ),
        ]  # fmt: skip
    sent = Row(work="rows that wait and were sent again", unit="rows", ours=resent, floor=100, most=True)
    return [*rows, sent]


@contextmanager
def _loaded(url: str, seconds: int, number: int) -> Iterator[None]:
    """Sends a load for `seconds` from the beginning of the block."""
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
@click.option("--beside", default="", help="The sources (src) of another commit, to measure first.")
@click.option("--check", is_flag=True, help="Exit with 1 if a value misses its floor.")
def main(rounds: int, seconds: int, resend_after: int, beside: str, check: bool) -> None:
    """Runs the command line."""
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
