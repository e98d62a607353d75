"""Sends requests at a rate over a number of connections, and counts the answers."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

import aiohttp

from comment_monitor.loadtest.answers import NO_ANSWER, RETRIED, Reply, name_of, read_counts, retry_after
from comment_monitor.loadtest.histogram import Histogram
from comment_monitor.loadtest.plan import Load

FIRST_WAIT: Final = 0.2
LONGEST_WAIT: Final = 10.0
JITTER: Final = 0.25
# Above COMMENT_PROCESSING_TIMEOUT's upper bound, so that the service answers its own timeout first.
TIMEOUT: Final = 60.0
# Seconds for which a request is repeated to a service that does not answer at all.
GIVE_UP: Final = 60.0
OK: Final = 200
CUT_OFF: Final = "cut off by the interrupt"

now = time.perf_counter


class Pace(NamedTuple):
    """How hard to drive: connections, comments a second (None: as fast as answers come), seconds (None: to the end).

    `retry` repeats a request that met 429, 503 or a broken connection until it succeeds.
    """

    concurrency: int
    rate: float | None
    seconds: float | None
    retry: bool


class Result:
    """The counts of a run so far. Latencies are those of requests answered with 200, in seconds."""

    def __init__(self) -> None:
        self.latency = Histogram()
        self.requests = 0
        self.comments = 0
        self.answered = 0
        self.answered_comments = 0
        self.counts: Counter[str] = Counter()
        self.expected: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        # Comments of repeated requests whose first try may have been stored: these may count as duplicates.
        self.uncertain = 0
        self.started = now()
        self.seconds = 0.0


class Driver:
    """Drives the service at `url`, whose key is sent as X-API-Key."""

    def __init__(self, url: str, pace: Pace, api_key: str | None):
        self._base = url.rstrip("/")
        self._pace = pace
        self._headers = {
            "Content-Type": "application/json",
            "User-Agent": "comment-monitor-load-test",
            **({"X-API-Key": api_key} if api_key else {}),
        }
        self._turn = asyncio.Lock()
        self._stopped = asyncio.Event()
        self._planned = 0
        self.result = Result()

    def stop(self) -> None:
        """Starts no further request; `run` waits for the requests under way."""
        self._stopped.set()

    async def run(self, loads: Iterator[Load]) -> None:
        """Sends all loads, or those of the pace's seconds. If cancelled, it counts the requests under way as cut off.

        Raises:
            aiohttp.ClientError: the service can't be reached; nothing was sent.
            TimeoutError: the service accepts the connection and does not answer; nothing was sent.
        """
        connector = aiohttp.TCPConnector(limit=self._pace.concurrency)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=self._headers, cookie_jar=jar
        ) as session:
            async with session.get(f"{self._base}/health"):
                pass
            self.result.started = now()
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._pace.concurrency):
                        group.create_task(self._work(session, loads))
            finally:
                self.result.seconds = now() - self.result.started

    async def _work(self, session: aiohttp.ClientSession, loads: Iterator[Load]) -> None:
        while turn := await self._next(loads):
            due, load = turn
            self.result.requests += 1
            self.result.comments += load.size
            try:
                reply = await self._deliver(session, load)
            except asyncio.CancelledError:
                self.result.errors[CUT_OFF] += 1
                raise
            self._count(reply, load, now() - due)

    async def _next(self, loads: Iterator[Load]) -> tuple[float, Load] | None:
        """Returns the next load and the moment at which it is due; one worker at a time waits for that moment."""
        async with self._turn:
            load = None if self._stopped.is_set() else next(loads, None)
            if load is None:
                return None
            due = now()
            if self._pace.rate:
                # Latency counts from this moment: a service that delays the sender must not appear fast.
                due = self.result.started + self._planned / self._pace.rate
            self._planned += load.size
            return None if self._is_late(due) or await self._wait(due - now()) else (due, load)

    def _is_late(self, due: float) -> bool:
        return self._pace.seconds is not None and max(due, now()) >= self.result.started + self._pace.seconds

    async def _wait(self, seconds: float) -> bool:
        """Sleeps; returns True if the run was stopped meanwhile."""
        if seconds <= 0:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            return False
        return True

    async def _deliver(self, session: aiohttp.ClientSession, load: Load) -> Reply:
        """Sends a request, repeats it if the pace says so, and returns the last answer."""
        began = now()
        wait = FIRST_WAIT
        uncertain = False
        while True:
            reply = await self._exchange(session, load.body)
            given_up = reply.status == NO_ANSWER and now() - began > GIVE_UP
            if not self._pace.retry or reply.status not in RETRIED or given_up:
                return reply
            pause = max(reply.retry_after, wait) * random.uniform(1, 1 + JITTER)  # noqa: S311 - jitter
            if await self._wait(pause):
                return reply
            wait = min(wait * 2, LONGEST_WAIT)
            self.result.retries[name_of(reply)] += 1
            if reply.may_be_stored and not uncertain:
                uncertain = True
                self.result.uncertain += load.size

    async def _exchange(self, session: aiohttp.ClientSession, body: bytes) -> Reply:
        try:
            async with session.post(f"{self._base}/comments/process", data=body) as response:
                return Reply(response.status, await response.read(), retry_after(response.headers))
        except TimeoutError:
            return Reply(NO_ANSWER, failure=f"no answer within {TIMEOUT:g} s")
        except aiohttp.ClientError as error:
            return Reply(NO_ANSWER, failure=f"connection broke ({type(error).__name__})")

    def _count(self, reply: Reply, load: Load, latency: float) -> None:
        counts = read_counts(reply.body) if reply.status == OK else None
        if counts is None:
            self.result.errors[name_of(reply)] += 1
            return
        self.result.latency.add(latency)
        self.result.answered += 1
        self.result.answered_comments += counts.received
        if fault := counts.fault(load.size):
            self.result.errors[fault] += 1
        self.result.counts.update(
            stored=counts.stored, updated=counts.updated, duplicates=counts.duplicates, rejected=len(counts.rejected)
        )
        if load.expected:
            self.result.expected.update(load.expected._asdict())
