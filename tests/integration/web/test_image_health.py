"""The image's health check requests the port and path that the container's first process was started with."""

import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest
from tests.conftest import project_root

SCRIPT: Final = project_root() / "deploy" / "image" / "health"


class Listening:
    """A server on the loopback address that records the requested paths."""

    def __init__(self) -> None:
        self.requested: list[str] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                """Answers with the current status."""
                outer.requested.append(self.path)
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the library
                """Logs nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = str(self.server.server_address[1])


@pytest.fixture
def listening() -> Iterator[Listening]:
    recorder = Listening()
    thread = threading.Thread(target=recorder.server.serve_forever)
    thread.start()
    yield recorder
    recorder.server.shutdown()
    recorder.server.server_close()
    thread.join()


def healthy(folder: Path, *words: str) -> bool:
    """Returns whether the check passes for a container with this command line."""
    file = folder / "cmdline"
    file.write_bytes(b"".join(word.encode() + b"\0" for word in words))
    done = subprocess.run(["sh", str(SCRIPT), str(file)], capture_output=True, check=False, timeout=30)
    return done.returncode == 0


PROGRAM: Final = ("/opt/comment-monitor/bin/python", "/opt/comment-monitor/bin/comment-monitor")


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("serve", "--port", "PORT"), "/health"),
        (("serve", "--host", "0.0.0.0", "--port", "PORT"), "/health"),  # noqa: S104 - a container's argument
        (("serve", "--port=PORT", "--metrics-port=1", "--host=127.0.0.1"), "/health"),
        (("serve", "--metrics-port", "1", "--data-dir", "worker", "--port", "PORT"), "/health"),
        (("worker", "--metrics-port", "PORT"), "/metrics"),
        (("worker", "--host", "0.0.0.0", "--concurrency", "2", "--metrics-port=PORT"), "/metrics"),  # noqa: S104
        (("worker", "--host", "::", "--metrics-port", "PORT"), "/metrics"),
    ],
)
@pytest.mark.parametrize("before", [(), ("/sbin/docker-init", "--")], ids=["alone", "docker-init"])
def test_the_check_requests_the_port_and_path_of_each_role(
    before: tuple[str, ...], words: tuple[str, ...], path: str, listening: Listening, tmp_path: Path
) -> None:
    line = (*before, *PROGRAM, *(word.replace("PORT", listening.port) for word in words))
    assert healthy(tmp_path, *line)
    listening.status = 503
    assert not healthy(tmp_path, *line)
    assert listening.requested == [path, path]


@pytest.mark.parametrize("words", [("migrate",), ("cleanup", "--yes"), ("smoke-test", "--url", "http://x"), ("check",)])
def test_a_command_that_ends_by_itself_is_healthy_while_it_runs(words: tuple[str, ...], tmp_path: Path) -> None:
    assert healthy(tmp_path, *PROGRAM, *words)


def test_a_worker_without_a_metrics_port_is_healthy(tmp_path: Path) -> None:
    assert healthy(tmp_path, *PROGRAM, "worker", "--metrics-port", "0")


@pytest.mark.parametrize("words", [("serve", "--port", "PORT"), ("worker", "--metrics-port", "PORT")])
def test_a_closed_port_is_not_healthy(words: tuple[str, ...], listening: Listening, tmp_path: Path) -> None:
    listening.server.server_close()
    assert not healthy(tmp_path, *PROGRAM, *(word.replace("PORT", listening.port) for word in words))


def test_the_image_runs_the_health_check() -> None:
    text = (project_root() / "Dockerfile").read_text()
    assert 'CMD ["/opt/comment-monitor/bin/health"]\n' in text
    assert "COPY deploy/image/health /opt/comment-monitor/bin/health\n" in text
    assert "!deploy/image\n" in (project_root() / ".dockerignore").read_text()
    # No `--chmod`: builders before BuildKit do not know it.
    assert SCRIPT.stat().st_mode & 0o111 == 0o111
