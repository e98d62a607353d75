"""The counters against the responses and the rows: exact without faults, within documented limits during faults."""

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


async def scrape(system: System) -> Series:
    return await asyncio.to_thread(ours, system.metrics_url)


def total(found: Series, name: str, **labels: str) -> float:
    return sum(value for (key, has), value in found.items() if key == name and labels.items() <= dict(has).items())


async def until_exported(system: System, name: str, expected: float) -> None:
    async def is_exported() -> bool:
        return total(await scrape(system), name) == expected

    await until(is_exported)


def mixed(number: int, chance: random.Random) -> list[dict[str, Any]]:
    """Returns new comments, repeats, edits, invalid comments, and comments that other clients send too."""
    own = [comment(f"{number}-{index}") for index in range(chance.randrange(1, 60))]
    known = [comment(f"known-{chance.randrange(30)}", chance.choice(["one", "two"])) for _ in range(10)]
    bad = [comment(f"bad {index}", "") for index in range(chance.randrange(3))]
    requests = [*own, *own[:5], *known, *bad]
    chance.shuffle(requests)
    return requests


async def test_counters_equal_the_responses_and_rows_without_faults(make_system: MakeSystem, tmp_path: Path) -> None:
    system = make_system(
        PROMETHEUS_MULTIPROC_DIR=tmp_path / "shared", COMMENT_BATCH_SIZE=BATCH, COMMENT_RESEND_AFTER=600
    )
    await system.start()
    await system.until_working()
    before = await scrape(system)
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
    await until_exported(system, "comment_analysis_backlog", 0)

    async def all_are_counted() -> bool:
        """The counter follows the commit, possibly a moment later."""
        counted = total(await scrape(system), "comment_analysis_total") - total(before, "comment_analysis_total")
        return counted >= answered["stored"]

    await until(all_are_counted)
    after = await scrape(system)

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
    hits, misses = (rise(f"comment_dedup_cache_{kind}_total") for kind in ("hits", "misses"))
    assert hits + misses == answered["valid"]
    assert hits
    # An edit stored before the first text's analysis may be analysed with it.
    assert answered["stored"] <= rise("comment_analysis_total") <= answered["stored"] + answered["updated"]
    assert rise("comment_analysis_total", outcome="done") == rise("comment_analysis_total")
    assert total(after, QUEUE) == 0


@asynccontextmanager
async def watched(system: System) -> AsyncIterator[None]:
    """Asserts that no counter decreases or disappears from one scrape to the next, until the end of the block."""
    stop = asyncio.Event()

    async def watch() -> None:
        before = await scrape(system)
        while not stop.is_set():
            await asyncio.sleep(0.05)
            after = await scrape(system)
            assert fallen(before, after) == []
            before = after

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        yield
        stop.set()


def kill_children(system: System) -> int:
    """Kills the pool processes of the worker; Celery starts others."""
    killed = 0
    for child in psutil.Process(system.worker.process.pid).children():
        with suppress(psutil.NoSuchProcess):
            child.kill()
            killed += 1
    return killed


async def test_counters_never_decrease_or_exceed_the_rows_during_faults(
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
            # On a slow machine, Celery may not have started new pool processes yet.
            await until(psutil.Process(system.worker.process.pid).children)
            kills += kill_children(system)
            wire.cut()
            await asyncio.to_thread(own_redis.stop)
            await clients.goes_on(60)
            await asyncio.to_thread(own_redis.start)
            wire.open = True
    await system.until_analysed()
    await until_exported(system, "comment_analysis_backlog", 0)
    wire.close()
    found = await scrape(system)
    ((rows, results),) = execute(
        system.dsn, "SELECT (SELECT count(*) FROM comments), (SELECT count(*) FROM comment_analyses)"
    )
    assert rows == results == len(clients.sent) + 1
    assert kills >= 4
    # A connection cut at its commit leaves its write uncounted: at most three clients' requests of 5 comments.
    assert rows - cuts * 15 <= total(found, "comment_stored_total") <= rows
    assert rows - (cuts + kills) * 140 <= total(found, "comment_analysis_total", outcome="done") <= rows
    assert total(found, "comment_processing_success_total") <= total(found, "comment_processing_attempts_total")
    assert total(found, QUEUE) == 0


async def test_the_queue_length_returns_to_zero_after_clients_disconnect(system: System) -> None:
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
            await until_exported(system, QUEUE, 200)
            for request in going:
                request.cancel()
            for answer in await asyncio.gather(*going, return_exceptions=True):
                assert isinstance(answer, asyncio.CancelledError)
        assert total(await scrape(system), QUEUE) in {0, 200}
    await until_exported(system, QUEUE, 0)
    found = await scrape(system)
    assert total(found, "comment_processing_success_total") <= total(found, "comment_processing_attempts_total")
