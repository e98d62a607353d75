"""Duplicates that Redis knows: the rate with 1,000,000 more comments in Redis, beside that with the run's own only."""

from typing import Final

import redis

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import alone

COMMENTS: Final = 100_000
SIZE: Final = 25
CONNECTIONS: Final = 64
ENTRIES: Final = 1_000_000
PART: Final = 50_000
# Keys and values as long as the service's; hashed, so that they are in no order.
FILL: Final = """
    for number = ARGV[1] + 1, ARGV[1] + ARGV[2] do
        redis.call('SET', string.sub(redis.sha1hex(number), 1, 16), '0123456789abcdef', 'EX', 86400)
    end
"""


def measure(tools: Tools) -> list[Row]:
    """Stores comments and sends them again, before and after Redis is filled; each round does both."""
    system = tools.system
    few, many = [], []
    with system.serving() as (url, _), redis.Redis.from_url(system.redis.url) as client:
        fill = client.register_script(FILL)
        for number in range(tools.rounds):
            system.forget()
            bodies = make_bodies(make_columns(COMMENTS, run=190 + number), SIZE)
            send(url, bodies, connections=CONNECTIONS)
            few.append(_again(url, bodies))
            for begin in range(0, ENTRIES, PART):
                fill(args=[begin, PART])
            many.append(_again(url, bodies))
            tools.say(f"{many[-1]:,.0f} beside {few[-1]:,.0f} comments/s, {client.dbsize():,} entries")
    return [
        Row(
            work=f"the same requests again, {SIZE} a request, {ENTRIES:,} more comments in Redis",
            unit="comments/s",
            ours=many,
            beside=few,
            beside_what="none more",
            floor=0.80,
        )
    ]


def _again(url: str, bodies: list[bytes]) -> float:
    outcome = send(url, bodies, connections=CONNECTIONS)
    if outcome.stored:
        raise RuntimeError(f"{outcome.stored} duplicates were stored.")
    return outcome.rate


if __name__ == "__main__":
    alone(measure)
