"""The metrics port with clients that send nothing, or that disconnect."""

import socket
from contextlib import ExitStack, closing

import pytest
from tests.support import http
from tests.support.rabbitmq import free_port
from tests.support.up import until

from comment_monitor.observability import metrics_server


def test_silent_connections_are_bounded_and_time_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics_server._Handler, "timeout", 2)
    port = free_port()
    stop = metrics_server.serve_metrics("127.0.0.1", port)
    try:
        with ExitStack() as stack:
            silent = [
                stack.enter_context(closing(socket.create_connection(("127.0.0.1", port), timeout=30)))
                for _ in range(metrics_server.CONNECTIONS + 20)
            ]
            for connection in silent:
                connection.sendall(b"GET /metrics HT")
            # Connections above the limit are closed at once, the others after the timeout.
            assert all(connection.recv(1) == b"" for connection in silent)
        until(lambda: not metrics_server._Handler.open)
        assert http.get(f"http://127.0.0.1:{port}/metrics").status_code == 200
        # A client that disconnects during the response.
        with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert http.get(f"http://127.0.0.1:{port}/metrics").status_code == 200
    finally:
        stop()
    assert "Traceback" not in capfd.readouterr().err
