"""The cost of traces: switched off (beside a program that can't create any), and switched on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from bench.harness.claim import Row, Tools
from bench.harness.comments import make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import alone

COMMENTS: Final = 100_000
SIZE: Final = 25
CONNECTIONS: Final = 64
OURS: Final = ("-m", "comment_monitor")
WITHOUT: Final = ("-m", "bench.harness.untraced")


def measure(tools: Tools) -> list[Row]:
    """Measures all three in each round, each in a process of its own: without trace code, off, on."""
    bodies = make_bodies(make_columns(COMMENTS, run=17), SIZE)
    rates: dict[str, list[float]] = {"without": [], "off": [], "on": []}
    with _collector() as endpoint:
        for _ in range(tools.rounds):
            for name, found in rates.items():
                variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} if name == "on" else {}
                tools.system.forget()
                with tools.system.serving(program=WITHOUT if name == "without" else OURS, **variables) as (url, _):
                    found.append(send(url, bodies, connections=CONNECTIONS).rate)
            tools.say(", ".join(f"{name} {found[-1]:,.0f}" for name, found in rates.items()))
    return [
        _row("traces off", rates["off"], rates["without"], "no place that could make one"),
        _row("every request traced", rates["on"], rates["off"], "off"),
    ]


def _row(work: str, ours: list[float], beside: list[float], beside_what: str) -> Row:
    return Row(work=f"{work}, {SIZE} a request", unit="comments/s", ours=ours, beside=beside, beside_what=beside_what)


@contextmanager
def _collector() -> Iterator[str]:
    """Runs a collector that discards traces; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":
    alone(measure)
