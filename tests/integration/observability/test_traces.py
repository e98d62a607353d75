"""Traces: each follows a request through the queue to its analysis, and goes to a collector only if configured."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from tests.conftest import Broker
from tests.integration.conftest import MakeUp
from tests.support import forked, http
from tests.support.collector import Collector, Seen, collecting
from tests.support.requests import body, comment
from tests.support.up import Up, until

from comment_monitor.observability import tracing
from comment_monitor.observability.correlation import RequestContext

SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5
REQUEST = "POST /comments/process"
ANALYSIS = "analyse comment-analysis"
CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


def start(make_up: MakeUp, collector: Collector, **environment: str) -> Up:
    quickly = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    up = make_up(COMMENT_RATE_LIMIT_PER_MINUTE="0", **quickly, **environment).start().wait_until_up()
    # Messages of the sweep have no trace: wait until the API can publish.
    return up.wait_until_well()


def ancestors(span: Seen, spans: list[Seen]) -> list[str]:
    """Returns the names of a span's ancestors, from its parent to the root."""
    by_id = {span.id: span for span in spans}
    names = []
    while parent := by_id.get(span.parent):
        names.append(parent.name)
        span = parent
    return names


def test_a_request_its_message_and_its_analysis_share_a_trace(
    make_up: MakeUp, collector: Collector, rabbitmq: Broker
) -> None:
    up = start(make_up, collector, CELERY_BROKER_URL=rabbitmq.url)
    headers = {"traceparent": f"00-{CALLER}-00f067aa0ba902b7-01", "x-request-id": "mine"}
    answer = up.post(json=body(*map(comment, range(12))), headers=headers)
    assert answer.status_code == 200
    until(lambda: collector.named(ANALYSIS))
    up.ctrl_c()
    assert up.process.wait() == 0, up.output()
    spans = [span for span in collector.spans if span.trace == CALLER]
    [request] = [span for span in spans if span.kind == SERVER]
    assert (request.service, request.name, request.parent) == ("orchestrator", REQUEST, "00f067aa0ba902b7")
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["request.id"] == "mine"
    analyses = [span for span in spans if span.kind == CONSUMER]
    assert analyses
    for span in analyses:
        assert (span.service, span.name) == ("comment-worker", ANALYSIS)
        assert ancestors(span, spans) == ["send comment-analysis", "store comments", REQUEST]
        assert span.attributes["request.id"] == "mine"
    # The statements in PostgreSQL are part of the trace.
    loads = [span for span in spans if span.name == "load_batches"]
    assert loads
    assert {span.kind for span in loads} == {CLIENT}
    assert not any(span.failed for span in spans)


def requests(collector: Collector, name: str) -> set[str]:
    """Returns the ids of the requests that have a span of this name."""
    return {span.attributes["request.id"] for span in collector.named(name)}


def test_requests_that_share_a_batch_have_their_own_traces(make_up: MakeUp, collector: Collector) -> None:
    """Comments of many small requests are analysed in one task, which appears in the trace of each request."""
    up = start(make_up, collector, COMMENT_BATCH_SIZE="25")
    with http.Client(timeout=60) as client:
        for number in range(30):
            client.post(
                f"{up.url}/comments/process", json=body(comment(number)), headers={"x-request-id": f"r{number}"}
            )
    # Each process exports its own spans at its own time.
    until(lambda: len(requests(collector, REQUEST)) == len(requests(collector, ANALYSIS)) == 30)
    traces = {span.attributes["request.id"]: span.trace for span in collector.named(REQUEST)}
    assert len(set(traces.values())) == 30
    for span in collector.named(ANALYSIS):
        assert span.trace == traces[span.attributes["request.id"]]


def test_no_span_contains_data_of_a_user(make_up: MakeUp, collector: Collector) -> None:
    up = start(make_up, collector)
    up.post(json=body(comment("secret-id", "secret words", author="secret author")))
    up.get("/comments/threads/secret-id")
    up.get("/health")
    refused = up.post(content=b"secret", headers={"x-api-key": "secret key"})
    assert refused.status_code == 400
    # The log line names the trace.
    [line] = [json.loads(line) for line in up.output().splitlines() if '"refused"' in line]
    up.get("/comments", params={"q": "secret", "author": "secret author"})
    http.head(f"{up.url}/comments", params={"q": "secret"})
    up.get("/secret")
    until(lambda: collector.named("GET") and collector.named(ANALYSIS))
    assert b"secret" not in collector.raw
    assert {span.name for span in collector.spans if span.kind == SERVER} == {
        REQUEST, "GET /comments", "GET /comments/{source}/{comment_id}", "GET",
        "HEAD /comments",
    }  # fmt: skip
    assert line["trace_id"] == next(
        span.trace for span in collector.named(REQUEST) if span.attributes["request.id"] == line["request_id"]
    )
    answered = [span.attributes["http.response.status_code"] for span in collector.named(REQUEST)]
    assert answered == [200, 400]


def test_a_failed_request_is_marked_with_its_error_type(make_up: MakeUp, collector: Collector) -> None:
    up = start(make_up, collector, COMMENT_MONITORING_ENABLED="false")
    assert up.post(json=body(comment(1))).status_code == 503
    until(lambda: collector.named(REQUEST))
    [refused] = collector.named(REQUEST)
    assert refused.failed
    assert refused.attributes["error.type"] == "503"


def test_a_span_records_the_type_of_an_error_without_its_message(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named otherwise")
    tracing.start(collector.url, "test")
    parents = [RequestContext(str(number), f"00-{CALLER}-{number + 1:016x}-01") for number in range(2)]
    try:
        with suppress(ValueError), tracing.span("alone"):
            raise ValueError("secret")
        with suppress(ValueError), tracing.Several("together", "CONSUMER", parents):
            raise ValueError("secret")
    finally:
        tracing.stop()
    assert {(span.service, span.name) for span in collector.spans} == {
        ("named otherwise", "alone"), ("named otherwise", "together")
    }  # fmt: skip
    assert len(collector.spans) == 3
    assert all(span.failed and span.attributes["error.type"] == "ValueError" for span in collector.spans)
    assert b"secret" not in collector.raw
    assert not tracing.on()


def test_an_unavailable_collector_does_not_affect_requests(make_up: MakeUp) -> None:
    up = make_up(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_BSP_SCHEDULE_DELAY="100")
    up.start().wait_until_up()
    for number in range(20):
        assert up.post(json=body(comment(number))).status_code == 200
    until(lambda: '"logger": "opentelemetry' in up.output())
    # Time for more attempts.
    time.sleep(2)
    up.ctrl_c()
    assert up.process.wait() == 0, up.output()
    # Each process logs one line a minute, not one line per attempt.
    said = [line for line in up.output().splitlines() if '"logger": "opentelemetry' in line]
    assert 1 <= len(said) <= 3, said


LEAVES_WITH_SPANS = """
import os
from comment_monitor.observability import tracing

tracing.start(os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"], "test")
for _ in range(2000):
    with tracing.span("one"):
        pass
tracing.stop()
"""


@pytest.mark.parametrize("way", ["silent", "dripping"])
def test_a_hanging_collector_does_not_delay_the_shutdown(way: str) -> None:
    """Kubernetes kills a process that has not ended within the grace period."""
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            with suppress(OSError):
                connection, _ = listener.accept()
                connection.settimeout(None)
                connections.append(connection)
                if way == "dripping":
                    threading.Thread(target=drip, args=(connection,), daemon=True).start()

    def drip(connection: socket.socket) -> None:
        with suppress(OSError):
            for byte in b"HTTP/1.1 200 OK\r\n" + b"x" * 1000:
                connection.sendall(bytes([byte]))
                time.sleep(0.5)

    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        server = threading.Thread(target=serve)
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        started = time.monotonic()
        # A separate process, because threads that are left behind end with it.
        environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
        subprocess.run([sys.executable, "-c", LEAVES_WITH_SPANS], env=environment, check=True, timeout=60)
        assert connections
        assert time.monotonic() - started < 2 * tracing.FLUSH_TIMEOUT
        ended.set()
        server.join()
    for connection in connections:
        connection.close()


@pytest.mark.parametrize(("variable", "value"), [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true")])
def test_the_switches_of_opentelemetry_disable_tracing(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    tracing.start("http://127.0.0.1:9", "test")
    assert not tracing.on()


def test_an_invalid_traceparent_is_ignored(make_up: MakeUp, collector: Collector) -> None:
    up = start(make_up, collector)
    for given in ("x" * 600, "00-short", f"00-{CALLER}-00f067aa0ba902b7-01-more"):
        answer = up.post(json=body(comment(given[:9])), headers={"traceparent": given})
        assert answer.status_code == 200
    until(lambda: len(collector.named(REQUEST)) == 3)
    assert CALLER not in {span.trace for span in collector.named(REQUEST)}
    # Otherwise a client could fill the log.
    assert '"logger": "opentelemetry' not in up.output()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: must be http/protobuf"),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "99999"}, "OpenTelemetry rejects an OTEL_ variable"),
    ],
)
def test_a_worker_reports_invalid_tracing_settings_before_work(
    empty_dsn: str, variables: dict[str, str], says: str
) -> None:
    environment = {
        "POSTGRES_DSN": empty_dsn, "CELERY_BROKER_URL": "memory://", "PATH": "/usr/bin:/bin",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", **variables,
    }  # fmt: skip
    command = [sys.executable, "-m", "comment_monitor", "worker", "--metrics-port", "0"]
    done = forked.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("Error: ") and says in line], done.stderr


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT=<hidden>: must be an http://"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:secret/word@c:9"},
            "OTEL_EXPORTER_OTLP_ENDPOINT=<hidden>: must be like http://collector:4318",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: must be http/protobuf",
        ),
    ],
)
def test_invalid_tracing_settings_are_reported_at_the_start(
    make_up: MakeUp, variables: dict[str, str], says: str
) -> None:
    up = make_up(**variables).start()
    assert up.process.wait() == 1
    assert says in up.output()
    assert "secret" not in up.output()


def test_opentelemetry_is_not_loaded_without_an_endpoint(empty_dsn: str) -> None:
    code = (
        "import sys, comment_monitor.cli.serve, comment_monitor.tasks as t; t.process().close();"
        "from comment_monitor.web.app import create_app, create_asgi; from comment_monitor.core.config import load;"
        "create_asgi(create_app(load())); loaded = [name for name, one in sys.modules.items() if one];"
        # Litestar imports the names of attributes.
        "ours = [name for name in loaded if name.startswith('opentelemetry.') and 'semconv' not in name];"
        "sys.exit(', '.join(ours) or 0)"
    )
    environment = {"POSTGRES_DSN": empty_dsn, "CELERY_BROKER_URL": "memory://"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_opentelemetry_is_complete_for_external_instrumentation() -> None:
    code = "import comment_monitor.runtime; from opentelemetry import metrics; import opentelemetry.sdk.metrics as sdk;"
    code += "metrics.set_meter_provider(sdk.MeterProvider()); metrics.get_meter('host').create_counter('c').add(1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
