"""The rate limit without Redis, and its response headers."""

import asyncio

from comment_monitor.intake.rate_limit import RateLimit, Verdict


def test_the_headers_follow_the_ietf_draft() -> None:
    """Structured fields: the quota, its window, the remaining requests and the seconds until the reset."""
    assert Verdict(allowed=True, limit=100, remaining=7, reset=31).headers == {
        "RateLimit-Policy": '"process";q=100;w=60',
        "RateLimit": '"process";r=7;t=31',
    }


async def test_each_client_may_send_exactly_the_limit() -> None:
    limit = RateLimit(50, "")
    for client in ("first", "second"):
        verdicts = [verdict for verdict in await asyncio.gather(*(limit.hit(client) for _ in range(200))) if verdict]
        assert [verdict.allowed for verdict in verdicts].count(True) == 50
        assert {verdict.remaining for verdict in verdicts if not verdict.allowed} == {0}
        assert all(1 <= verdict.reset <= 60 for verdict in verdicts)


async def test_the_remaining_requests_count_down_to_zero() -> None:
    limit = RateLimit(50, "")
    verdicts = [await limit.hit("client") for _ in range(52)]
    assert [verdict.remaining for verdict in verdicts if verdict] == [*reversed(range(50)), 0, 0]


async def test_a_limit_of_zero_gives_no_verdict_and_does_not_query_redis() -> None:
    limit = RateLimit(0, "unix:///nowhere/redis.sock")
    assert {await limit.hit("client") for _ in range(300)} == {None}
