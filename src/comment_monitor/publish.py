"""Tells the workers, after the commit, which outbox rows wait. Best effort: the sweep repeats what gets lost."""

import queue
import threading
from collections.abc import Sequence
from typing import Final

from celery import Celery

from comment_monitor import log, metrics
from comment_monitor.breaker import Breaker
from comment_monitor.broker import ANALYSE

logger = log.get(__name__)

CAPACITY: Final = 20_000


class Publisher:
    """Sends from a thread of its own, so that a slow or absent broker delays no request.

    Holds at most 20,000 ids; beyond that, and while the broker is away, ids are dropped: their rows are in the outbox.
    """

    def __init__(self, app: Celery):
        self._app = app
        self._ids: queue.Queue[int | None] = queue.Queue(maxsize=CAPACITY)
        self._breaker = Breaker()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    @property
    def available(self) -> bool:
        """Whether the broker took the last message, as far as is known, and there is room."""
        return self._breaker.closed and self._ids.qsize() < CAPACITY // 2

    def publish(self, outbox_ids: Sequence[int]) -> None:
        """Hands ids to the thread; never blocks."""
        if not self._breaker.closed:
            return
        for id_ in outbox_ids:
            try:
                self._ids.put_nowait(id_)
            except queue.Full:
                metrics.count_error("broker")
                return

    def close(self, timeout: float) -> None:
        """Sends what is in hand, for `timeout` seconds at the most."""
        try:
            self._ids.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        while (id_ := self._ids.get()) is not None:
            if not self._breaker.closed:
                continue
            try:
                self._send(id_)
            except Exception as error:  # noqa: BLE001 - whatever it is, the sweep repeats it and the thread lives on
                metrics.count_error("broker")
                if self._breaker.failure():
                    logger.warning("broker_away", error=type(error).__name__, effect="the sweep sends again")
            else:
                self._breaker.success()

    def _send(self, outbox_id: int) -> None:
        self._app.send_task(ANALYSE, args=[outbox_id])
