"""Sends requests at a rate over a number of connections, and checks every answer."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import aiohttp
import msgspec

from comment_monitor.loadtest.histogram import Histogram

FIRST_WAIT: Final = 0.2
LONGEST_WAIT: Final = 10.0
TIMEOUT: Final = 60.0
RETRIED: Final = (429, 503)


class Load(NamedTuple):
    """One request ready to go: its body, and how many comments it holds."""

    body: bytes
    size: int


class Answer(msgspec.Struct):
    """The counts of a 200."""

    received: int
    stored: int
    updated: int
    duplicates: int
    queued: int
    rejected: list[msgspec.Raw]


class Refusal(msgspec.Struct):
    """What is looked at of a problem document."""

    type: str = ""


class Result:
    """What the run has seen so far."""

    def __init__(self) -> None:
        self.latency = Histogram()
        self.requests = 0
        self.comments = 0
        self.totals: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.retries = 0
        self.started = time.perf_counter()
        self.seconds = 0.0


_answer = msgspec.json.Decoder(Answer)
_refusal = msgspec.json.Decoder(Refusal)


class Driver:
    """Drives one service.

    Args:
        url: the service's address.
        concurrency: connections.
        rate: requests a second; None: as fast as answers come.
        api_key: sent as X-API-Key.
        retry: repeats 429 and 503 after Retry-After until the request is in.
    """

    def __init__(self, url: str, *, concurrency: int, rate: float | None, api_key: str | None, retry: bool):
        self._url = f"{url.rstrip('/')}/comments/process"
        self._concurrency = concurrency
        self._rate = rate
        self._headers = {"Content-Type": "application/json", **({"X-API-Key": api_key} if api_key else {})}
        self._retry = retry
        self.result = Result()

    async def run(self, loads: Iterator[Load], on_progress: Callable[[Result], None]) -> None:
        """Sends all loads.

        Raises:
            aiohttp.ClientConnectorError: nothing listens there.
        """
        connector = aiohttp.TCPConnector(limit=self._concurrency)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers) as session:
            async with session.get(self._url.replace("/comments/process", "/health")):
                pass
            self.result.started = time.perf_counter()
            schedule = self._schedule(loads)
            workers = [
                asyncio.create_task(self._work(session, schedule, on_progress)) for _ in range(self._concurrency)
            ]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                self.result.seconds = time.perf_counter() - self.result.started

    def _schedule(self, loads: Iterator[Load]) -> Iterator[tuple[float | None, Load]]:
        """Each load with the moment at which it is due; None: now."""
        for number, load in enumerate(loads):
            yield (self.result.started + number / self._rate if self._rate else None), load

    async def _work(
        self,
        session: aiohttp.ClientSession,
        schedule: Iterator[tuple[float | None, Load]],
        on_progress: Callable[[Result], None],
    ) -> None:
        for due, load in schedule:
            if due is not None and (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            # From the moment it was due: a service that holds up the sender must not look fast for it.
            started = due if due is not None else time.perf_counter()
            await self._send(session, load)
            self.result.latency.add(time.perf_counter() - started)
            on_progress(self.result)

    async def _send(self, session: aiohttp.ClientSession, load: Load) -> None:
        self.result.requests += 1
        self.result.comments += load.size
        wait = FIRST_WAIT
        while True:
            try:
                async with session.post(self._url, data=load.body) as response:
                    body = await response.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                self.result.errors[type(error).__name__] += 1
                return
            if response.status not in RETRIED or not self._retry:
                self._judge(response.status, body, load)
                return
            self.result.retries += 1
            asked = float(response.headers.get("Retry-After", 0))
            await asyncio.sleep(max(asked, wait) * random.uniform(1, 1.25))  # noqa: S311 - jitter
            wait = min(wait * 2, LONGEST_WAIT)

    def _judge(self, status: int, body: bytes, load: Load) -> None:
        if status != 200:  # noqa: PLR2004 - HTTP's own
            self.result.errors[f"{status} {_slug(body)}".strip()] += 1
            return
        try:
            answer = _answer.decode(body)
        except msgspec.MsgspecError:
            self.result.errors["200 that can't be read"] += 1
            return
        rejected = len(answer.rejected)
        parts = answer.stored + answer.updated + answer.duplicates + rejected
        if answer.received != parts or answer.queued != answer.stored + answer.updated or answer.received != load.size:
            self.result.errors["200 whose counts do not add up"] += 1
        self.result.totals.update(
            stored=answer.stored, updated=answer.updated, duplicates=answer.duplicates, rejected=rejected
        )


def _slug(body: bytes) -> str:
    try:
        return _refusal.decode(body).type.rpartition(":")[2]
    except msgspec.MsgspecError:
        return ""
