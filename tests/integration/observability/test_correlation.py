"""Whose comments are in a batch: the request's id in every line it causes, through Celery to the result."""

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
    """The lines of an event that bear a request's id."""
    return [one for one in up.entries(event) if name in one["request_ids"]]


def all_named(up: Up, event: str, name: str, batches: set[int]) -> bool:
    """Whether these lines name all of its outbox rows."""
    found = of_request(up, event, name)
    return batches <= {id_ for one in found for id_ in one.get("batch_ids", [one.get("batch_id")])}


def behind(url: str) -> dict[int, set[str]]:
    """Takes all messages: the requests that they name for each outbox row."""
    found: dict[int, set[str]] = {}
    for message in messages(url):
        headers = message.headers or {}
        known = correlation.decode(headers.get(correlation.HEADER))
        assert known.keys() <= set(json.loads(message.body)[0])
        for batch, members in known.items():
            found.setdefault(batch, set()).update(one.request_id for one in members)
    return found


async def test_a_message_names_just_the_requests_whose_comments_are_in_each_batch(
    make_settings: MakeSettings, rabbitmq: Broker
) -> None:
    """Also where many requests share a write, with comments that are known, edited, sent twice, or in another's."""
    settings = make_settings(CELERY_BROKER_URL=rabbitmq.url, COMMENT_BATCH_SIZE="5")
    chance = random.Random(5)
    async with open_runtime(settings, application="test") as runtime:
        await until(lambda: runtime.publisher.free_capacity)

        async def request(name: str, ids: list[str], text: str) -> None:
            with structlog.contextvars.bound_contextvars(request_id=name):
                await runtime.pipeline.process(parsed(*(comment(id_, text) for id_ in ids)))

        for turn in range(6):
            # Each comment of a turn belongs to one request; a part of them are edits of an earlier turn's.
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
                found.update(behind(rabbitmq.url))
                return found.keys() >= expected.keys()

            await until(arrived)
            assert found == expected
            execute(settings.postgres_dsn, "DELETE FROM analysis_outbox")


def test_a_requests_id_is_in_each_line_from_its_receipt_to_its_result(make_up: MakeUp, rabbitmq: Broker) -> None:
    up = make_up(LOG_LEVEL="DEBUG", CELERY_BROKER_URL=rabbitmq.url).start().wait_until_up().wait_until_well()
    process = f"{up.url}/comments/process"
    for name in ("first", "second"):
        answer = http.post(
            process,
            json=body(*(comment(f"{name}-{one}") for one in range(12))),
            headers={"x-request-id": name},
            timeout=60,
        )
        assert answer.headers["x-request-id"] == name
    for name in ("first", "second"):
        [stored] = [one for one in up.entries("stored") if one["request_ids"] == [name]]
        batches = set(stored["batch_ids"])
        assert len(batches) == 2
        ups.until(partial(all_named, up, "analysed", name, batches))
        assert all_named(up, "sent", name, batches)
        # Celery's own name for the work is in there as well: whoever has one of the three finds the others.
        sent, done = (of_request(up, event, name) for event in ("sent", "analysed"))
        gathered = {task: one["task_id"] for one in up.entries("gathered") for task in one["task_ids"]}
        assert {one["task_id"] for one in done} <= {gathered.get(one["task_id"], one["task_id"]) for one in sent}


def test_what_fails_in_a_worker_names_the_requests_that_it_fails_for(
    make_up: MakeUp, rabbitmq: Broker, tmp_path: Path
) -> None:
    up = make_up(LOG_LEVEL="WARNING", CELERY_BROKER_URL=rabbitmq.url).start().wait_until_up()
    execute(
        f"dbname=comments user=postgres host={up.data_dir}/postgres.socket",
        "ALTER TABLE comment_analyses ADD CHECK (comment_id < 0)",
    )
    # What is stored before the broker is reached is left to the sweep, which does not know whose it is.
    up.wait_until_well()
    http.post(f"{up.url}/comments/process", json=body(comment(1)), headers={"x-request-id": "unlucky"}, timeout=60)
    ups.until(lambda: up.entries("batch_failed"))
    failed = up.entries("batch_failed")[0]
    assert failed["request_ids"] == ["unlucky"]
    assert failed["batch_id"] == 1
    assert failed["task_id"]


def test_the_level_of_a_running_system_is_changed_by_a_file(make_up: MakeUp) -> None:
    up = make_up().start().wait_until_up()

    def post(name: int) -> None:
        assert http.post(f"{up.url}/comments/process", json=body(comment(name)), timeout=60).status_code == 200

    post(1)
    file = up.data_dir / "log-level"
    file.write_text("debug\n")

    def processes(level: str) -> set[int]:
        return {one["process"] for one in up.entries("log_level_changed") if one["now"] == level}

    # Each looks by its own clock. A pool's process says it where it has started before.
    serve, worker = (up.child(f"comment_monitor {name}") for name in ("serve", "worker"))
    both = {serve.pid, worker.pid}
    ups.until(lambda: processes("DEBUG") >= both)

    numbers = itertools.count(2)

    def is_told() -> bool:
        post(next(numbers))
        return bool(up.entries("stored") and up.entries("analysed"))

    ups.until(is_told)
    file.unlink()
    everybody = both | {one.pid for one in worker.children()}
    assert len(everybody) > 2
    ups.until(lambda: processes("INFO") >= everybody)
    before = len(up.entries("stored"))
    post(0)
    up.ctrl_c()
    assert up.process.wait() == 0
    assert len(up.entries("stored")) == before
