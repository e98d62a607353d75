"""The rate limit: exact for each client over all processes, reported in headers, and kept without Redis."""

import asyncio
import re
from collections import Counter
from typing import Final

import httpx
import pytest
import redis
from tests.conftest import MakeSettings, metric, open_client, until
from tests.support import http
from tests.support.intake import PATH, accepted, lifecycle, refused
from tests.support.requests import body, comment

from comment_monitor.web.app import create_asgi

LIMIT: Final = 50
SECRET: Final = "a-secret-key"  # noqa: S105 - of this test
FIELDS: Final = re.compile(r'"process";r=(\d+);t=(\d+)')


async def send(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    """Sends a quick request: its comment is a duplicate after the first."""
    return await client.post(PATH, json=body(comment(1)), headers=headers)


async def statuses(client: httpx.AsyncClient, times: int, **headers: str) -> Counter[int]:
    return Counter([(await send(client, **headers)).status_code for _ in range(times)])


def limits(response: httpx.Response) -> tuple[int, int]:
    """Returns how many requests remain, and for how many seconds."""
    assert response.headers["RateLimit-Policy"] == f'"process";q={LIMIT};w=60'
    found = FIELDS.fullmatch(response.headers["RateLimit"])
    assert found
    return int(found[1]), int(found[2])


async def test_exactly_the_limit_passes_over_several_processes_at_once(
    make_settings: MakeSettings,
) -> None:
    settings = make_settings(COMMENT_RATE_LIMIT_PER_MINUTE=LIMIT)
    limited = metric("comment_rate_limited_total")
    errors = metric("comment_processing_errors_total", reason="rate-limited")
    async with open_client(settings) as first, open_client(settings) as other:
        # Twenty requests at any moment: more would keep this thread busy until Redis seemed unavailable.
        counts = await asyncio.gather(*(statuses(client, 10) for _ in range(10) for client in (first, other)))
        # The next request to either process exceeds the limit.
        counts += [await statuses(first, 1), await statuses(other, 1)]
    assert sum(counts, Counter()) == {200: LIMIT, 429: 152}
    assert metric("comment_rate_limited_total") - limited == 152
    assert metric("comment_processing_errors_total", reason="rate-limited") - errors == 152


async def test_each_response_reports_the_remaining_requests(make_settings: MakeSettings) -> None:
    async with open_client(make_settings(COMMENT_RATE_LIMIT_PER_MINUTE=LIMIT)) as client:
        responses = [await send(client) for _ in range(LIMIT)]
        for expected, response in zip(reversed(range(LIMIT)), responses, strict=True):
            accepted(response)
            left, seconds = limits(response)
            assert left == expected
            assert 1 <= seconds <= 60
            assert "Retry-After" not in response.headers
        refusal = await send(client)
        document = refused(refusal, 429, "rate-limited")
        assert str(LIMIT) in document["detail"]
        left, seconds = limits(refusal)
        assert (left, str(seconds)) == (0, refusal.headers["Retry-After"])
        assert 1 <= seconds <= 60


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization", "X-Forwarded-For", "Forwarded", "X-Real-IP"])
async def test_request_headers_do_not_change_the_count_of_a_client(make_settings: MakeSettings, header: str) -> None:
    async with open_client(make_settings(COMMENT_RATE_LIMIT_PER_MINUTE=LIMIT)) as client:
        passed: Counter[int] = Counter()
        for number in range(LIMIT + 10):
            passed += await statuses(client, 1, **{header: f"198.51.100.{number}"})
        assert passed == {200: LIMIT, 429: 10}


async def test_each_address_has_its_own_count(make_settings: MakeSettings) -> None:
    async with open_client(make_settings(COMMENT_RATE_LIMIT_PER_MINUTE=LIMIT)) as client:
        app = create_asgi(client.app)  # type: ignore[attr-defined]
        for address in ("192.0.2.1", "192.0.2.2"):
            # The port of the client does not matter.
            transports = [httpx.ASGITransport(app, client=(address, port)) for port in (1, 2)]  # type: ignore[arg-type]
            passed: Counter[int] = Counter()
            for transport in transports:
                async with http.AsyncClient(transport=transport, base_url="http://test") as sender:
                    passed += await statuses(sender, LIMIT)
            assert passed == {200: LIMIT, 429: LIMIT}


async def test_redis_holds_neither_key_nor_address(make_settings: MakeSettings, redis_url: str) -> None:
    async with open_client(make_settings(COMMENT_RATE_LIMIT_PER_MINUTE=LIMIT)) as client:
        await send(client, **{"X-API-Key": SECRET, "Authorization": f"Bearer {SECRET}"})
    with redis.Redis.from_url(redis_url) as store:
        counts = [key for key in store.scan_iter() if b"process" in key]
        assert len(counts) == 1
        content = b" ".join([*store.scan_iter(), *store.lrange(counts[0], 0, -1)])
        assert SECRET.encode() not in content
        assert b"127.0.0.1" not in content
        assert 0 < store.ttl(counts[0]) <= 60


async def through(client: httpx.AsyncClient, times: int, peer: str, **headers: str) -> Counter[int]:
    """Sends requests from a proxy at this address."""
    transport = httpx.ASGITransport(create_asgi(client.app), client=(peer, 1))  # type: ignore[attr-defined,arg-type]
    async with http.AsyncClient(transport=transport, base_url="http://test") as proxy:
        return await statuses(proxy, times, **headers)


async def test_each_client_behind_two_proxies_has_its_own_count(
    make_settings: MakeSettings,
) -> None:
    """The outer proxy (192.0.2.9) adds the client's address, the inner proxy (10.0.0.1) that of the outer."""
    settings = make_settings(
        COMMENT_RATE_LIMIT_PER_MINUTE=LIMIT, COMMENT_TRUSTED_PROXIES="10.0.0.0/8, 192.0.2.9, fd00::/8"
    )
    async with open_client(settings) as client:
        for sender in ("203.0.113.1", "203.0.113.2", "2001:db8:1:2::3"):
            passed: Counter[int] = Counter()
            for number in range(LIMIT + 10):
                forged = {"X-Forwarded-For": f"198.51.100.{number}, {sender}, 192.0.2.9"}
                passed += await through(client, 1, "10.0.0.1", **forged)
            assert passed == {200: LIMIT, 429: 10}, sender
        # The same header from a client that is no trusted proxy.
        passed = Counter()
        for number in range(LIMIT + 10):
            passed += await through(client, 1, "198.51.100.200", **{"X-Forwarded-For": f"203.0.114.{number}"})
        assert passed == {200: LIMIT, 429: 10}


async def test_no_connection_to_redis_outlives_the_process(make_settings: MakeSettings, redis_url: str) -> None:
    def connections() -> set[str]:
        return {connection["id"] for connection in store.client_list()}

    with redis.Redis.from_url(redis_url) as store:
        before = connections()
        async with open_client(make_settings(COMMENT_RATE_LIMIT_PER_MINUTE=LIMIT)) as client:
            await send(client)
            assert connections() - before
        # Compared by id, not by number: an earlier connection may be closing.
        await until(lambda: not connections() - before)


async def test_invalid_requests_count_and_reads_do_not(make_settings: MakeSettings) -> None:
    async with open_client(make_settings(COMMENT_RATE_LIMIT_PER_MINUTE=LIMIT)) as client:
        for _ in range(LIMIT):
            refused(await client.post(PATH, content=b"{"), 400, "not-json")
            assert "RateLimit" not in (await client.get("/comments")).headers
        refused(await send(client), 429, "rate-limited")
        for path in ("/comments", "/posts", "/health"):
            assert (await client.get(path)).status_code == 200


async def test_each_process_keeps_the_limit_without_redis(make_settings: MakeSettings) -> None:
    settings = make_settings(COMMENT_RATE_LIMIT_PER_MINUTE=LIMIT, REDIS_URL="unix:///nowhere/redis.sock")
    errors = metric("comment_processing_errors_total", reason="rate-limit-store")
    async with open_client(settings) as first, open_client(settings) as other:
        for client in (first, other):
            responses = await asyncio.gather(*(send(client) for _ in range(LIMIT + 10)))
            assert Counter(each.status_code for each in responses) == {200: LIMIT, 429: 10}
            assert limits(responses[-1])[0] == 0
    assert metric("comment_processing_errors_total", reason="rate-limit-store") > errors


@pytest.mark.parametrize("url", [{}, {"REDIS_URL": ""}], ids=["with-redis", "without-redis"])
async def test_a_limit_of_zero_disables_the_limit(make_settings: MakeSettings, url: dict[str, str]) -> None:
    async with open_client(make_settings(COMMENT_RATE_LIMIT_PER_MINUTE=0, **url)) as client:
        responses = await asyncio.gather(*(send(client) for _ in range(250)))
    assert {response.status_code for response in responses} == {200}
    assert not any("RateLimit" in response.headers or "RateLimit-Policy" in response.headers for response in responses)


async def test_the_default_limit_is_a_hundred_a_minute(make_settings: MakeSettings) -> None:
    async with open_client(make_settings(COMMENT_RATE_LIMIT_PER_MINUTE="")) as client:
        assert await statuses(client, 105) == {200: 100, 429: 5}


async def test_more_requests_than_redis_connections_cause_no_error(
    make_settings: MakeSettings,
) -> None:
    errors = metric("comment_processing_errors_total", reason="rate-limit-store")
    async with open_client(make_settings(COMMENT_RATE_LIMIT_PER_MINUTE=LIMIT)) as client:
        limit = lifecycle(client).runtime.limit
        verdicts = [verdict for verdict in await asyncio.gather(*(limit.hit("one") for _ in range(300))) if verdict]
    assert [verdict.allowed for verdict in verdicts].count(True) == LIMIT
    assert metric("comment_processing_errors_total", reason="rate-limit-store") == errors
