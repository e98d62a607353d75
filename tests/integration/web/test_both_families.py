"""`--host ::` listens on all addresses of the machine, IPv4 and IPv6; `0.0.0.0` on all of IPv4."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from tests.conftest import until
from tests.support import forked, http
from tests.support.rabbitmq import free_port
from tests.support.requests import body, comment

from comment_monitor.devserver.supervisor import Where
from comment_monitor.observability.metrics_server import serve_metrics
from comment_monitor.web.server import listen

V4, V6 = "127.0.0.1", "[::1]"


def reachable(port: int) -> set[str]:
    """Returns the loopback addresses, of IPv4 and IPv6, that accept a connection."""
    found = set()
    for host in (V4, V6):
        try:
            with closing(socket.create_connection((host.strip("[]"), port), timeout=10)):
                found.add(host)
        except ConnectionRefusedError:
            pass
    return found


HOSTS = {"::": {V4, V6}, "0.0.0.0": {V4}, "127.0.0.1": {V4}, "::1": {V6}}  # noqa: S104


@pytest.mark.parametrize(("host", "families"), HOSTS.items(), ids=HOSTS)
def test_the_api_listens_on_the_families_of_its_host(host: str, families: set[str]) -> None:
    with closing(listen(host, 0)) as listening:
        assert reachable(listening.getsockname()[1]) == families


@pytest.mark.parametrize(("host", "families"), HOSTS.items(), ids=HOSTS)
def test_the_metrics_port_listens_on_the_families_of_its_host(host: str, families: set[str]) -> None:
    port = free_port()
    stop = serve_metrics(host, port)
    try:
        assert reachable(port) == families
    finally:
        stop()


@pytest.fixture
def ports(environment: dict[str, str], tmp_path: Path) -> Iterator[tuple[int, int]]:
    """The ports of a service on `::`, for the API and the metrics."""
    ports = free_port(), free_port()
    process = forked.Popen(
        [sys.executable, "-m", "comment_monitor", "serve", "--host", "::",
         "--port", str(ports[0]), "--metrics-port", str(ports[1])],
        env={**os.environ, **environment, "COMMENT_RATE_LIMIT_PER_MINUTE": "50"}, cwd=tmp_path,
    )  # fmt: skip
    try:
        yield ports
    finally:
        process.terminate()
        process.wait()


async def test_a_service_on_all_addresses_limits_the_clients_of_both_families(ports: tuple[int, int]) -> None:
    port, metrics_port = ports
    async with http.AsyncClient() as client:

        async def up() -> bool:
            try:
                return (await client.get(f"http://{V4}:{port}/health")).status_code == 200
            except httpx.TransportError:
                return False

        await until(up)
        for host in (V4, V6):
            assert (await client.get(f"http://{host}:{port}/health")).status_code == 200
            assert "comment_processing_queue_length" in (await client.get(f"http://{host}:{metrics_port}/metrics")).text

        async def post(host: str) -> int:
            answer = await client.post(f"http://{host}:{port}/comments/process", json=body(comment(1)))
            return answer.status_code

        # IPv4 clients appear as ::ffff:127.0.0.1: all such addresses are in one /64, but are separate clients.
        statuses = [await post(V4) for _ in range(51)]
        assert (statuses.count(200), statuses[-1]) == (50, 429)
        assert await post(V6) == 200


@pytest.mark.parametrize(
    ("host", "url"), [("::", "http://[::]:1/"), ("127.0.0.1", "http://127.0.0.1:1/")], ids=["ipv6", "ipv4"]
)
def test_an_ipv6_address_is_printed_in_brackets(host: str, url: str, tmp_path: Path) -> None:
    assert Where(host, 1, 2, tmp_path).url(1, "/") == url
