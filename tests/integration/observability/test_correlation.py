"""Request ids of the comments in a batch, in every log line that a request causes, through Celery to the result."""

import asyncio
import itertools
import json
import random
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from tests.conftest import Broker, MakeSettings, execute, until
from tests.integration.conftest import MakeUp
from tests.support import http
from tests.support import up as ups
from tests.support.messages import messages
from tests.support.requests import body, comment, parsed
from tests.support.up import Up

from comment_monitor.observability import correlation
from comment_monitor.runtime import open_runtime


def of_request(up: Up, event: str, name: str) -> list[dict[str, Any]]:
    """Returns the log lines of an event that have this request's id."""
    return [entry for entry in up.entries(event) if name in entry["request_ids"]]


def all_named(up: Up, event: str, name: str, batches: set[int]) -> bool:
    """Returns whether these lines name all outbox rows of the request."""
    found = of_request(up, event, name)
    return batches <= {id_ for entry in found for id_ in entry.get("batch_ids", [entry.get("batch_id")])}


def requests_by_row(url: str) -> dict[int, set[str]]:
    """Takes all messages; returns the request ids that they name for each outbox row."""
    found: dict[int, set[str]] = {}
    for message in messages(url):
        headers = message.headers or {}
        known = correlation.decode(headers.get(correlation.HEADER))
        assert known.keys() <= set(json.loads(message.body)[0])
        for batch, members in known.items():
            found.setdefault(batch, set()).update(context.request_id for context in members)
    return found


async def test_a_message_names_exactly_the_requests_of_each_batch(
    make_settings: MakeSettings, rabbitmq: Broker
) -> None:
    """Also if many requests share a write, with comments that are edited or repeated."""
    settings = make_settings(CELERY_BROKER_URL=rabbitmq.url, COMMENT_BATCH_SIZE="5")
    chance = random.Random(5)
    async with open_runtime(settings, application="test") as runtime:
        await until(lambda: runtime.publisher.free_capacity)

        async def request(name: str, ids: list[str], text: str) -> None:
            with structlog.contextvars.bound_contextvars(request_id=name):
                await runtime.pipeline.process(parsed(*(comment(id_, text) for id_ in ids)))

        for turn in range(6):
            # Each comment of a turn belongs to one request; some are edits of comments of the previous turn.
            edited = [f"{turn - 1}-{chance.randrange(40)}" for _ in range(8)] if turn else []
            ids = [f"{turn}-{number}" for number in range(40)] + sorted(set(edited))
            chance.shuffle(ids)
            owners: dict[str, str] = {}
            jobs: list[Coroutine[Any, Any, None]] = []
            while ids:
                mine, ids = ids[: (size := chance.randrange(1, 12))], ids[size:]
                name = f"r{turn}-{len(jobs)}"
                owners |= dict.fromkeys(mine, name)
                twice = mine[:1] if chance.random() < 0.2 else []
                jobs.append(request(name, mine + twice, f"text of turn {turn}"))
            await asyncio.gather(*jobs)
            rows = execute(
                settings.postgres_dsn,
                "SELECT o.id, c.comment_id FROM analysis_outbox o JOIN comments c ON c.id = ANY (o.comment_ids)",
            )
            expected: dict[int, set[str]] = {}
            for row, id_ in rows:
                expected.setdefault(row, set()).add(owners[id_])
            found: dict[int, set[str]] = {}

            def arrived(found: dict[int, set[str]] = found, expected: dict[int, set[str]] = expected) -> bool:
                found.update(requests_by_row(rabbitmq.url))
                return found.keys() >= expected.keys()

            await until(arrived)
            assert found == expected
            execute(settings.postgres_dsn, "DELETE FROM analysis_outbox")


def test_a_request_id_is_in_each_log_line_from_request_to_result(make_up: MakeUp, rabbitmq: Broker) -> None:
    up = make_up(LOG_LEVEL="DEBUG", CELERY_BROKER_URL=rabbitmq.url).start().wait_until_up().wait_until_well()
    process = f"{up.url}/comments/process"
    for name in ("first", "second"):
        answer = http.post(
            process,
            json=body(*(comment(f"{name}-{number}") for number in range(12))),
            headers={"x-request-id": name},
            timeout=60,
        )
        assert answer.headers["x-request-id"] == name
    for name in ("first", "second"):
        [stored] = [entry for entry in up.entries("stored") if entry["request_ids"] == [name]]
        batches = set(stored["batch_ids"])
        assert len(batches) == 2
        ups.until(partial(all_named, up, "analysed", name, batches))
        assert all_named(up, "sent", name, batches)
        # Task ids connect these lines too, so that each of the three ids leads to the others.
        sent, done = (of_request(up, event, name) for event in ("sent", "analysed"))
        gathered = {task: entry["task_id"] for entry in up.entries("gathered") for task in entry["task_ids"]}
        assert {entry["task_id"] for entry in done} <= {
            gathered.get(entry["task_id"], entry["task_id"]) for entry in sent
        }


def test_a_failure_in_a_worker_names_the_affected_requests(make_up: MakeUp, rabbitmq: Broker, tmp_path: Path) -> None:
    up = make_up(LOG_LEVEL="WARNING", CELERY_BROKER_URL=rabbitmq.url).start().wait_until_up()
    execute(
        f"dbname=comments user=postgres host={up.data_dir}/postgres.socket",
        "ALTER TABLE comment_analyses ADD CHECK (comment_id < 0)",
    )
    # Comments stored before the broker is reached are left to the sweep, which does not know their requests.
    up.wait_until_well()
    http.post(f"{up.url}/comments/process", json=body(comment(1)), headers={"x-request-id": "unlucky"}, timeout=60)
    ups.until(lambda: up.entries("batch_failed"))
    failed = up.entries("batch_failed")[0]
    assert failed["request_ids"] == ["unlucky"]
    assert failed["batch_id"] == 1
    assert failed["task_id"]


def test_a_file_changes_the_log_level_of_a_running_system(make_up: MakeUp) -> None:
    up = make_up().start().wait_until_up()

    def post(name: int) -> None:
        assert http.post(f"{up.url}/comments/process", json=body(comment(name)), timeout=60).status_code == 200

    post(1)
    file = up.data_dir / "log-level"
    file.write_text("debug\n")

    def processes(level: str) -> set[int]:
        return {entry["process"] for entry in up.entries("log_level_changed") if entry["now"] == level}

    # Each process polls the file separately. A pool process logs the change only if it had started before.
    serve, worker = (up.child(f"comment_monitor {name}") for name in ("serve", "worker"))
    both = {serve.pid, worker.pid}
    ups.until(lambda: processes("DEBUG") >= both)

    numbers = itertools.count(2)

    def is_logged() -> bool:
        post(next(numbers))
        return bool(up.entries("stored") and up.entries("analysed"))

    ups.until(is_logged)
    file.unlink()
    all_pids = both | {child.pid for child in worker.children()}
    assert len(all_pids) > 2
    ups.until(lambda: processes("INFO") >= all_pids)
    before = len(up.entries("stored"))
    post(0)
    up.ctrl_c()
    assert up.process.wait() == 0
    assert len(up.entries("stored")) == before
