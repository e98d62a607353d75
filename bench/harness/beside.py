"""Alternating rounds of requests and of their reference, each on empty tables."""

from collections.abc import Callable, Sequence
from typing import Final

from bench.harness.claim import Tools
from bench.harness.comments import Columns, make_bodies, make_columns
from bench.harness.limit import upsert_rate
from bench.harness.load import send
from bench.harness.system import Process

WARMING: Final = 2_000


def beside_upserts(tools: Tools, columns: Columns, *, size: int, connections: int) -> tuple[list[float], list[float]]:
    """Returns the comments per second of requests of `size` comments, and of upserts of 1,000 rows, for each round."""
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
    """Returns the comments per second of two programs for each round, each in processes of its own.

    Args:
        tools: the tools of the measurement.
        bodies: bodies to send.
        connections: number of connections.
        programs: Python's arguments for the service, and for the other program.
        after: called with the number of the program (0 or 1) and its process, once all requests are answered.
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
