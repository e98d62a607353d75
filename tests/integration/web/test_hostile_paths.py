"""Methods and paths that probes, browsers and scanners send: HEAD is GET without a body, and no request gets a 5xx."""

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest
from tests.support import http
from tests.support.api import serving
from tests.support.requests import body, comment

READABLE: Final = (
    "/", "/health", "/docs", "/openapi.json", "/comments", "/comments?limit=1", "/comments?limit=0", "/posts",
    "/comments/threads/1", "/comments/threads/nothing", "/posts/threads/p1/summary", "/nowhere",
)  # fmt: skip
VARYING_HEADERS: Final = {"date", "x-request-id", "content-length"}
NAMES: Final = (
    "%00", "%2f", "..%2f..%2fetc%2fpasswd", "%ff", "..", ".", "%2e%2e", "a" * 300, "a/" * 60, "%0a", "%5c..%5c", "~",
    "%f0%9f%98%80", "%ed%a0%80", "%c0%ae%c0%ae", "nul", "CON", "a%00.js", "%25%32%66", "'", "%22", "<x>", ";x=1", "*",
    "%", "%zz", "a b", "\u00e9", "%e2%80%ae", "-", "_", "//", "///", "%20", "..;/", ".git/config", ".env", "x.js/y",
)  # fmt: skip
PLACES: Final = (
    "/{}", "/docs/assets/{}", "/docs/{}", "/comments/{}", "/comments/threads/{}", "/comments/{}/1", "/posts/{}",
    "/posts/threads/{}/summary", "/comments?q={}", "/comments?source={}&id={}", "/comments?cursor={}",
    "/comments?since={}", "/posts?cursor={}", "/posts/summary?source={}&post_id={}", "/health?{}", "/openapi.json/{}",
)  # fmt: skip


@pytest.fixture
def url(tmp_path: Path, environment: dict[str, str]) -> Iterator[str]:
    with serving(tmp_path, environment) as api:
        yield api.url


def test_the_metrics_port_answers_head_and_options(tmp_path: Path, environment: dict[str, str]) -> None:
    with serving(tmp_path, environment) as api, http.Client(base_url=f"http://127.0.0.1:{api.metrics_port}") as client:
        got, head = client.get("/metrics"), client.head("/metrics")
        assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", got.headers["content-type"])
        assert int(head.headers["content-length"]) > 1_000
        assert {"GET", "HEAD", "OPTIONS"} <= set(client.options("/metrics").headers["allow"].split(","))
        refused = client.post("/metrics")
        assert refused.status_code == 405
        assert "HEAD" in refused.headers["allow"]


def asset(client: httpx.Client) -> str:
    """Returns the path of a file that the documentation page loads."""
    page = client.get("/docs").text
    return next(part for part in page.split('"') if part.startswith("/docs/assets/"))


def stable_headers(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in VARYING_HEADERS}


def test_head_is_get_without_the_body_and_options_names_both(url: str) -> None:
    with http.Client(base_url=url) as client:
        client.post("/comments/process", json=body(comment(1), post_id="p1"))
        for path in (*READABLE, asset(client)):
            got, head = client.get(path), client.head(path)
            assert (head.status_code, stable_headers(head), head.content) == (
                got.status_code,
                stable_headers(got),
                b"",
            ), path
            if "content-length" in got.headers:
                assert head.headers["content-length"].isdecimal()
        allowed = client.options("/comments")
        assert allowed.status_code < 300
        assert {"GET", "HEAD", "OPTIONS"} <= {method.strip() for method in allowed.headers["allow"].split(",")}
        refused = client.head("/comments/process")
        assert refused.status_code == 405
        assert "POST" in refused.headers["allow"]
        assert client.put("/comments").status_code == 405
        assert "HEAD" in client.put("/comments").headers["allow"]


def test_an_unknown_documentation_file_is_refused(url: str) -> None:
    with http.Client(base_url=url) as client:
        known = asset(client)
        assert client.get(known).status_code == 200
        for name in (*NAMES, f"{known.rpartition('/')[2]}/x", "../../../../etc/passwd", "%2e%2e/%2e%2e/app.py"):
            status = status_of(url, f"/docs/assets/{name}")
            assert status in {400, 404}, name


def test_no_path_of_a_scanner_gets_a_server_error(url: str) -> None:
    paths = [place.replace("{}", name) for place, name in itertools.product(PLACES, NAMES)]
    assert len(paths) >= 500
    assert [path for path in paths if status_of(url, path) >= 500] == []
    with http.Client(base_url=url) as client:
        for header in (b"\xff", b"x" * 5_000, b"\xed\xa0\x80", b"a,b;c=d", b'"'):
            for name in ("X-Request-ID", "Accept", "traceparent", "Cookie", "Range", "If-None-Match", "Host"):
                assert client.get("/comments", headers={name: header}).status_code < 500, name  # type: ignore[arg-type]


def status_of(url: str, path: str) -> int:
    """Returns the status of a path that HTTP clients refuse to send; 400 if the connection is closed instead."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = connection.makefile("rb").readline()
    return int(answer.split()[1]) if answer else 400
