"""The same comments by many clients at once, at two processes: stored once, and every answer adds up."""

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
async def two(make_system: MakeSystem, request: pytest.FixtureRequest) -> list[System]:
    """Two orchestrators on one database, the first with a worker; with the variables of the test's parameter."""
    changes = getattr(request, "param", {})
    systems = [make_system(**changes), make_system(**changes)]
    for one in systems:
        one.orchestrator.start()
    for one in systems:
        await one.until_healthy()
    systems[0].worker.start()
    return systems


async def send(url: str, parts: Iterator[Sequence[dict[str, Any]]]) -> Counter[str]:
    """Sends requests one after the other; the sums of their answers."""
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
    """All comments in an order and in requests of a size that are this client's own."""
    order = random.Random(client).sample(comments, len(comments))
    size = SIZES[client % len(SIZES)]
    return (order[at : at + size] for at in range(0, len(order), size))


def deadlocks(dsn: str) -> int:
    ((amount,),) = execute(dsn, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return int(amount)


@pytest.mark.parametrize("two", [{}, {"REDIS_URL": ""}], ids=["with Redis", "without Redis"], indirect=True)
async def test_the_same_comments_by_20_clients_at_once_are_stored_once(two: list[System]) -> None:
    comments = [comment(number) for number in range(AMOUNT)]
    sending = (send(two[client % 2].url, shuffled(comments, client)) for client in range(CLIENTS))
    sums = sum(await asyncio.gather(*sending), Counter())
    assert sums == Counter(stored=AMOUNT, duplicates=(CLIENTS - 1) * AMOUNT, received=CLIENTS * AMOUNT)
    await two[0].all_is_well([one["id"] for one in comments])
    two[1].has_no_complaints()
    assert deadlocks(two[0].dsn) == 0


async def test_edits_by_many_clients_at_once_each_keep_a_version(two: list[System]) -> None:
    ids = [str(number) for number in range(100)]

    def texts(client: int) -> Iterator[list[dict[str, Any]]]:
        """Each comment with two texts of this client's own, often both in one request."""
        return shuffled([comment(id_, f"text {n} of {id_} by {client}") for id_ in ids for n in (1, 2)], client)

    sending = (send(two[client % 2].url, texts(client)) for client in range(8))
    sums = sum(await asyncio.gather(*sending), Counter())
    assert sums == Counter(stored=100, updated=8 * 200 - 100, received=8 * 200)
    assert execute(two[0].dsn, "SELECT count(*) FROM comment_versions") == [(sums["updated"],)]
    # Every text that came is there, as the latest or as a version, once.
    rows = execute(two[0].dsn, "SELECT text FROM comments UNION ALL SELECT text FROM comment_versions")
    came = [one["text"] for client in range(8) for part in texts(client) for one in part]
    assert sorted(text for (text,) in rows) == sorted(came)
    await two[0].all_is_well(ids)
    two[1].has_no_complaints()
    assert deadlocks(two[0].dsn) == 0
