"""Redis clusters and Redis under Sentinels: real servers on loopback, which end with the block."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import redis
from redis.exceptions import RedisError

from comment_monitor.devserver.redis_process import _binary
from tests.support.rabbitmq import PORTS, free_port

SLOTS: Final = 16_384
BUS_OFFSET: Final = 10_000
PATIENCE: Final = 60.0


def port_of_two() -> int:
    """Returns a free port whose cluster bus port is free too."""
    while True:
        # The cluster bus of a node uses this port plus 10,000.
        if (port := free_port()) < PORTS[1] - BUS_OFFSET:
            with suppress(OSError), closing(socket.socket()) as other:
                other.bind(("127.0.0.1", port + BUS_OFFSET))
                return port


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Waits until the condition is true; errors count as false."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with suppress(RedisError, OSError):
            if condition():
                return
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@contextmanager
def redis_process(folder: Path, port: int, *options: str) -> Iterator["redis.Redis"]:
    """Runs a server at this port; yields its client."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [_binary(), *options, "--port", str(port), "--dir", str(folder), "--bind", "127.0.0.1"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        client = redis.Redis(port=port)
        try:
            wait_for(client.ping, f"no Redis at {port}")
            yield client
        finally:
            client.close()
            process.kill()


@contextmanager
def redis_cluster(folder: Path, nodes: int) -> Iterator[list[int]]:
    """Runs a cluster; yields the ports of its nodes."""
    with ExitStack() as stack:
        ports = [port_of_two() for _ in range(nodes)]
        clients = [
            stack.enter_context(redis_process(folder / str(port), port, "--cluster-enabled", "yes", "--save", ""))
            for port in ports
        ]
        for number, client in enumerate(clients):
            call(client, "CLUSTER", "ADDSLOTS", *range(SLOTS * number // nodes, SLOTS * (number + 1) // nodes))
            call(client, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for port in ports[1:]:
            call(clients[0], "CLUSTER", "MEET", "127.0.0.1", port)
        for client in clients:
            wait_for(partial(is_whole, client, nodes), "the cluster does not form")
        yield ports


def is_whole(client: "redis.Redis", nodes: int) -> bool:
    """Whether this node knows all nodes and the owner of each slot."""
    info = bytes(call(client, "CLUSTER", "INFO")).decode().split()
    return {"cluster_state:ok", f"cluster_size:{nodes}"} <= set(info)


def call(client: "redis.Redis", *words: object) -> Any:
    """Sends a command; returns the undecoded response."""
    return client.execute_command(*words, NEVER_DECODE=True)  # type: ignore[no-untyped-call]


@contextmanager
def redis_sentinel(folder: Path) -> Iterator[tuple[int, "list[redis.Redis]"]]:
    """Runs a Sentinel; yields its port and the servers of its service `comments`: a master and a replica."""
    ports = [port_of_two() for _ in range(2)]
    config = folder / "sentinel.conf"
    config.write_text(
        f"sentinel monitor comments 127.0.0.1 {ports[0]} 1\n"
        "sentinel down-after-milliseconds comments 500\nsentinel failover-timeout comments 5000\n"
    )
    of_replica = ["--replicaof", "127.0.0.1", str(ports[0])]
    with (
        redis_process(folder / "master", ports[0], "--save", "") as master,
        redis_process(folder / "replica", ports[1], "--save", "", *of_replica) as replica,
        redis_process(folder / "sentinel", sentinel := port_of_two(), str(config), "--sentinel") as sentinel_client,
    ):
        wait_for(lambda: call(sentinel_client, "SENTINEL", "SLAVES", "comments"), "the replica is not seen")
        yield sentinel, [master, replica]
