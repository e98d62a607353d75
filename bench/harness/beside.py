"""Rounds of requests and of what stands beside them in turn, each on empty tables."""

from collections.abc import Callable, Sequence
from typing import Final

from bench.harness.claim import Tools
from bench.harness.comments import Columns, make_bodies, make_columns
from bench.harness.limit import upsert_rate
from bench.harness.load import send
from bench.harness.system import Process

WARMING: Final = 2_000


def beside_upserts(tools: Tools, columns: Columns, *, size: int, connections: int) -> tuple[list[float], list[float]]:
    """Comments a second of ours and of upserts of 1,000 rows, a round each; `size` comments a request."""
    bodies = make_bodies(columns, size)
    ours, upserts = [], []
    system = tools.system
    with system.serving() as (url, _):
        send(url, make_bodies(make_columns(WARMING, run=2), size), connections=connections)
        for _ in range(tools.rounds):
            system.forget()
            upserts.append(upsert_rate(system.dsn, columns))
            system.forget()
            ours.append(send(url, bodies, connections=connections).rate)
            tools.say(f"{ours[-1]:,.0f} of {upserts[-1]:,.0f} comments/s")
    return ours, upserts


def beside_program(
    tools: Tools,
    bodies: Sequence[bytes],
    *,
    connections: int,
    programs: tuple[Sequence[str], Sequence[str]],
    after: Callable[[int, Process], None] = lambda _number, _process: None,
) -> tuple[list[float], list[float]]:
    """Comments a second of two programs, each round in processes of their own.

    Args:
        tools: of the measurement.
        bodies: what is sent.
        connections: over so many.
        programs: what Python is to run: ours, and the other.
        after: gets the number of the program (0 or 1) and its process, once all is answered.
    """
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(tools.rounds):
        for number, program in enumerate(programs):
            tools.system.forget()
            with tools.system.serving(program=program) as (url, process):
                rates[number].append(send(url, bodies, connections=connections).rate)
                after(number, process)
        tools.say(f"{rates[0][-1]:,.0f} beside {rates[1][-1]:,.0f} comments/s")
    return rates
