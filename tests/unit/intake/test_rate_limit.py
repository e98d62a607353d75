"""The rate limit's own count, and what its headers say."""

import asyncio

from comment_monitor.intake.rate_limit import RateLimit, Verdict


def test_the_headers_are_those_of_the_draft() -> None:
    """Structured fields: a quota, its window, what is left of it and for how long."""
    assert Verdict(allowed=True, limit=100, remaining=7, reset=31).headers == {
        "RateLimit-Policy": '"process";q=100;w=60',
        "RateLimit": '"process";r=7;t=31',
    }


async def test_exactly_the_limit_passes_for_each_client() -> None:
    limit = RateLimit(50, "")
    for client in ("one", "other"):
        verdicts = [one for one in await asyncio.gather(*(limit.hit(client) for _ in range(200))) if one]
        assert [one.allowed for one in verdicts].count(True) == 50
        assert {one.remaining for one in verdicts if not one.allowed} == {0}
        assert all(1 <= one.reset <= 60 for one in verdicts)


async def test_what_is_left_counts_down_to_nought() -> None:
    limit = RateLimit(50, "")
    verdicts = [await limit.hit("one") for _ in range(52)]
    assert [one.remaining for one in verdicts if one] == [*reversed(range(50)), 0, 0]


async def test_a_limit_of_nought_gives_no_verdict_and_asks_nobody() -> None:
    limit = RateLimit(0, "unix:///nowhere/redis.sock")
    assert {await limit.hit("one") for _ in range(300)} == {None}
