"""Messages that come while every place is taken go on together; each gets the answer that the task got."""

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from kombu.message import Message

from comment_monitor.messaging.coalescing import MessageCoalescer

EMBEDDED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class Worker:
    """Celery's side: what it was handed, and a loop whose turns are taken by hand."""

    def __init__(self, slots: int = 1, max_batches: int = 3) -> None:
        self.turns: deque[Callable[[], None]] = deque()
        self.tasks: list[tuple[list[int], Any, Any]] = []
        self.answers: list[tuple[str, int, tuple[object, ...], dict[str, object]]] = []
        self.now = 0.0
        self.gatherer = MessageCoalescer(
            self.handle, self.turns.append, slots=slots, max_batches=max_batches, clock=lambda: self.now
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

        self.gatherer(message, None, answer("ack"), answer("reject"), None)

    def turn(self) -> None:
        """The loop's next turn."""
        for _ in range(len(self.turns)):
            self.turns.popleft()()


def test_what_has_come_by_the_next_turn_goes_together_and_no_more_than_may() -> None:
    worker = Worker()
    for number in range(5):
        worker.receive(number)
    assert worker.tasks == []
    worker.turn()
    assert [ids for ids, _, _ in worker.tasks] == [[0, 1, 2]]
    worker.tasks[0][1]("log", ())
    worker.turn()
    assert [ids for ids, _, _ in worker.tasks] == [[0, 1, 2], [3, 4]]


def test_it_is_batches_that_are_counted_and_no_message_is_taken_apart() -> None:
    worker = Worker(slots=9, max_batches=3)
    for ids in ((1, 2), (3,), (4, 5), (6, 7), (8, 9, 10, 11), (12,)):
        worker.receive(*ids)
    worker.turn()
    assert [ids for ids, _, _ in worker.tasks] == [[1, 2, 3], [4, 5], [6, 7], [8, 9, 10, 11], [12]]


def test_a_message_alone_does_not_wait_for_company() -> None:
    worker = Worker(slots=2)
    worker.receive(1)
    worker.turn()
    worker.receive(2)
    worker.turn()
    worker.receive(3)
    worker.receive(4)
    worker.turn()
    assert [ids for ids, _, _ in worker.tasks] == [[1], [2]]
    worker.tasks[1][2]("log", (), True)
    worker.turn()
    assert [ids for ids, _, _ in worker.tasks] == [[1], [2], [3, 4]]


def test_each_message_gets_the_answer_of_the_task() -> None:
    worker = Worker()
    worker.receive(1)
    worker.receive(2)
    worker.turn()
    worker.tasks[0][2]("log", (OSError,), requeue=True)
    assert worker.answers == [
        ("reject", 1, ("log", (OSError,)), {"requeue": True}),
        ("reject", 2, ("log", (OSError,)), {"requeue": True}),
    ]


def test_one_that_comes_again_goes_alone_and_at_once() -> None:
    """It may be what ended its worker."""
    worker = Worker()
    worker.receive(1)
    worker.receive(2, redelivered=True)
    assert [ids for ids, _, _ in worker.tasks] == [[2]]
    worker.tasks[0][1]("log", ())
    assert worker.answers == [("ack", 2, ("log", ()), {})]
    worker.turn()
    assert [ids for ids, _, _ in worker.tasks] == [[2], [1]]


def test_where_tasks_take_long_fewer_batches_go_together() -> None:
    worker = Worker(max_batches=50)
    for number in range(500):
        worker.receive(number)
    sizes = []
    for _ in range(30):
        worker.turn()
        ids, ack, _ = worker.tasks[-1]
        sizes.append(len(ids))
        # As with an analysis of 0.28 seconds a comment, ten in a batch.
        worker.now += 2.8 * len(ids)
        ack("log", ())
    assert sizes[0] == 50
    assert set(sizes[1:]) == {1}


def test_a_task_that_was_held_up_once_does_not_keep_the_others_small() -> None:
    worker = Worker(max_batches=50)
    for number in range(3000):
        worker.receive(number)
    sizes = []
    for task in range(40):
        worker.turn()
        ids, ack, _ = worker.tasks[-1]
        sizes.append(len(ids))
        # The database was locked for a while.
        worker.now += 35 if task == 10 else 0.002 * len(ids)
        ack("log", ())
    assert sizes[:11] == [50] * 11
    assert sizes[11] < 10
    assert sizes[20:] == [50] * 20
