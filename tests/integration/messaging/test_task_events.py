"""Celery's task events, which celery-exporter and Flower receive: sent when enabled, and only then."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from celery import Celery
from celery.events.state import State
from tests.conftest import Broker, MakeSettings, until
from tests.support.database import outbox
from tests.support.requests import comment, parsed
from tests.support.system import Program

from comment_monitor.messaging.celery_app import ANALYSE, QUEUE_NAME
from comment_monitor.runtime import open_runtime

# The events of a worker for each task; `task-sent` would come from the publisher.
TASK_EVENTS: Final = ["task-received", "task-started", "task-succeeded"]


class Listener:
    """Celery's own receiver of events, as exporters use it: an application that knows only the broker."""

    def __init__(self, url: str):
        self.app = Celery(broker=url, set_as_current=False)
        self.events: list[dict[str, Any]] = []
        self.state: Any = State()
        self._leave = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(60)

    def stop(self) -> None:
        self._leave.set()
        self._thread.join(20)

    def kinds(self, group: str) -> list[str]:
        """Returns the distinct types of the received events of `task` or `worker`, in order of arrival."""
        return list(dict.fromkeys(event["type"] for event in [*self.events] if event["type"].startswith(f"{group}-")))

    def _heard(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self.state.event(event)

    def _listen(self) -> None:
        with self.app.connection_for_read() as connection:
            receiver = self.app.events.Receiver(connection, handlers={"*": self._heard})
            # The consumer context opens its own connection.
            with receiver.consumer_context(wakeup=False) as (own, _, _), own:
                self._ready.set()
                while not self._leave.is_set():
                    with suppress(TimeoutError):
                        own.drain_events(timeout=0.2)


@contextmanager
def listening(url: str) -> Iterator[Listener]:
    listener = Listener(url)
    listener.start()
    try:
        yield listener
    finally:
        listener.stop()


@asynccontextmanager
async def worked(
    make_settings: MakeSettings, url: str, folder: Path, switch: dict[str, str]
) -> AsyncIterator[Listener]:
    """Runs a worker that analyses 30 comments; yields the listener that received its events."""
    settings = make_settings(CELERY_BROKER_URL=url, **switch)
    environment = {"POSTGRES_DSN": settings.postgres_dsn, "CELERY_BROKER_URL": url, **switch}
    worker = Program(folder, environment, "worker", "--concurrency", "1", "--metrics-port", "0")
    with listening(url) as listener:
        worker.start()
        try:
            async with open_runtime(settings, application="test") as runtime:
                await runtime.pipeline.process(parsed(*map(comment, range(30))))
                await until(lambda: not outbox(settings.postgres_dsn), seconds=60)
                # Heartbeats come every two seconds: after another heartbeat, all earlier events have arrived.
                heard = _heartbeats(listener)
                await until(lambda: _heartbeats(listener) > heard + 1, seconds=60)
            yield listener
        finally:
            worker.kill()


def _heartbeats(listener: Listener) -> int:
    return sum(event["type"] == "worker-heartbeat" for event in [*listener.events])


async def test_task_events_are_sent_when_enabled(make_settings: MakeSettings, rabbitmq: Broker, tmp_path: Path) -> None:
    switch = {"CELERY_TASK_EVENTS": "true"}
    async with worked(make_settings, rabbitmq.url, tmp_path, switch) as listener:
        assert listener.kinds("task") == TASK_EVENTS
        tasks = list(listener.state.tasks.values())
        assert {task.name for task in tasks} == {ANALYSE}
        assert all(task.runtime > 0 for task in tasks)
        # Events hold ids of outbox rows, and no text.
        assert all("text of" not in str(event) for event in listener.events)


async def test_a_worker_sends_only_heartbeats_by_default(
    make_settings: MakeSettings, rabbitmq: Broker, tmp_path: Path
) -> None:
    async with worked(make_settings, rabbitmq.url, tmp_path, {}) as listener:
        assert listener.kinds("task") == []
        assert "worker-heartbeat" in listener.kinds("worker")


async def test_a_worker_reports_its_queue_and_processes_when_inspected(
    make_settings: MakeSettings, rabbitmq: Broker, tmp_path: Path
) -> None:
    """These are the queries of celery-exporter at each scrape."""
    async with worked(make_settings, rabbitmq.url, tmp_path, {}) as listener:
        # `limit=1`: returns as soon as the only worker has replied.
        inspect = listener.app.control.inspect(timeout=60, limit=1)
        (queues,) = (inspect.active_queues() or {}).values()
        assert [queue["name"] for queue in queues] == [QUEUE_NAME]
        (stats,) = (inspect.stats() or {}).values()
        assert len(stats["pool"]["processes"]) == 1
        with listener.app.connection_for_read() as connection:
            found: Any = connection.default_channel
            answer = found.queue_declare(QUEUE_NAME, passive=True)
        assert (answer.message_count, answer.consumer_count) == (0, 1)
