"""Tells the workers, after the commit, which outbox rows wait. Best effort: the sweep repeats what gets lost."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from celery import Celery

from comment_monitor.core.circuit_breaker import Breaker
from comment_monitor.messaging.producer import ConfirmingProducer, OutboxMessage
from comment_monitor.observability import logs, metrics, tracing
from comment_monitor.observability.correlation import RequestContext, RequestContexts, unique

logger = logs.get(__name__)

# Batches that may wait for the workers. What more there is to do waits in the outbox, which costs the broker nothing.
QUEUE_LIMIT: Final = 10_000
LOOK_EVERY: Final = 1.0
# Seconds of waiting for an answer after which the broker counts as away; it may be given up only later.
SILENT_AFTER: Final = 5.0
SPAN: Final = "send comment-analysis"
# Messages that are sent before their confirmations are waited for.
MESSAGES_AT_ONCE: Final = 4


class PendingId(NamedTuple):
    """An outbox row that is to be sent, and the requests behind it."""

    outbox_id: int
    contexts: Sequence[RequestContext]


class Publisher:
    """Sends from a thread of its own, so that a slow or absent broker delays no request.

    Holds at most 10,000 ids; beyond that, and while the broker is away, ids are dropped: their rows are in the outbox.
    Without an application (no broker is named) all of them are. A message names at most `ids_per_message`: those that
    are at hand when it is sent.
    """

    def __init__(self, app: Celery | None, *, ids_per_message: int = 1):
        self._link = ConfirmingProducer(app) if app else None
        self._max_ids_per_message = ids_per_message
        self._ids_per_message = ids_per_message
        # Ids that may still be sent, as the last look at the outbox said; None: nobody has looked.
        self._allowed: int | None = None
        # Messages that no worker had taken at the last look at the broker.
        self._messages_waiting = 0
        self._ids: queue.Queue[PendingId | None] = queue.Queue(maxsize=QUEUE_LIMIT)
        self._breaker = Breaker()
        self._reached = False
        # Since when (of `time.monotonic`) an answer of the broker is awaited.
        self._asked: float | None = None
        # Ids that waited at the last look, as far as messages tell, with those that were sent since.
        self._depth = 0.0
        self._looked = -LOOK_EVERY
        # Since then: ids and messages. Before it: how many ids were in a message.
        self._sent = (0, 0)
        self._ids_a_message = 1.0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        if self._link:
            self._thread.start()

    @property
    def state(self) -> str:
        """`ok`, `away` (also where it does not answer), or `off` where no broker is named; as far as is known."""
        if not self._link:
            return "off"
        silent = self._asked is not None and time.monotonic() - self._asked > SILENT_AFTER
        return "ok" if self._reached and not silent else "away"

    @property
    def free_capacity(self) -> int:
        """How many more ids would reach the workers' queue now, as far as is known; 0 while the broker is away.

        Other processes send too, and each looks once a second, so the queue may grow somewhat above its limit.
        """
        if not (self._reached and self._breaker.closed):
            return 0
        # Not the length of the queue: what the thread has taken out of it is on its way, and not yet in the depth.
        # Asked before the depth: what is settled meanwhile counts twice, and never not at all.
        unfinished = self._ids.unfinished_tasks
        room = QUEUE_LIMIT - unfinished - int(self._depth)
        return max(0, room if self._allowed is None else min(room, self._allowed))

    @property
    def messages_waiting(self) -> bool:
        """Whether the broker holds messages that no worker has taken; False while the broker is away."""
        return self._reached and self._breaker.closed and self._messages_waiting > 0

    def bound(self, ids: int, *, ids_per_message: int) -> None:
        """Says how many more ids may be sent until this is said again, and how many a message may name."""
        self._allowed = ids
        self._ids_per_message = max(1, min(ids_per_message, self._max_ids_per_message))

    def publish(self, outbox_ids: Sequence[int], contexts: RequestContexts | None = None) -> None:
        """Hands ids to the thread, with the requests behind them where they are known; never blocks."""
        if not self._link or not self._breaker.closed:
            return
        for id_ in outbox_ids:
            try:
                self._ids.put_nowait(PendingId(id_, contexts.get(id_, ()) if contexts else ()))
            except queue.Full:
                metrics.count_error("broker")
                return
            if self._allowed is not None:
                self._allowed -= 1

    def close(self, timeout: float) -> None:
        """Sends what is in hand, for `timeout` seconds at most."""
        if not self._link:
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
                ids = self._take()
            except queue.Empty:
                continue
            ending = ids[-1] is None
            if (wanted := [one for one in ids if one is not None]) and self._breaker.closed:
                self._try(partial(self._send, wanted))
            for _ in ids:
                self._ids.task_done()
            if ending:
                self._try(self._leave)
                return

    def _take(self) -> list[PendingId | None]:
        """The ids at hand, at least one; None comes last, and for the end.

        Raises:
            queue.Empty: none came for a while.
        """
        ids = [self._ids.get(timeout=LOOK_EVERY)]
        with suppress(queue.Empty):
            while ids[-1] is not None and len(ids) < self._max_ids_per_message * MESSAGES_AT_ONCE:
                ids.append(self._ids.get_nowait())
        return ids

    def _try(self, act: Callable[[], None]) -> None:
        self._asked = time.monotonic()
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever it is, the sweep repeats it and the thread lives on
            self._reached = False
            self._leave()
            metrics.count_error("broker")
            if self._breaker.failure():
                logger.warning("broker_away", error=type(error).__name__, effect="the sweep sends again")
        else:
            self._reached = True
            if self._breaker.success():
                logger.info("broker_back")
        finally:
            self._asked = None

    def _look(self) -> None:
        """Asks the broker how many messages wait; how many ids that makes is what the last ones sent from here say."""
        assert self._link  # noqa: S101 - the thread runs only with one
        ids, messages = self._sent
        if messages:
            self._ids_a_message = ids / messages
        self._messages_waiting = self._link.depth()
        self._depth = self._messages_waiting * self._ids_a_message
        self._sent = (0, 0)

    def _leave(self) -> None:
        """A connection that failed may not know yet that it is dead: the next use makes another one."""
        assert self._link  # noqa: S101 - the thread runs only with one
        self._link.close()

    def _send(self, waiting: Sequence[PendingId]) -> None:
        assert self._link  # noqa: S101 - the thread runs only with one
        contexts = {one.outbox_id: one.contexts for one in waiting if one.contexts}
        with tracing.Several(SPAN, "PRODUCER", unique(contexts) if tracing.on() else ()) as spans:
            # The trace goes on from the sending.
            contexts = {id_: [spans.inside.get(one, one) for one in members] for id_, members in contexts.items()}
            # Once: it may be changed meanwhile.
            ids_per_message = self._ids_per_message
            groups = [waiting[at : at + ids_per_message] for at in range(0, len(waiting), ids_per_message)]
            messages = [
                OutboxMessage(ids, {id_: contexts[id_] for id_ in ids if id_ in contexts})
                for group in groups
                if (ids := [one.outbox_id for one in group])
            ]
            self._link.send(messages)
        self._depth += len(waiting)
        self._sent = (self._sent[0] + len(waiting), self._sent[1] + len(messages))
