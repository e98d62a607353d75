"""The counts against the answers and the rows: exact in quiet, and in trouble wrong by no more than the page says."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
from tests.conftest import Broker, execute, until
from tests.faults.conftest import MakeSystem
from tests.support import http
from tests.support.exported import Series, fallen, ours
from tests.support.locks import cut_all, locked
from tests.support.messages import Wire
from tests.support.requests import body, comment
from tests.support.system import System, traffic

from comment_monitor.devserver.redis_process import EmbeddedRedis

QUEUE: Final = "comment_processing_queue_length"
BATCH: Final = 25


async def look(system: System) -> Series:
    return await asyncio.to_thread(ours, system.metrics_url)


def total(found: Series, name: str, **labels: str) -> float:
    return sum(value for (key, has), value in found.items() if key == name and labels.items() <= dict(has).items())


async def until_told(system: System, name: str, expected: float) -> None:
    async def is_told() -> bool:
        return total(await look(system), name) == expected

    await until(is_told)


def mixed(number: int, chance: random.Random) -> list[dict[str, Any]]:
    """New ones, repeats, edits, bad ones, and some that other clients send too."""
    own = [comment(f"{number}-{index}") for index in range(chance.randrange(1, 60))]
    known = [comment(f"known-{chance.randrange(30)}", chance.choice(["one", "two"])) for _ in range(10)]
    bad = [comment(f"bad {index}", "") for index in range(chance.randrange(3))]
    requests = [*own, *own[:5], *known, *bad]
    chance.shuffle(requests)
    return requests


async def test_in_quiet_every_count_is_that_of_the_answers_and_rows(make_system: MakeSystem, tmp_path: Path) -> None:
    system = make_system(
        PROMETHEUS_MULTIPROC_DIR=tmp_path / "shared", COMMENT_BATCH_SIZE=BATCH, COMMENT_RESEND_AFTER=600
    )
    await system.start()
    await system.until_working()
    before = await look(system)
    answered: Counter[str] = Counter()

    async def send(client: httpx.AsyncClient, number: int) -> None:
        for turn in range(12):
            sent = mixed(100 * number + turn, random.Random(f"{number} {turn}"))
            answer = (await client.post("/comments/process", json=body(*sent))).raise_for_status().json()
            valid = answer["received"] - len(answer["rejected"])
            answered.update({name: answer[name] for name in ("received", "stored", "updated", "duplicates")})
            answered.update(rejected=len(answer["rejected"]), valid=valid, batches=-(-valid // BATCH))

    async with http.AsyncClient(base_url=system.url, timeout=60) as client, asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(send(client, number))
    await system.until_analysed()
    await until_told(system, "comment_analysis_backlog", 0)

    async def all_are_counted() -> bool:
        """The count follows the commit, so it may be a moment later."""
        counted = total(await look(system), "comment_analysis_total") - total(before, "comment_analysis_total")
        return counted >= answered["stored"]

    await until(all_are_counted)
    after = await look(system)

    def rise(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert fallen(before, after) == []
    assert answered["updated"] > 10
    assert answered["duplicates"] > 100
    assert rise("comment_stored_total", kind="new") == answered["stored"]
    assert rise("comment_stored_total", kind="edited") == answered["updated"]
    assert rise("comment_duplicates_detected_total") == answered["duplicates"]
    assert rise("comment_processing_errors_total") == answered["rejected"]
    assert rise("comment_processing_errors_total", reason="invalid-comment") == answered["rejected"]
    assert rise("comment_processing_attempts_total") == answered["batches"]
    assert rise("comment_processing_success_total") == answered["batches"]
    assert rise("comment_processing_duration_seconds_count") == answered["batches"]
    hits, misses = (rise(f"comment_dedup_cache_{one}_total") for one in ("hits", "misses"))
    assert hits + misses == answered["valid"]
    assert hits
    # An edit that came before the first text's analysis may be analysed with it.
    assert answered["stored"] <= rise("comment_analysis_total") <= answered["stored"] + answered["updated"]
    assert rise("comment_analysis_total", outcome="done") == rise("comment_analysis_total")
    assert total(after, QUEUE) == 0


@asynccontextmanager
async def watched(system: System) -> AsyncIterator[None]:
    """No count falls or is gone, from one look to the next, until the end of the block."""
    stop = asyncio.Event()

    async def watch() -> None:
        before = await look(system)
        while not stop.is_set():
            await asyncio.sleep(0.05)
            after = await look(system)
            assert fallen(before, after) == []
            before = after

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        yield
        stop.set()


def kill_children(system: System) -> int:
    """Those that analyse; Celery starts others."""
    killed = 0
    for child in psutil.Process(system.worker.process.pid).children():
        with suppress(psutil.NoSuchProcess):
            child.kill()
            killed += 1
    return killed


async def test_in_trouble_no_count_falls_none_is_counted_twice_and_the_queue_is_empty_at_the_end(
    make_system: MakeSystem, own_redis: EmbeddedRedis, rabbitmq: Broker, broker_url: str, tmp_path: Path
) -> None:
    wire = Wire(rabbitmq.url)
    system = make_system(
        REDIS_URL=own_redis.url, CELERY_BROKER_URL=wire.url, PROMETHEUS_MULTIPROC_DIR=tmp_path / "shared"
    )
    await system.start()
    await system.until_working()
    cuts = kills = 0
    async with watched(system), traffic(system.url) as clients:
        for _ in range(4):
            await clients.goes_on(60)
            cuts += 1
            await asyncio.to_thread(cut_all, system.dsn)
            await clients.goes_on(60)
            # A slow machine may not have started others yet.
            await until(psutil.Process(system.worker.process.pid).children)
            kills += kill_children(system)
            wire.cut()
            await asyncio.to_thread(own_redis.stop)
            await clients.goes_on(60)
            await asyncio.to_thread(own_redis.start)
            wire.open = True
    await system.until_analysed()
    await until_told(system, "comment_analysis_backlog", 0)
    wire.close()
    found = await look(system)
    ((rows, results),) = execute(
        system.dsn, "SELECT (SELECT count(*) FROM comments), (SELECT count(*) FROM comment_analyses)"
    )
    assert rows == results == len(clients.sent) + 1
    assert kills >= 4
    # Of a connection cut at its commit, what was in that write: here at most three clients' requests, of 5 comments.
    assert rows - cuts * 15 <= total(found, "comment_stored_total") <= rows
    assert rows - (cuts + kills) * 140 <= total(found, "comment_analysis_total", outcome="done") <= rows
    assert total(found, "comment_processing_success_total") <= total(found, "comment_processing_attempts_total")
    assert total(found, QUEUE) == 0


async def test_the_queue_is_empty_again_after_clients_that_went_away(system: System) -> None:
    await system.start(system.orchestrator)
    await system.until_health("ok")
    with locked(system.dsn):
        async with http.AsyncClient(base_url=system.url, timeout=60) as client:
            going = [
                asyncio.create_task(
                    client.post("/comments/process", json=body(*(comment(f"{n}-{index}") for index in range(40))))
                )
                for n in range(5)
            ]
            await until_told(system, QUEUE, 200)
            for one in going:
                one.cancel()
            for answer in await asyncio.gather(*going, return_exceptions=True):
                assert isinstance(answer, asyncio.CancelledError)
        assert total(await look(system), QUEUE) in {0, 200}
    await until_told(system, QUEUE, 0)
    found = await look(system)
    assert total(found, "comment_processing_success_total") <= total(found, "comment_processing_attempts_total")
