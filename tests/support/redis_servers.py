"""Redis as clusters and under Sentinels: real servers on loopback, gone after the block."""

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
NEIGHBOUR: Final = 10_000
PATIENCE: Final = 60.0


def port_of_two() -> int:
    """A port that nobody uses, whose neighbour for the nodes' own talk can be had too."""
    while True:
        # A node talks to the others at this port plus 10,000.
        if (port := free_port()) < PORTS[1] - NEIGHBOUR:
            with suppress(OSError), closing(socket.socket()) as other:
                other.bind(("127.0.0.1", port + NEIGHBOUR))
                return port


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Until it comes true."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with suppress(RedisError, OSError):
            if condition():
                return
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@contextmanager
def redis_process(folder: Path, port: int, *options: str) -> Iterator["redis.Redis"]:
    """A server at this port; its client."""
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
    """The ports of a cluster's nodes, each with its part of the slots."""
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
    """Whether this node knows all the others, and who has which slot."""
    info = bytes(call(client, "CLUSTER", "INFO")).decode().split()
    return {"cluster_state:ok", f"cluster_size:{nodes}"} <= set(info)


def call(client: "redis.Redis", *words: object) -> Any:
    """A command as it is written, and its bare answer."""
    return client.execute_command(*words, NEVER_DECODE=True)  # type: ignore[no-untyped-call]


@contextmanager
def redis_sentinel(folder: Path) -> Iterator[tuple[int, "list[redis.Redis]"]]:
    """A Sentinel's port, and the servers of its service `comments`: a master and a replica."""
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
        redis_process(folder / "sentinel", sentinel := port_of_two(), str(config), "--sentinel") as watching,
    ):
        wait_for(lambda: call(watching, "SENTINEL", "SLAVES", "comments"), "the replica is not seen")
        yield sentinel, [master, replica]
