"""How buffered messages are combined into tasks, and how each message is acknowledged."""

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from kombu.message import Message

from comment_monitor.messaging.coalescing import MessageCoalescer

EMBEDDED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class Worker:
    """A fake of Celery: records dispatched tasks, and runs the event loop's callbacks only in `run_callbacks`."""

    def __init__(self, slots: int = 1, max_batches: int = 3) -> None:
        self.callbacks: deque[Callable[[], None]] = deque()
        self.tasks: list[tuple[list[int], Any, Any]] = []
        self.answers: list[tuple[str, int, tuple[object, ...], dict[str, object]]] = []
        self.now = 0.0
        self.coalescer = MessageCoalescer(
            self.handle, self.callbacks.append, slots=slots, max_batches=max_batches, clock=lambda: self.now
        )

    def handle(self, message: Message, _body: None, ack: Any, reject: Any, _callbacks: None) -> None:
        self.tasks.append((json.loads(message.body or "")[0], ack, reject))

    def receive(self, number: int, *more: int, redelivered: bool = False) -> None:
        message = Message(
            body=json.dumps([[number, *more], {}, EMBEDDED]),
            content_type="application/json",
            content_encoding="utf-8",
            delivery_info={"redelivered": redelivered},
        )

        def answer(kind: str) -> Callable[..., None]:
            return lambda *args, **named: self.answers.append((kind, number, args, named))

        self.coalescer(message, None, answer("ack"), answer("reject"), None)

    def run_callbacks(self) -> None:
        """Runs the loop's next iteration."""
        for _ in range(len(self.callbacks)):
            self.callbacks.popleft()()


def test_buffered_messages_are_dispatched_together_up_to_the_maximum() -> None:
    worker = Worker()
    for number in range(5):
        worker.receive(number)
    assert worker.tasks == []
    worker.run_callbacks()
    assert [ids for ids, _, _ in worker.tasks] == [[0, 1, 2]]
    worker.tasks[0][1]("log", ())
    worker.run_callbacks()
    assert [ids for ids, _, _ in worker.tasks] == [[0, 1, 2], [3, 4]]


def test_the_maximum_counts_batches_and_a_message_is_never_split() -> None:
    worker = Worker(slots=9, max_batches=3)
    for ids in ((1, 2), (3,), (4, 5), (6, 7), (8, 9, 10, 11), (12,)):
        worker.receive(*ids)
    worker.run_callbacks()
    assert [ids for ids, _, _ in worker.tasks] == [[1, 2, 3], [4, 5], [6, 7], [8, 9, 10, 11], [12]]


def test_a_single_message_does_not_wait_for_others_while_a_slot_is_free() -> None:
    worker = Worker(slots=2)
    worker.receive(1)
    worker.run_callbacks()
    worker.receive(2)
    worker.run_callbacks()
    worker.receive(3)
    worker.receive(4)
    worker.run_callbacks()
    assert [ids for ids, _, _ in worker.tasks] == [[1], [2]]
    worker.tasks[1][2]("log", (), True)
    worker.run_callbacks()
    assert [ids for ids, _, _ in worker.tasks] == [[1], [2], [3, 4]]


def test_each_message_is_acknowledged_or_rejected_as_its_task() -> None:
    worker = Worker()
    worker.receive(1)
    worker.receive(2)
    worker.run_callbacks()
    worker.tasks[0][2]("log", (OSError,), requeue=True)
    assert worker.answers == [
        ("reject", 1, ("log", (OSError,)), {"requeue": True}),
        ("reject", 2, ("log", (OSError,)), {"requeue": True}),
    ]


def test_a_redelivered_message_is_dispatched_alone_and_immediately() -> None:
    """It may have ended its previous worker."""
    worker = Worker()
    worker.receive(1)
    worker.receive(2, redelivered=True)
    assert [ids for ids, _, _ in worker.tasks] == [[2]]
    worker.tasks[0][1]("log", ())
    assert worker.answers == [("ack", 2, ("log", ()), {})]
    worker.run_callbacks()
    assert [ids for ids, _, _ in worker.tasks] == [[2], [1]]


def test_slow_tasks_get_fewer_batches() -> None:
    worker = Worker(max_batches=50)
    for number in range(500):
        worker.receive(number)
    sizes = []
    for _ in range(30):
        worker.run_callbacks()
        ids, ack, _ = worker.tasks[-1]
        sizes.append(len(ids))
        # An analysis of 0.28 seconds a comment, with ten comments in a batch.
        worker.now += 2.8 * len(ids)
        ack("log", ())
    assert sizes[0] == 50
    assert set(sizes[1:]) == {1}


def test_a_single_delayed_task_reduces_the_number_of_batches_only_briefly() -> None:
    worker = Worker(max_batches=50)
    for number in range(3000):
        worker.receive(number)
    sizes = []
    for task in range(40):
        worker.run_callbacks()
        ids, ack, _ = worker.tasks[-1]
        sizes.append(len(ids))
        # The database was locked for a while.
        worker.now += 35 if task == 10 else 0.002 * len(ids)
        ack("log", ())
    assert sizes[:11] == [50] * 11
    assert sizes[11] < 10
    assert sizes[20:] == [50] * 20
