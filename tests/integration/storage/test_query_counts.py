"""The number of statements of a request or a batch, from PostgreSQL's log: independent of the number of comments."""

import asyncio

import pytest
from tests.conftest import MakeSettings, execute, metric, open_client
from tests.support.database import outbox
from tests.support.intake import PATH, process, several
from tests.support.requests import body, comment
from tests.support.statements import Statements

from comment_monitor.analysis.batch_processor import open_worker
from comment_monitor.devserver.postgres_process import EmbeddedPostgres

ORCHESTRATOR = "comment-monitor orchestrator"
# New comments are a single statement in autocommit; comments to be compared with stored ones need a transaction.
ADDED = ["WITH"]
ONE_WRITE = ["BEGIN", "WITH", "COMMIT"]


@pytest.mark.parametrize("amount", [1, 25, 1000])
async def test_a_write_of_new_comments_is_a_single_statement(
    postgres: EmbeddedPostgres, make_settings: MakeSettings, dsn: str, amount: int
) -> None:
    sent = Statements(postgres, dsn, ORCHESTRATOR)
    async with open_client(make_settings()) as client:
        await process(client, comment("first"))
        sent.forget()
        timed = metric("comment_db_query_duration_seconds_count", query="write_comments")
        assert (await process(client, *several(amount)))["stored"] == amount
        assert sent.transactions() == [ADDED]
        assert metric("comment_db_query_duration_seconds_count", query="write_comments") - timed == 1


@pytest.mark.parametrize("amount", [25, 1000])
async def test_expected_repeats_cost_a_single_statement(
    postgres: EmbeddedPostgres, make_settings: MakeSettings, dsn: str, amount: int
) -> None:
    sent = Statements(postgres, dsn, ORCHESTRATOR)
    async with open_client(make_settings(REDIS_URL="")) as client:
        await process(client, *several(amount))
        for transactions in ([ADDED, ONE_WRITE], [["SELECT"]], [["SELECT"]]):
            sent.forget()
            assert (await process(client, *several(amount)))["duplicates"] == amount
            assert sent.transactions() == transactions


async def test_a_write_returns_to_a_single_statement_once_all_comments_are_new(
    postgres: EmbeddedPostgres, make_settings: MakeSettings, dsn: str
) -> None:
    sent = Statements(postgres, dsn, ORCHESTRATOR)
    async with open_client(make_settings(REDIS_URL="")) as client:
        await process(client, *several(25))
        for more, transactions in (
            ([*several(10), *several(40, "new-")], [ADDED, ONE_WRITE]),
            ([*several(10), *several(40, "newer-")], [ONE_WRITE]),
            (several(50, "later-"), [ONE_WRITE]),
            (several(50, "latest-"), [ADDED]),
        ):
            sent.forget()
            answer = await process(client, *more)
            assert answer["stored"] + answer["duplicates"] == len(more)
            assert answer["duplicates"] == sum("-" not in item["id"] for item in more)
            assert sent.transactions() == transactions


@pytest.mark.parametrize("amount", [25, 1000])
@pytest.mark.parametrize("kind", ["conflicts", "renames", "earlier-versions", "all-kinds"])
async def test_classifying_comments_with_known_ids_costs_no_more_statements(
    postgres: EmbeddedPostgres, make_settings: MakeSettings, dsn: str, amount: int, kind: str
) -> None:
    sent = Statements(postgres, dsn, ORCHESTRATOR)
    async with open_client(make_settings()) as client:
        await process(client, *several(amount))
        await process(client, *(comment(known["id"], "edited") for known in several(amount)))
        kinds = {
            "conflicts": [comment(known["id"], "another", author="ben") for known in several(amount)],
            "renames": [comment(known["id"], "edited", author="anna") for known in several(amount)],
            "earlier-versions": several(amount),
        }
        chosen = kinds[kind] if kind in kinds else [kinds[name][at] for at, name in enumerate([*kinds] * (amount // 3))]
        sent.forget()
        response = await client.post(PATH, json=body(comment("new"), *chosen[1:]))
        assert response.status_code == 200
        assert response.json()["duplicates"] + len(response.json()["rejected"]) == len(chosen) - 1
        assert sent.transactions() == [ONE_WRITE]


# Redis is informed of edits under the current prefix; without Redis, a further statement invalidates its entries.
@pytest.mark.parametrize(
    ("changes", "written"),
    [({}, [*ONE_WRITE[:2], "SELECT", "COMMIT"]), ({"REDIS_URL": ""}, [*ONE_WRITE[:2], "INSERT", "COMMIT"])],
    ids=["with-redis", "without-redis"],
)
@pytest.mark.parametrize("amount", [25, 1000])
async def test_edits_cost_the_same_statements_for_any_number(
    postgres: EmbeddedPostgres,
    make_settings: MakeSettings,
    dsn: str,
    amount: int,
    changes: dict[str, str],
    written: list[str],
) -> None:
    sent = Statements(postgres, dsn, ORCHESTRATOR)
    async with open_client(make_settings(**changes)) as client:
        await process(client, *several(amount))
        sent.forget()
        edits = [comment(known["id"], "another text") for known in several(amount)]
        assert (await process(client, *edits))["updated"] == amount
        assert sent.transactions() == [ADDED, written]


async def test_duplicates_found_in_redis_cost_no_statement(
    postgres: EmbeddedPostgres, make_settings: MakeSettings, dsn: str
) -> None:
    sent = Statements(postgres, dsn, ORCHESTRATOR)
    async with open_client(make_settings()) as client:
        await process(client, *several(100))
        sent.forget()
        assert (await process(client, *several(100)))["duplicates"] == 100
        assert sent.transactions() == []


async def test_an_edit_of_a_comment_of_the_same_request_costs_a_second_write(
    postgres: EmbeddedPostgres, make_settings: MakeSettings, dsn: str
) -> None:
    sent = Statements(postgres, dsn, ORCHESTRATOR)
    async with open_client(make_settings()) as client:
        await process(client, *several(50), *(comment(known["id"], "edited") for known in several(50)))
        assert sent.transactions() == [["BEGIN", "WITH", "WITH", "SELECT", "COMMIT"]]


@pytest.mark.parametrize("amount", [1, 50])
@pytest.mark.parametrize(
    "path",
    [
        *("/comments?limit=50", "/comments/threads/c0", "/comments?source=threads&id=c0", "/posts"),
        *("/posts/threads/post/summary", "/posts/summary?source=threads&post_id=post"),
    ],
    ids=["page", "comment", "comment-by-query", "posts", "summary", "summary-by-query"],
)
async def test_a_read_is_a_single_statement_for_any_number_of_results(
    postgres: EmbeddedPostgres, make_settings: MakeSettings, dsn: str, path: str, amount: int
) -> None:
    sent = Statements(postgres, dsn, f"{ORCHESTRATOR} reading")
    async with open_client(make_settings()) as client:
        await process(client, *several(amount))
        response = await client.get(path)
        assert response.status_code == 200
        assert len(response.json().get("items", [1])) == (amount if "limit" in path else 1)
        assert len(sent.transactions()) == 1
        assert len(sent.transactions()[0]) == 1


@pytest.mark.parametrize("amount", [5, 25])
async def test_a_worker_batch_is_a_reading_and_a_writing_transaction(
    postgres: EmbeddedPostgres, make_settings: MakeSettings, dsn: str, amount: int
) -> None:
    settings = make_settings(COMMENT_BATCH_SIZE=25)
    async with open_client(settings) as client:
        await process(
            client,
            *(comment(number, f"Where can I buy this lovely thing number {number}?") for number in range(amount)),
        )
    (row,) = outbox(dsn)
    assert len(row.comments) == amount
    sent = Statements(postgres, dsn, "comment-monitor worker")
    async with open_worker(settings) as worker:
        await worker.analyse_batch(row.id, redelivered=False)
    assert sent.transactions() == [["SELECT"], ["BEGIN", "SELECT", "WITH", "COMMIT"]]
    assert execute(dsn, "SELECT count(*) FROM comment_analyses WHERE status = 'done'") == [(amount,)]


async def test_concurrent_small_requests_share_writes(
    postgres: EmbeddedPostgres, make_settings: MakeSettings, dsn: str
) -> None:
    sent = Statements(postgres, dsn, ORCHESTRATOR)
    async with open_client(make_settings()) as client:
        answers = await asyncio.gather(*(process(client, *several(5, f"r{number}-")) for number in range(100)))
        assert [answer["stored"] for answer in answers] == [5] * 100
        assert 0 < len(sent.transactions()) <= 50
        assert all(transaction == ADDED for transaction in sent.transactions())
