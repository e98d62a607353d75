"""SIGTERM: `/health` turns 503 first, accepted requests are finished and answered, and nothing is lost."""

import asyncio
import json
import signal
from pathlib import Path

import httpx
import pytest
from tests.conftest import until
from tests.faults.conftest import MakeSystem
from tests.support import http
from tests.support.database import blocked
from tests.support.locks import locked
from tests.support.requests import body, comment
from tests.support.system import Sender, System, analysed, assert_unavailable, stored, traffic

from comment_monitor.messaging.celery_app import MAX_COMMENTS_PER_TASK

# Seconds, far below the server's timeout for connections that stay open.
AT_ONCE = 12


async def not_ready(system: System) -> bool:
    """Whether `/health` is 503, or the server no longer accepts connections."""
    try:
        code, found = await system.health()
    except httpx.TransportError:
        return True
    assert (code, found["status"]) in {(200, "ok"), (503, "draining")}
    return code == 503


async def assert_refused(system: System, id_: str) -> None:
    """Asserts that a new request is refused."""
    try:
        answer = await system.post(comment(id_))
    except httpx.TransportError:
        return
    assert_unavailable(answer, "draining")


@pytest.mark.parametrize("signals", [1, 5])
async def test_accepted_requests_are_finished_and_answered(system: System, signals: int) -> None:
    await system.start(system.orchestrator)
    await system.until_health("ok")
    ids = [str(number) for number in range(100)]
    with locked(system.dsn):
        accepted = [asyncio.create_task(system.post(*map(comment, ids[at : at + 25]))) for at in range(0, 100, 25)]

        async def all_accepted() -> bool:
            return await system.metric("comment_processing_queue_length") == 100

        await until(all_accepted)
        for _ in range(signals):
            system.orchestrator.ask_to_leave()
        await until(lambda: not_ready(system))
        await assert_refused(system, "late")
        assert system.orchestrator.process.poll() is None
    for answer in await asyncio.gather(*accepted):
        assert answer.json()["stored"] == 25
    assert await system.orchestrator.until_ended() == 0
    assert sorted(stored(system.dsn)) == sorted(ids)
    system.has_no_complaints()


async def test_health_is_503_while_requests_are_still_accepted(make_system: MakeSystem) -> None:
    system = make_system(COMMENT_DRAIN_DELAY=6)
    await system.start(system.orchestrator)
    await system.until_health("ok")
    system.orchestrator.ask_to_leave()
    await until(lambda: not_ready(system))
    assert (await system.health())[1]["status"] == "draining"
    assert (await system.post(comment("taken"))).json()["stored"] == 1
    assert await system.orchestrator.until_ended() == 0
    assert stored(system.dsn) == ["taken"]


async def test_responses_during_the_drain_delay_close_the_connection(make_system: MakeSystem) -> None:
    """A client with a persistent connection never loses a request to the shutdown."""
    system = make_system(COMMENT_DRAIN_DELAY=6)
    await system.start(system.orchestrator)
    limits = httpx.Limits(max_connections=1)
    async with http.AsyncClient(base_url=system.url, limits=limits) as client:
        assert "connection" not in (await client.get("/comments")).headers
        system.orchestrator.ask_to_leave()
        await until(lambda: '"leaving"' in system.orchestrator.output)
        for path in ("/comments", "/health", "/nowhere"):
            assert (await client.get(path)).headers["connection"] == "close"
        answer = await client.post("/comments/process", json=body(comment("taken")))
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert await system.orchestrator.until_ended(AT_ONCE) == 0


async def test_an_idle_process_exits_at_once_despite_open_connections(system: System) -> None:
    await system.start()
    # A worker handles the signal only once it is ready.
    await system.until_working()
    async with http.AsyncClient() as client:
        await client.get(f"{system.url}/health")
        system.orchestrator.ask_to_leave()
        system.worker.ask_to_leave()
        assert await system.orchestrator.until_ended(AT_ONCE) == 0
        assert await system.worker.until_ended(AT_ONCE) == 0
    system.has_no_complaints()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM], ids=["sigint", "sigterm"])
async def test_ctrl_c_after_the_first_signal_exits_at_once(make_system: MakeSystem, first: signal.Signals) -> None:
    system = make_system(COMMENT_DRAIN_DELAY=60)
    await system.start(system.orchestrator)
    assert (await system.post(comment(1))).status_code == 200
    system.orchestrator.process.send_signal(first)
    await until(lambda: '"leaving"' in system.orchestrator.output)
    system.orchestrator.process.send_signal(signal.SIGINT)
    assert await system.orchestrator.until_ended(AT_ONCE) == 128 + signal.SIGINT
    assert stored(system.dsn) == ["1"]
    system.has_no_complaints()


HALF = json.dumps(body(comment(1))).encode()[:-10]
HEAD = b"POST /comments/process HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n"


async def begun(system: System) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Opens a request without its last bytes; everything sent so far is read by the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", system.port)
    writer.write(HEAD % (len(HALF) + 10) + HALF)
    await writer.drain()
    # A request that is unread when the drain begins is refused at once.
    await until(lambda: unread(system.port, writer.get_extra_info("sockname")[1]) == 0)
    return reader, writer


def unread(port: int, client: int) -> int | None:
    """Returns the bytes of a client's connection that the server has not read yet, according to the kernel."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if (int(local.partition(":")[2], 16), int(remote.partition(":")[2], 16)) == (port, client):
            return int(queues.partition(":")[2], 16)
    return None


async def test_an_incomplete_request_does_not_delay_the_exit(system: System) -> None:
    """The incomplete requests are answered 503, and none of their comments is stored."""
    await system.start(system.orchestrator)
    connections = [await begun(system) for _ in range(3)]
    system.orchestrator.ask_to_leave()
    assert await system.orchestrator.until_ended(AT_ONCE) == 0
    for reader, writer in connections:
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"problem:draining" in answer
        assert b"\r\nretry-after: " in answer.lower()
        writer.close()
    assert stored(system.dsn) == []
    system.has_no_complaints()


async def test_a_request_completed_within_the_grace_period_is_stored(system: System) -> None:
    await system.start(system.orchestrator)
    reader, writer = await begun(system)
    system.orchestrator.ask_to_leave()
    await until(lambda: '"draining"' in system.orchestrator.output)
    # The grace period of two seconds begins.
    writer.write(json.dumps(body(comment(1))).encode()[-10:])
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert await system.orchestrator.until_ended(AT_ONCE) == 0
    assert stored(system.dsn) == ["1"]


async def test_a_client_that_disconnects_is_not_a_server_error(system: System) -> None:
    await system.start(system.orchestrator)
    _, writer = await begun(system)
    writer.close()
    await until(lambda: '"problem": "incomplete"' in system.orchestrator.output)
    assert await system.metric("comment_processing_errors_total") == 0
    line = next(line for line in system.orchestrator.output.splitlines() if "incomplete" in line)
    assert json.loads(line)["level"] == "info"
    assert json.loads(line)["status"] == 400


async def test_replacing_the_orchestrator_under_traffic_loses_nothing(system: System) -> None:
    await system.start()
    async with traffic(system.url) as clients:
        for _ in range(2):
            await clients.goes_on()
            system.orchestrator.ask_to_leave()
            assert await system.orchestrator.until_ended() == 0
            await system.start(system.orchestrator)
        await clients.goes_on()
    await system.all_is_well(clients.sent)


@pytest.mark.parametrize("signals", [1, 3])
async def test_a_worker_finishes_its_task_on_sigterm_and_its_successor_does_the_rest(
    system: System, signals: int
) -> None:
    await system.start(system.orchestrator)
    sender = Sender(system.url)
    # More comments than the current and the prefetched task of a worker.
    await sender.send(3 * MAX_COMMENTS_PER_TASK // 25)
    with locked(system.dsn, "comment_analyses"):
        system.worker.start()
        await until(lambda: blocked(system.dsn), seconds=60)
        for _ in range(signals):
            system.worker.ask_to_leave()
    assert await system.worker.until_ended() == 0
    assert set() < analysed(system.dsn) < set(sender.sent)
    system.worker.start()
    await system.all_is_well(sender.sent)
