"""A trace collector for the tests: OTLP over HTTP."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Seen(NamedTuple):
    """A received span; ids in hex, `parent` empty for a root, `start` in seconds since 1970."""

    service: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    start: float
    seconds: float
    failed: bool
    attributes: dict[str, Any]


class Collector:
    """The received spans; `raw` holds all received bytes."""

    def __init__(self, url: str):
        self.url = url
        self.spans: list[Seen] = []
        # Extended atomically, because several exporters send at once.
        self.raw = bytearray()

    def named(self, name: str) -> list[Seen]:
        return [span for span in self.spans if span.name == name]

    def receive(self, content: bytes) -> None:
        self.raw += content
        for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
            [service] = [
                attribute.value.string_value
                for attribute in resource.resource.attributes
                if attribute.key == "service.name"
            ]
            for scope in resource.scope_spans:
                self.spans += [_seen(service, span) for span in scope.spans]


def _seen(service: str, span: Any) -> Seen:
    return Seen(
        service,
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano / 1e9,
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        span.status.code == span.status.STATUS_CODE_ERROR,
        {attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value")) for attribute in span.attributes},
    )


@contextmanager
def collecting() -> Iterator[Collector]:
    """Runs a collector on its own port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                content = gzip.decompress(content)
            collector.receive(content)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
