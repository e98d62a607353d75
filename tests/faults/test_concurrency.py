"""The same comments from many concurrent clients at two processes: each is stored once, and all counts add up."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.conftest import execute
from tests.faults.conftest import MakeSystem
from tests.support import http
from tests.support.requests import adds_up, body, comment
from tests.support.system import System

AMOUNT = 500
CLIENTS = 20
SIZES = (3, 10, 25, 60, 125, 500)


@pytest.fixture
async def systems(make_system: MakeSystem, request: pytest.FixtureRequest) -> list[System]:
    """Two orchestrators on the same database, the first with a worker; with the variables of the test's parameter."""
    changes = getattr(request, "param", {})
    systems = [make_system(**changes), make_system(**changes)]
    for system in systems:
        system.orchestrator.start()
    for system in systems:
        await system.until_healthy()
    systems[0].worker.start()
    return systems


async def send(url: str, parts: Iterator[Sequence[dict[str, Any]]]) -> Counter[str]:
    """Sends requests one after the other; returns the sums of their counts."""
    sums: Counter[str] = Counter()
    async with http.AsyncClient(base_url=url, timeout=60) as client:
        for part in parts:
            response = await client.post("/comments/process", json=body(*part))
            assert response.status_code == 200, response.text
            answer = response.json()
            assert adds_up(answer)
            assert answer["received"] == len(part)
            assert answer["rejected"] == []
            sums.update({name: answer[name] for name in ("stored", "updated", "duplicates", "received")})
    return sums


def shuffled(comments: Sequence[dict[str, Any]], client: int) -> Iterator[list[dict[str, Any]]]:
    """Yields all comments in an order and in requests of a size that are specific to the client."""
    order = random.Random(client).sample(comments, len(comments))
    size = SIZES[client % len(SIZES)]
    return (order[at : at + size] for at in range(0, len(order), size))


def deadlocks(dsn: str) -> int:
    ((amount,),) = execute(dsn, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return int(amount)


@pytest.mark.parametrize("systems", [{}, {"REDIS_URL": ""}], ids=["with-redis", "without-redis"], indirect=True)
async def test_the_same_comments_from_20_concurrent_clients_are_stored_once(systems: list[System]) -> None:
    comments = [comment(number) for number in range(AMOUNT)]
    sending = (send(systems[client % 2].url, shuffled(comments, client)) for client in range(CLIENTS))
    sums = sum(await asyncio.gather(*sending), Counter())
    assert sums == Counter(stored=AMOUNT, duplicates=(CLIENTS - 1) * AMOUNT, received=CLIENTS * AMOUNT)
    await systems[0].all_is_well([item["id"] for item in comments])
    systems[1].has_no_complaints()
    assert deadlocks(systems[0].dsn) == 0


async def test_concurrent_edits_by_many_clients_each_keep_a_version(systems: list[System]) -> None:
    ids = [str(number) for number in range(100)]

    def texts(client: int) -> Iterator[list[dict[str, Any]]]:
        """Yields each comment with two texts of this client, often both in the same request."""
        return shuffled([comment(id_, f"text {n} of {id_} by {client}") for id_ in ids for n in (1, 2)], client)

    sending = (send(systems[client % 2].url, texts(client)) for client in range(8))
    sums = sum(await asyncio.gather(*sending), Counter())
    assert sums == Counter(stored=100, updated=8 * 200 - 100, received=8 * 200)
    assert execute(systems[0].dsn, "SELECT count(*) FROM comment_versions") == [(sums["updated"],)]
    # Every text that was sent is stored exactly once, as the latest text or as a version.
    rows = execute(systems[0].dsn, "SELECT text FROM comments UNION ALL SELECT text FROM comment_versions")
    sent_texts = [item["text"] for client in range(8) for part in texts(client) for item in part]
    assert sorted(text for (text,) in rows) == sorted(sent_texts)
    await systems[0].all_is_well(ids)
    systems[1].has_no_complaints()
    assert deadlocks(systems[0].dsn) == 0
