"""A RabbitMQ for the tests, from the rabbitmq-server on PATH."""

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import amqp

START_TIMEOUT = 90
# The virtual hosts of the shared broker: one for each pytest-xdist worker.
VHOSTS = tuple(f"gw{number}" for number in range(16))
PORTS = (10_240, 32_768)
_given: set[int] = set()
# A started server outlives the process that started it; its Popen object must not be collected.
_keep: list["RabbitMQ"] = []


def _own_ports() -> range:
    """Returns the ports of this process if several processes run the tests (pytest-xdist)."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return range(*PORTS)[number :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]


def free_port() -> int:
    """Returns a free TCP port that was not returned before, because its earlier user may not have bound it yet.

    The port is below the ephemeral ports: one of these could be taken before the server listens, even by the
    connection that polls the server.
    """
    while True:
        port = random.choice(_own_ports())
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port


class RabbitMQ:
    """A node on loopback with its own folder. Its port stays the same over restarts.

    With `metrics`, its Prometheus plugin exports metrics on a port, updated every second. `vhosts` exist beside `/`.
    """

    def __init__(self, folder: Path, *, metrics: bool = False, vhosts: Sequence[str] = ()):
        self._folder = folder
        self._port = free_port()
        self._dist = free_port()
        self._epmd = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        settings = [f"listeners.tcp.1 = 127.0.0.1:{self._port}", "loopback_users.guest = true"]
        self.metrics_port = free_port() if metrics else 0
        if metrics:
            (folder / "plugins").write_text("[rabbitmq_prometheus].\n")
            settings += ["prometheus.tcp.ip = 127.0.0.1", f"prometheus.tcp.port = {self.metrics_port}"]
            settings.append("collect_statistics_interval = 1000")
        if vhosts:
            (folder / "definitions.json").write_text(json.dumps(_definitions(vhosts)))
            settings.append(f"load_definitions = {folder}/definitions.json")
        (folder / "rabbitmq.conf").write_text("".join(f"{setting}\n" for setting in settings))

    @property
    def url(self) -> str:
        """The broker's URL."""
        return f"amqp://guest:guest@127.0.0.1:{self._port}//"

    @property
    def state(self) -> dict[str, int]:
        """The values that `stop_shared` and other processes need."""
        assert self._process
        return {"port": self._port, "pid": self._process.pid, "epmd": self._epmd}

    @property
    def _environment(self) -> dict[str, str]:
        folder = str(self._folder)
        return {
            **os.environ,
            "HOME": folder,
            "RABBITMQ_NODENAME": f"test{self._port}@localhost",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_DIST_PORT": str(self._dist),
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1",
        }

    def start(self) -> None:
        """Starts the node and waits until it accepts connections."""
        with (self._folder / "out.log").open("ab") as log:
            self._process = subprocess.Popen(
                # The Debian wrapper on PATH changes the user and the environment; the script behind it does not.
                [server_script()],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                with amqp.Connection(f"127.0.0.1:{self._port}", connect_timeout=2):
                    return
            # AMQPError: a node that is not fully started refuses connections.
            except (OSError, amqp.AMQPError):
                time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"RabbitMQ did not start; see {self._folder}/out.log")

    def stop(self) -> None:
        """Kills the node, as an outage would."""
        if self._process is None:
            return
        # The node and its helper processes share a session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        _stop_epmd(self._epmd)

    def set_memory_limit(self, share: float) -> None:
        """Sets the share of memory above which no messages are accepted; a share below the usage raises the alarm."""
        script = Path(server_script()).with_name("rabbitmqctl")
        command = [str(script), "--quiet", "set_vm_memory_high_watermark", str(share)]
        subprocess.run(command, env=self._environment, check=True, capture_output=True, timeout=60)

    def restart(self) -> None:
        """Kills and starts the node, which keeps its data on disk."""
        self.stop()
        self.start()


def _definitions(vhosts: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    names = ("/", *vhosts)
    rights = {"user": "guest", "configure": ".*", "write": ".*", "read": ".*"}
    return {
        "users": [{"name": "guest", "password": "guest", "tags": "administrator"}],
        "vhosts": [{"name": name} for name in names],
        "permissions": [{"vhost": name, **rights} for name in names],
    }


def _stop_epmd(port: int) -> None:
    """Ends the port mapper, which the node starts as a daemon.

    It refuses to end while it knows a node, and notices the end of the node with a delay.
    """
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if subprocess.run([epmd(), "-port", str(port), "-names"], capture_output=True, check=False).returncode:
            return
        subprocess.run([epmd(), "-port", str(port), "-kill"], capture_output=True, check=False)
        time.sleep(0.05)


def shared_url(folder: Path, vhost: str) -> str:
    """Returns the URL of the shared broker; the first caller of all processes starts it."""
    state = folder / "rabbitmq.json"
    with (folder / "rabbitmq.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not state.exists():
            server = RabbitMQ(folder / "rabbitmq", vhosts=VHOSTS)
            server.start()
            state.write_text(json.dumps(server.state))
            _keep.append(server)
    return f"amqp://guest:guest@127.0.0.1:{json.loads(state.read_text())['port']}/{vhost}"


def stop_shared(folder: Path) -> None:
    """Stops the shared broker, if one was started, after all processes of the test run have ended."""
    state = folder / "rabbitmq.json"
    if state.exists():
        found = json.loads(state.read_text())
        with contextlib.suppress(ProcessLookupError):
            os.killpg(found["pid"], signal.SIGKILL)
        _stop_epmd(found["epmd"])
        state.unlink()


def epmd() -> str:
    """Returns the path of Erlang's port mapper."""
    found = shutil.which("epmd")
    if not found:
        raise RuntimeError("rabbitmq-server is installed but epmd is not")
    return found


def server_script() -> str:
    """Returns the server's start script; empty if RabbitMQ is not installed."""
    for path in ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server"):
        if Path(path).exists():
            return path
    return shutil.which("rabbitmq-server") or ""


def main() -> None:
    """Runs a broker until SIGTERM: `python -m tests.support.rabbitmq FOLDER` prints its URL once it is ready."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = RabbitMQ(Path(sys.argv[1]))
    try:
        server.start()
        print(server.url, flush=True)  # noqa: T201 - for the caller
        signal.pause()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
