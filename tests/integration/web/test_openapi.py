"""The OpenAPI document, the documentation page, and a running service that conforms to both for any input."""

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any, Final
from urllib.parse import urljoin

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi import checks
from schemathesis.specs.openapi.schemas import OpenApiSchema
from tests.conftest import TEMPLATE, execute, with_database
from tests.support import forked, http
from tests.support.rabbitmq import free_port
from tests.support.requests import adds_up, body, comment

from comment_monitor.devserver.postgres_process import EmbeddedPostgres
from comment_monitor.devserver.redis_process import EmbeddedRedis
from comment_monitor.reading.cursor import encode_cursor

PROBLEM: Final = "application/problem+json"
READING: Final = {"200": "application/json", "400": PROBLEM, "429": PROBLEM, "503": PROBLEM}
CONTRACT: Final[dict[str, dict[str, str]]] = {
    "POST /comments/process": {**READING, "408": PROBLEM, "413": PROBLEM, "415": PROBLEM, "422": PROBLEM},
    "GET /comments": READING,
    "GET /comments/{source}/{comment_id}": {**READING, "404": PROBLEM},
    "GET /posts": READING,
    "GET /posts/{source}/{post_id}/summary": {**READING, "404": PROBLEM},
    "GET /posts/summary": {**READING, "404": PROBLEM},
    "GET /health": {"200": "application/json", "503": "application/json"},
    "GET /health/started": {"200": "application/json", "503": "application/json"},
}
# The same examples at every run, and none stored on disk.
repeatable = settings(
    max_examples=80, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def served(
    postgres: EmbeddedPostgres, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of `comment-monitor serve` with a database of its own."""
    name = f"openapi_{os.getpid()}"
    execute(postgres.dsn, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    environment = {key: value for key, value in os.environ.items() if key not in {"CELERY_BROKER_URL", "RABBITMQ_URL"}}
    environment |= {"POSTGRES_DSN": with_database(postgres.dsn, name), "REDIS_URL": redis_server.url}
    environment["CELERY_BROKER_URL"] = "memory://"
    port = free_port()
    log = tmp_path_factory.mktemp("served") / "log"
    with log.open("wb") as output:
        process = forked.Popen(
            [sys.executable, "-m", "comment_monitor", "serve", f"--port={port}", f"--metrics-port={free_port()}"],
            env={**environment, "COMMENT_RATE_LIMIT_PER_MINUTE": "0"},
            stdout=output,
            stderr=output,
        )
    try:
        with http.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            deadline = time.monotonic() + 60
            while not _healthy(client):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield client
    finally:
        process.terminate()
        process.wait(60)
        execute(postgres.dsn, f"DROP DATABASE {name} WITH (FORCE)")


def _healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").json()["status"] == "ok"  # type: ignore[no-any-return]
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def schema(served: httpx.Client) -> OpenApiSchema:
    return schemathesis.openapi.from_dict(served.get("/openapi.json").json())


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Checks that the response is a problem document of this status, and returns the document."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].split(";")[0] == PROBLEM
    document: dict[str, Any] = response.json()
    types = {name: type(value) for name, value in document.items() if name != "rejected"}
    assert types == {**dict.fromkeys(("type", "title", "detail", "request_id"), str), "status": int}
    assert all(document.values())
    assert (document["status"], document["request_id"]) == (status, response.headers["x-request-id"])
    return document


def test_the_document_is_openapi_3_1(served: httpx.Client, schema: OpenApiSchema) -> None:
    response = served.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert re.fullmatch(r"3\.1\.\d", response.json()["openapi"])
    schema.validate()


def test_the_document_lists_every_route_and_response_of_the_contract(served: httpx.Client) -> None:
    paths = served.get("/openapi.json").json()["paths"]
    found = {
        f"{method.upper()} {path}": operation
        for path, methods in paths.items()
        for method, operation in methods.items()
    }
    answers = {
        name: {status: ",".join(answer["content"]) for status, answer in operation["responses"].items()}
        for name, operation in found.items()
    }
    assert answers == CONTRACT


class Fetched(HTMLParser):
    """Collects the URLs that a browser fetches for a page, except those that scripts request."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.urls += [value for name, value in attrs if value and name in {"src", "href"} and tag != "a"]


def test_the_documentation_loads_only_files_of_this_service(served: httpx.Client) -> None:
    page = served.get("/docs")
    assert (page.status_code, page.headers["content-type"].split(";")[0]) == (200, "text/html")
    assert not re.findall(r"https?://", page.text)
    parser = Fetched()
    parser.feed(page.text)
    fetched = [url for url in parser.urls if not url.startswith("data:")]
    assert {url.rsplit(".", 1)[-1] for url in fetched} == {"js", "css"}
    for url in fetched:
        assert urljoin("http://here/docs", url).startswith("http://here/")
        response = served.get(url)
        assert (response.status_code, len(response.content) > 10_000) == (200, True)
        kind = response.headers["content-type"].split(";")[0]
        assert kind == "text/css" if url.endswith("css") else kind.endswith("/javascript")
        if url.endswith("css"):
            assert not re.findall(r"@import|url\(\s*[\"']?(?:https?:)?//", response.text)


def test_the_documentation_embeds_the_openapi_document(served: httpx.Client) -> None:
    text = served.get("/docs").text
    # An embedded object is not sent to Swagger's validator, as a URL would be.
    start = text.index("spec: ") + len("spec: ")
    assert json.JSONDecoder().raw_decode(text[start:])[0] == served.get("/openapi.json").json()
    assert not re.findall(r"^\s*(?:url|urls|configUrl|validatorUrl):", text, re.MULTILINE)


def _random(mode: GenerationMode) -> list[str]:
    # Without parameters no request is invalid; any text is a valid path segment.
    wrong = {"POST /comments/process", "GET /comments", "GET /posts"}
    return [name for name in CONTRACT if mode.is_positive or name in wrong]


@pytest.mark.parametrize(
    ("mode", "operation"), [(mode, operation) for mode in GenerationMode for operation in _random(mode)]
)
def test_random_input_gets_a_declared_response(
    served: httpx.Client, schema: OpenApiSchema, mode: GenerationMode, operation: str
) -> None:
    statuses: Counter[int] = Counter()
    found = schema.find_operation_by_label(operation)
    assert found
    with requests.Session() as session:

        @repeatable
        @given(found.as_strategy(mode))
        def check(case: Case[Any]) -> None:
            response = case.call(base_url=str(served.base_url), session=session)
            assert response.status_code < 500 or (response.status_code == 503 and response.headers["Retry-After"])
            declared = [checks.status_code_conformance, checks.content_type_conformance]
            case.validate_response(response, checks=[*declared, checks.response_schema_conformance])
            statuses[response.status_code] += 1

        check()
    assert statuses.total() >= (1 if operation.startswith("GET /health") else 40)
    if "{" not in operation:
        assert statuses[200] if mode.is_positive else statuses[400] + statuses[422]


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.text(max_size=5), value, max_size=3),
    max_leaves=5,
)
COMMENT: Final = st.fixed_dictionaries(
    {"id": st.text(max_size=5) | JSON, "text": st.text(max_size=5) | JSON, "author": st.text(max_size=5)},
    optional=dict.fromkeys(("timestamp", "parent_id", "metadata"), JSON),
)
REQUEST: Final = st.fixed_dictionaries(
    {"post_id": st.just("random") | JSON, "comments": st.lists(COMMENT | JSON, max_size=3) | JSON},
    optional={"source": st.text(max_size=5), "more": JSON},
)
RAW: Final = st.binary(max_size=60) | (JSON | REQUEST).map(json.dumps).map(str.encode)


def test_every_comment_of_a_random_body_is_counted(served: httpx.Client) -> None:
    statuses: Counter[int] = Counter()

    @settings(repeatable, max_examples=400)
    @given(RAW)
    def check(raw: bytes) -> None:
        response = served.post("/comments/process", content=raw)
        statuses[response.status_code] += 1
        if response.status_code == 200:
            assert adds_up(response.json())
            assert response.json()["received"] == len(json.loads(raw)["comments"])
        else:
            # Invalid JSON gets 422 if its shape is wrong before the syntax error.
            problem(response, 400 if response.status_code == 400 and not _is_json(raw) else 422)

    check()
    assert set(statuses) == {200, 400, 422}


def _is_json(raw: bytes) -> bool:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(raw.decode(), parse_constant=refuse)
    except ValueError:
        return False
    return True


DEEP: Final = 100_000


def _with_fields(fields: str, *, beside: str = "") -> bytes:
    entry = f'{beside}{{"id":"1","text":"t","author":"a",{fields}}}'
    return f'{{"post_id":"p","source":"nasty","comments":[{entry}]}}'.encode()


GOOD: Final = '{"id":"0","text":"t","author":"a"},'
EMPTY: Final = b'{"post_id":"p","comments":[]}'
UNUSUAL: Final[dict[str, tuple[bytes, int]]] = {
    "nothing": (b"", 400),
    "white space": (b" \r\n\t", 400),
    "no JSON": (b"post_id=p", 400),
    "cut short": (EMPTY[:-1], 400),
    "two documents": (EMPTY * 2, 400),
    "a comma too many": (EMPTY[:-1] + b",}", 400),
    "single quotes": (EMPTY.replace(b'"', b"'"), 400),
    "a raw line break": (EMPTY.replace(b'"p"', b'"p\n"'), 400),
    "closed brackets": (b"[" * DEEP + b"]" * DEEP, 422),
    "open braces": (b'{"a":' * DEEP, 400),
    "NaN": (_with_fields('"metadata":{"n":NaN}', beside=GOOD), 400),
    "infinity": (_with_fields('"metadata":{"n":-Infinity}', beside=GOOD), 400),
    "a large exponent": (_with_fields('"metadata":{"n":1e99999}'), 200),
    "a large integer": (_with_fields(f'"metadata":{{"n":{"9" * 60_000}}}'), 200),
    "a large post id": (EMPTY.replace(b'"p"', b"9" * 100_000), 422),
    "a large timestamp": (_with_fields('"timestamp":1e400'), 422),
    "no UTF-8 in a text": (EMPTY.replace(b"p", b"\xff"), 400),
    "an overlong slash": (EMPTY.replace(b'"p"', b'"\xc0\xaf"'), 400),
    "an encoded surrogate": (EMPTY.replace(b'"p"', b'"\xed\xa0\x80"'), 400),
    "UTF-16": (EMPTY.decode().encode("utf-16"), 400),
    "keys twice": (_with_fields('"id":"2","text":"u","metadata":{"a":1,"a":2}'), 200),
    "a lone surrogate beside a good one": (_with_fields('"text":"\\ud800"', beside=GOOD), 200),
    "a lone surrogate": (_with_fields('"text":"\\ud800"'), 422),
    "a lone surrogate in a post id": (EMPTY.replace(b'"p"', b'"\\udc00"'), 422),
    "a pair of surrogates": (_with_fields('"text":"\\ud83d\\ude42"'), 200),
    "NUL": (_with_fields('"metadata":{"\\u0000":1}'), 422),
    "NUL in a post id": (EMPTY.replace(b'"p"', b'"\\u0000"'), 422),
    "null": (b"null", 422),
    "nulls": (b'{"post_id":null,"source":null,"comments":null}', 422),
    "comments of null": (EMPTY.replace(b"[]", b"[null,null]"), 422),
    "fields of null": (_with_fields('"id":null,"text":null,"author":null'), 422),
    "optional fields of null": (
        _with_fields(
            '"timestamp":null,"parent_id":null,"metadata":null,"author_id":null,"edited_at":null,"url":null,"likes":null'
        ),
        200,
    ),
    "a number": (b"1", 422),
    "no comments": (EMPTY, 200),
    "10,000 comments": (json.dumps(body(*map(comment, range(10_000)))).encode(), 200),
    "10,001 comments": (json.dumps(body(*map(comment, range(10_001)))).encode(), 413),
    "10,001 bad comments": (EMPTY.replace(b"[]", b"[" + b"0," * 10_000 + b"0]"), 413),
}


@pytest.mark.parametrize("name", UNUSUAL, ids=lambda name: name.replace(" ", "-"))
def test_an_unusual_body_gets_the_status_of_the_contract(served: httpx.Client, name: str) -> None:
    raw, status = UNUSUAL[name]
    response = served.post("/comments/process", content=raw)
    if status == 200:
        assert (response.status_code, adds_up(response.json())) == (200, True)
    else:
        problem(response, status)
    assert served.get("/health").json()["status"] == "ok"


def test_a_request_of_only_invalid_comments_gets_422_and_each_is_reported(served: httpx.Client) -> None:
    document = problem(served.post("/comments/process", json=body(comment("b1", ""), comment(""))), 422)
    assert [(rejected["index"], rejected["id"]) for rejected in document["rejected"]] == [(0, "b1"), (1, "")]
    assert all(rejected["reason"] for rejected in document["rejected"])


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/xml", "multipart/form-data", "application/x-www-form-urlencoded", "?", ""],
    ids=["text", "xml", "multipart", "form", "invalid", "empty"],
)
def test_json_is_accepted_with_any_content_type(served: httpx.Client, kind: str) -> None:
    for raw, status in ((EMPTY, 200), (b"a=b", 400)):
        response = served.post("/comments/process", content=raw, headers={"Content-Type": kind})
        assert response.status_code == status


def test_a_body_of_the_size_limit_is_accepted_and_a_larger_body_gets_413(served: httpx.Client) -> None:
    def in_chunks(size: int) -> Iterator[bytes]:
        yield EMPTY
        for at in range(len(EMPTY), size, 1 << 16):
            yield b" " * min(1 << 16, size - at)

    limit = 16 * 1024 * 1024
    for size, status in ((limit, 200), (limit + 1, 413), (limit + 5_000_000, 413)):
        known = served.post("/comments/process", content=EMPTY.ljust(size))
        unknown = served.post("/comments/process", content=in_chunks(size))
        assert (known.request.headers["Content-Length"], "Content-Length" in unknown.request.headers) == (
            str(size),
            False,
        )
        for response in (known, unknown):
            if status == 200:
                assert response.status_code == 200
            else:
                assert str(limit) in problem(response, status)["detail"]


FAR: Final = datetime(1, 1, 1, tzinfo=UTC)
WORDS: Final = ("post_id", "author", "source", "parent_id", "q", "label")
LIMITS: Final = ("0", "-1", "501", "ten", "1.5", "", "1\0")
CURSORS: Final = ("", "nope", "=", "%00", "🙂", "bnVsbA", "[]", "x" * 1001)
BAD: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(WORDS, ("a\0b", "x" * 201)),
    "limit": LIMITS,
    "since": ("yesterday", "2026-13-01", "17", "2026-01-31T09:30:00", "9" * 41, "a\0", "0001-01-01T00:00:00+05:00"),
    "until": ("tomorrow", "2026-01-31T25:00:00Z", "\0", "9999-12-31T23:59:59-05:00"),
    "language": ("engl", "e\0", "english", "EN", "e"),
    "sentiment": ("happy", "POSITIVE", "positive\n", "\0"),
    "cursor": (*CURSORS, *(encode_cursor(FAR, tie) for tie in ("a post", "\0", 2**63, 2**70))),
}
BAD_FOR_POSTS: Final = {"limit": LIMITS, "cursor": (*CURSORS, encode_cursor(FAR, "\0"))}


def test_an_invalid_parameter_gets_400_with_its_name(served: httpx.Client) -> None:
    for path, bad in (("/comments", BAD), ("/posts", BAD_FOR_POSTS)):
        for name, values in bad.items():
            for value in values:
                detail = problem(served.get(path, params={name: value}), 400)["detail"]
                assert f"`{name}`" in detail, (path, name, value)


def test_an_unknown_or_repeated_parameter_gets_400(served: httpx.Client) -> None:
    for path in ("/comments?post=a", "/posts?post=a", "/comments/a/b?post=a", "/posts/a/b/summary?post=a"):
        assert "`post`" in problem(served.get(path), 400)["detail"]
    assert "post_id" in problem(served.get("/comments?post=a"), 400)["detail"]
    for path in ("/comments?label=a&label=b", "/posts?limit=1&limit=2"):
        assert "more than once" in problem(served.get(path), 400)["detail"]


def test_an_unknown_comment_or_post_gets_404(served: httpx.Client) -> None:
    for path in ("/comments/a/c1", "/comments/threads/p1", "/posts/a/p1/summary", "/posts/youtube/c1/summary"):
        assert "stored" in problem(served.get(path), 404)["detail"]


def test_unknown_paths_and_methods_and_nul_in_a_path_get_problem_documents(served: httpx.Client) -> None:
    for path in ("/nothing", "/docs/nothing", "/docs/assets/nothing", "/comments/a/b/c/d"):
        problem(served.get(path), 404)
    problem(served.delete("/comments"), 405)
    for path in ("/comments/a/b%00", "/comments/a%00/b", "/posts/a/b%00/summary", "/posts/%00/b/summary"):
        assert "NUL" in problem(served.get(path), 400)["detail"]


def test_an_error_carries_the_callers_request_id(served: httpx.Client) -> None:
    response = served.get("/comments/a/b", headers={"X-Request-Id": "mine-1"})
    problem(response, 404)
    assert response.json()["request_id"] == "mine-1"
