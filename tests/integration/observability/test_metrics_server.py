"""The metrics port among clients that mean no good."""

import socket
from contextlib import ExitStack, closing

import pytest
from tests.support import http
from tests.support.rabbitmq import free_port
from tests.support.up import until

from comment_monitor.observability import metrics_server


def test_connections_that_say_nothing_are_bounded_and_end_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics_server._Handler, "timeout", 2)
    port = free_port()
    stop = metrics_server.serve_metrics("127.0.0.1", port)
    try:
        with ExitStack() as held:
            silent = [
                held.enter_context(closing(socket.create_connection(("127.0.0.1", port), timeout=30)))
                for _ in range(metrics_server.CONNECTIONS + 20)
            ]
            for one in silent:
                one.sendall(b"GET /metrics HT")
            # Those beyond the bound are closed at once, the others when they have said nothing for long enough.
            assert all(one.recv(1) == b"" for one in silent)
        until(lambda: not metrics_server._Handler.open)
        assert http.get(f"http://127.0.0.1:{port}/metrics").status_code == 200
        # One that goes away in the middle of its answer.
        with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as one:
            one.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert http.get(f"http://127.0.0.1:{port}/metrics").status_code == 200
    finally:
        stop()
    assert "Traceback" not in capfd.readouterr().err
