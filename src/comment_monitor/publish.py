"""Tells the workers, after the commit, which outbox rows wait. Best effort: the sweep repeats what gets lost."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from celery import Celery

from comment_monitor import log, metrics
from comment_monitor.breaker import Breaker
from comment_monitor.broker import ANALYSE, QUEUE_NAME

logger = log.get(__name__)

# Messages that may wait for the workers. What more there is to do waits in the outbox, which costs the broker nothing.
QUEUE_LIMIT: Final = 10_000
LOOK_EVERY: Final = 1.0
CONNECT_TIMEOUT: Final = 4


class Publisher:
    """Sends from a thread of its own, so that a slow or absent broker delays no request.

    Holds at most 10,000 ids; beyond that, and while the broker is away, ids are dropped: their rows are in the outbox.
    Without an application (no broker is named) all of them are.
    """

    def __init__(self, app: Celery | None):
        self._app = app
        self._ids: queue.Queue[int | None] = queue.Queue(maxsize=QUEUE_LIMIT)
        self._breaker = Breaker()
        self._reached = False
        # Messages that waited at the last look, and what was sent since.
        self._depth = 0
        self._looked = -LOOK_EVERY
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        if app:
            self._thread.start()

    @property
    def state(self) -> str:
        """`ok`, `away`, or `off` where no broker is named; as far as is known."""
        return "off" if not self._app else "ok" if self._reached else "away"

    @property
    def room(self) -> int:
        """How many more ids would reach the workers' queue now, as far as is known; 0 while the broker is away.

        Other processes send too, and each looks once a second, so the queue may grow somewhat above its limit.
        """
        if not (self._reached and self._breaker.closed):
            return 0
        return max(0, QUEUE_LIMIT - self._depth - self._ids.qsize())

    def publish(self, outbox_ids: Sequence[int]) -> None:
        """Hands ids to the thread; never blocks."""
        if not self._app or not self._breaker.closed:
            return
        for id_ in outbox_ids:
            try:
                self._ids.put_nowait(id_)
            except queue.Full:
                metrics.count_error("broker")
                return

    def close(self, timeout: float) -> None:
        """Sends what is in hand, for `timeout` seconds at the most."""
        if not self._app:
            return
        try:
            self._ids.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            # Also where nobody sends anything: whether the broker is away, or back, shows only by asking it.
            if time.monotonic() >= self._looked + LOOK_EVERY and self._breaker.closed:
                self._try(self._look)
                self._looked = time.monotonic()
            try:
                id_ = self._ids.get(timeout=LOOK_EVERY)
            except queue.Empty:
                continue
            if id_ is None:
                return
            if self._breaker.closed:
                self._try(partial(self._send, id_))

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever it is, the sweep repeats it and the thread lives on
            self._reached = False
            metrics.count_error("broker")
            if self._breaker.failure():
                logger.warning("broker_away", error=type(error).__name__, effect="the sweep sends again")
        else:
            self._reached = True
            self._breaker.success()

    def _look(self) -> None:
        """Asks the broker how many messages wait."""
        assert self._app  # noqa: S101 - the thread runs only with one
        if not self._reached:
            # Anew: a connection kept from before may not know yet that it is dead.
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=CONNECT_TIMEOUT)
        with self._app.connection_or_acquire() as connection:
            # Its name, its messages, its consumers; the library's types know of the name only.
            answer: Any = self._app.amqp.queues[QUEUE_NAME](connection.default_channel).queue_declare()
            self._depth = answer[1]

    def _send(self, outbox_id: int) -> None:
        assert self._app  # noqa: S101 - the thread runs only with one
        self._app.send_task(ANALYSE, args=[outbox_id])
        self._depth += 1
