"""Four minutes of a system's life with what a dashboard is for: a burst, outages, repeats, edits, refusals."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any, Final, NamedTuple

import aiohttp
import psycopg2
from tests.support.watched import Watched

from bench.harness.comments import make_bodies, make_columns

COMMENTS_A_REQUEST: Final = 25
REQUESTS: Final = 16_000
STEADY, BURST, IMPATIENT = 20.0, 90.0, 2.0
# Of the requests: what is new, and up to where known ones come as they were, or with other texts.
NEW, REPEATED, EDITED = 0.7, 0.92, 0.985
TICK: Final = 0.05
AT_ONCE: Final = 64
# Each request of the steady load comes from a client of its own, behind a proxy that the service trusts.
FIRST_CLIENT: Final = IPv4Address("10.0.0.1")
TIMEOUT: Final = aiohttp.ClientTimeout(60)


class Event(NamedTuple):
    """Something that happens from one second of the course to another."""

    name: str
    start: float
    end: float


COURSE: Final = (
    Event("burst", 40, 70),
    Event("Redis away", 95, 125),
    Event("worker held", 150, 185),
    Event("table locked again and again", 205, 225),
)
SECONDS: Final = 240.0
LOCKED, FREE = 1.0, 0.3


class Load:
    """New comments, repeats, edits, some that are refused, and a client above its rate limit."""

    def __init__(self, url: str, session: aiohttp.ClientSession):
        self._url = f"{url}/comments/process"
        self._session = session
        self._choice = random.Random(1)
        self._new = iter(make_bodies(make_columns(REQUESTS * COMMENTS_A_REQUEST, run=1), COMMENTS_A_REQUEST))
        self._sent: list[bytes] = []
        self._clients = itertools.count()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def go_on(self, requests: float, until: float) -> None:
        """So many requests a second, until that moment of the monotonic clock."""
        due, asked = time.monotonic(), 0.0
        while (now := time.monotonic()) < until:
            for _ in range(int((now - due) * requests - asked)):
                asked += 1
                self._start(self._body(), str(FIRST_CLIENT + next(self._clients)))
            await asyncio.sleep(TICK)

    async def be_impatient(self) -> None:
        """One client that does not wait, until it is cancelled."""
        for number in itertools.count():
            body = {"post_id": "impatient", "comments": [{"id": f"i{number}", "author": "ana", "text": "Now!"}]}
            self._start(json.dumps(body).encode(), str(FIRST_CLIENT - 1))
            await asyncio.sleep(1 / IMPATIENT)

    async def end(self) -> None:
        """Everything is answered."""
        await asyncio.gather(*self._tasks)

    def _start(self, body: bytes, client: str) -> None:
        task = asyncio.create_task(self._send(body, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, body: bytes, client: str) -> None:
        headers = {"Content-Type": "application/json", "X-Forwarded-For": client}
        async with self._turns:
            # What is refused is a part of the course.
            with suppress(aiohttp.ClientError):
                async with self._session.post(self._url, data=body, headers=headers) as answer:
                    await answer.read()

    def _body(self) -> bytes:
        kind = self._choice.random()
        if kind < NEW or not self._sent:
            self._sent.append(next(self._new))
            return self._sent[-1]
        known = self._choice.choice(self._sent)
        if kind < REPEATED:
            return known
        return _changed(known, " Edited." if kind < EDITED else None)


def _changed(body: bytes, more: str | None) -> bytes:
    """Edits; or, with None, a comment without text among the others."""
    request: dict[str, Any] = json.loads(body)
    if more is None:
        request["comments"][0]["text"] = " "
    else:
        for one in request["comments"]:
            one["text"] += more
    return json.dumps(request).encode()


async def run(here: Watched) -> float:
    """The whole course; returns when it began."""
    async with aiohttp.ClientSession(timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=0)) as session:
        load = Load(here.system.url, session)
        impatient = asyncio.create_task(load.be_impatient())
        began, moment = time.time(), time.monotonic()
        for start, end, event in _parts():
            undo = _begin(event, here)
            await load.go_on(BURST if event == "burst" else STEADY, moment + end)
            undo()
            print(f"{start:.0f} to {end:.0f} s: {event or 'steady'}", flush=True)
        impatient.cancel()
        await load.end()
    return began


def _parts() -> Iterator[tuple[float, float, str]]:
    at = 0.0
    for one in COURSE:
        yield at, one.start, ""
        yield one.start, one.end, one.name
        at = one.end
    yield at, SECONDS, ""


def _begin(event: str, here: Watched) -> Callable[[], object]:
    """Lets it happen; returns what ends it."""
    if event == "Redis away":
        here.redis.stop()
        return here.redis.start
    if event == "worker held":
        here.hold_worker()
        return here.release_worker
    if event.startswith("table locked"):
        return asyncio.create_task(_lock_again_and_again(here.system.dsn)).cancel
    return lambda: None


async def _lock_again_and_again(dsn: str) -> None:
    """Nobody else can write, and then for a moment they can; until it is cancelled."""
    while True:
        holder = psycopg2.connect(dsn)
        try:
            # Where it has to wait for others it is only for a moment.
            holder.cursor().execute("LOCK TABLE comments IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(LOCKED)
        finally:
            holder.close()
        await asyncio.sleep(FREE)
