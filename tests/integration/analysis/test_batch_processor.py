"""A worker on a real database: its stored results, and events between its loading and its storing."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, Final

import pytest
from tests.conftest import MakeSettings, execute, metric, open_client, until
from tests.support.database import (
    analyse_all,
    blocked,
    holding,
    holding_text,
    opened,
    outbox,
    results,
    take_in,
    terminate_blocked,
    violated_invariants,
)
from tests.support.requests import comment
from tests.support.triggers import INSUFFICIENT_PRIVILEGE, SERIALIZATION_FAILURE, allow, refuse

from comment_monitor.analysis import engine
from comment_monitor.analysis.batch_processor import open_worker
from comment_monitor.analysis.engine import VERSION, Finding
from comment_monitor.analysis.findings.text import Text
from comment_monitor.core.config import Settings
from comment_monitor.storage.backlog import WAITING

LOVE: Final = "I really love this wonderful phone, thank you so much"
HATE: Final = "This is a terrible and awful product and I hate it"
BAD: Final = "this text is BAD for the analyser"


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(COMMENT_BATCH_SIZE=5)


async def analyse(settings: Settings, outbox_id: int) -> None:
    async with open_worker(settings) as worker:
        await worker.analyse_batch(outbox_id, redelivered=False)


@asynccontextmanager
async def begun(settings: Settings, text: str, *, workers: int = 1) -> AsyncIterator[None]:
    """Runs workers that have loaded and analysed the first outbox row; they store its results after the block."""
    row = outbox(settings.postgres_dsn)[0].id
    with holding_text(settings.postgres_dsn, text):
        tasks = [asyncio.create_task(analyse(settings, row)) for _ in range(workers)]
        await until(lambda: blocked(settings.postgres_dsn) == workers)
        yield
    await asyncio.gather(*tasks)


def analysed(outcome: str) -> float:
    """Returns how many comments are counted with this outcome."""
    return metric("comment_analysis_total", outcome=outcome)


async def test_findings_are_stored_with_the_analyser_version(settings: Settings) -> None:
    await take_in(settings, comment(1, "WHERE CAN WE BUY THIS WONDERFUL PHONE?"), comment(2, "1 + 1"))
    await analyse_all(settings)
    found = results(settings.postgres_dsn)
    first, second = found["1"], found["2"]
    assert (first.language, first.sentiment, first.labels) == ("en", "positive", ["question", "shouting"])
    assert first.language_confidence > 0.4
    assert 0 < first.sentiment_score <= 1
    assert (second.language, second.sentiment, second.sentiment_score, second.labels) == ("und", None, None, [])
    assert {(result.status, result.error, result.analyser_version, result.revision) for result in (first, second)} == {
        ("done", None, VERSION, 1)
    }
    assert outbox(settings.postgres_dsn) == []


async def test_the_outbox_row_is_removed_only_with_the_results(settings: Settings, make_settings: MakeSettings) -> None:
    await take_in(settings, *map(comment, range(5)))
    before = outbox(settings.postgres_dsn)
    with holding(settings.postgres_dsn, "SELECT FROM comments WHERE comment_id = '3' FOR UPDATE"):
        task = asyncio.create_task(analyse_all(make_settings(COMMENT_MAX_RETRIES=0)))
        await until(lambda: blocked(settings.postgres_dsn))
        terminate_blocked(settings.postgres_dsn)
        await task
    assert [row.id for row in outbox(settings.postgres_dsn)] == [row.id for row in before]
    assert results(settings.postgres_dsn) == {}
    await analyse_all(settings)
    assert len(results(settings.postgres_dsn)) == 5


async def test_a_worker_with_a_cut_connection_stores_over_another_connection(settings: Settings) -> None:
    await take_in(settings, *map(comment, range(5)))
    with holding(settings.postgres_dsn, "SELECT FROM comments WHERE comment_id = '3' FOR UPDATE"):
        task = asyncio.create_task(analyse_all(settings))
        await until(lambda: blocked(settings.postgres_dsn))
        terminate_blocked(settings.postgres_dsn)
    await task
    assert len(results(settings.postgres_dsn)) == 5
    assert outbox(settings.postgres_dsn) == []


async def test_a_redelivered_finished_batch_changes_nothing(settings: Settings) -> None:
    await take_in(settings, *map(comment, range(5)))
    row = outbox(settings.postgres_dsn)[0].id
    errors = metric("comment_processing_errors_total", reason="internal")
    await analyse(settings, row)
    before = results(settings.postgres_dsn)
    async with open_worker(settings) as worker:
        for redelivered in (False, True):
            await worker.analyse_batch(row, redelivered=redelivered)
    assert results(settings.postgres_dsn) == before
    assert metric("comment_processing_errors_total", reason="internal") == errors


async def test_two_workers_on_the_same_batch_store_each_result_once(settings: Settings) -> None:
    await take_in(settings, comment(1, LOVE), comment(2, HATE), comment(3, "one more"))
    errors = metric("comment_processing_errors_total", reason="internal")
    done = analysed("done")
    async with begun(settings, LOVE, workers=2):
        pass
    assert analysed("done") == done + 3
    assert set(results(settings.postgres_dsn)) == {"1", "2", "3"}
    assert [result.labels for result in results(settings.postgres_dsn).values()] == [[], [], []]
    assert outbox(settings.postgres_dsn) == []
    assert metric("comment_processing_errors_total", reason="internal") == errors


async def test_the_result_of_a_replaced_text_is_not_shown_for_the_new_text(settings: Settings) -> None:
    await take_in(settings, comment(1, LOVE))
    async with begun(settings, LOVE):
        await take_in(settings, comment(1, HATE))
    assert results(settings.postgres_dsn)["1"].revision == 1
    assert len(outbox(settings.postgres_dsn)) == 1
    assert await violated_invariants(settings) == []
    async with open_client(settings) as client:
        assert (await client.get("/comments/threads/1")).json()["analysis"] is None
        await analyse_all(settings)
        assert (await client.get("/comments/threads/1")).json()["analysis"]["sentiment"] == "negative"


async def test_a_late_result_of_an_old_text_never_overwrites_a_newer_result(settings: Settings) -> None:
    await take_in(settings, comment(1, LOVE), comment(2))
    async with begun(settings, LOVE):
        await take_in(settings, comment(1, HATE))
        await analyse(settings, outbox(settings.postgres_dsn)[1].id)
    found = results(settings.postgres_dsn)
    assert (found["1"].revision, found["1"].sentiment) == (2, "negative")
    assert (found["2"].revision, found["2"].status) == (1, "done")
    assert outbox(settings.postgres_dsn) == []
    assert await violated_invariants(settings) == []


async def test_a_comment_removed_before_the_results_are_stored_is_skipped(settings: Settings) -> None:
    await take_in(settings, comment(1, LOVE), comment(2, HATE))
    done = analysed("done")
    async with begun(settings, LOVE):
        execute(settings.postgres_dsn, "DELETE FROM comments WHERE comment_id = '1'")
    assert analysed("done") == done + 1
    assert set(results(settings.postgres_dsn)) == {"2"}
    assert outbox(settings.postgres_dsn) == []


async def test_a_comment_removed_while_results_are_stored_does_not_affect_others(settings: Settings) -> None:
    await take_in(settings, *map(comment, range(5)))
    with holding(settings.postgres_dsn, "DELETE FROM comments WHERE comment_id = '1'") as remover:
        task = asyncio.create_task(analyse_all(settings))
        await until(lambda: blocked(settings.postgres_dsn))
        remover.commit()
        await task
    assert set(results(settings.postgres_dsn)) == {"0", "2", "3", "4"}
    assert outbox(settings.postgres_dsn) == []


@pytest.mark.parametrize("redelivered", [False, True])
async def test_a_batch_whose_comments_are_all_removed_finishes(settings: Settings, redelivered: bool) -> None:
    await take_in(settings, comment(1), comment(2))
    execute(settings.postgres_dsn, "DELETE FROM comments")
    await analyse_all(settings, redelivered=redelivered)
    assert outbox(settings.postgres_dsn) == []


async def test_a_text_of_two_comments_in_the_same_batch_is_labelled_repeated(settings: Settings) -> None:
    await take_in(settings, comment(1, LOVE), comment(2, f"{LOVE.upper()} "), comment(3, HATE))
    await analyse_all(settings)
    assert repeated(settings) == {"1", "2"}


async def test_a_text_of_an_earlier_batch_labels_both_comments_once(settings: Settings) -> None:
    for number in range(3):
        await take_in(settings, comment(number, LOVE))
        await analyse_all(settings)
        assert repeated(settings) == ({str(index) for index in range(number + 1)} if number else set())
    assert {result.labels.count("repeated") for result in results(settings.postgres_dsn).values()} == {1}


async def test_an_edited_comment_does_not_repeat_itself(settings: Settings) -> None:
    for text in (LOVE, LOVE.upper(), LOVE.title()):
        await take_in(settings, comment(1, text))
        await analyse_all(settings)
    assert results(settings.postgres_dsn)["1"].revision == 3
    assert repeated(settings) == set()


async def test_short_texts_are_never_labelled_repeated(settings: Settings) -> None:
    for number in range(2):
        await take_in(settings, comment(f"a{number}", "So true, all!"), comment(f"b{number}", "So true, all!"))
        await analyse_all(settings)
    assert len(results(settings.postgres_dsn)) == 4
    assert repeated(settings) == set()


async def test_two_workers_that_store_the_same_text_at_once_label_both_repeated(settings: Settings) -> None:
    await take_in(settings, comment(1, LOVE))
    await take_in(settings, comment(2, LOVE))
    first, second = outbox(settings.postgres_dsn)
    # The first worker has its snapshot and waits with its result: it cannot see results that the second stores now.
    with holding(settings.postgres_dsn, "SELECT FROM comments WHERE comment_id = '1' FOR UPDATE"):
        tasks = [asyncio.create_task(analyse(settings, first.id))]
        await until(lambda: blocked(settings.postgres_dsn) == 1)
        tasks.append(asyncio.create_task(analyse(settings, second.id)))
        await until(lambda: blocked(settings.postgres_dsn) == 2 or tasks[1].done())
    await asyncio.gather(*tasks)
    assert repeated(settings) == {"1", "2"}


def repeated(settings: Settings) -> set[str]:
    return {name for name, result in results(settings.postgres_dsn).items() if "repeated" in result.labels}


class FailingFinding:
    """A further finding: for texts with BAD in them it raises an error or returns a result, and counts the calls."""

    def __init__(self) -> None:
        self.tries = 0
        self.error: Exception = ValueError("too bad")
        self.found: dict[str, Any] | None = None

    def find(self, text: Text, _: Mapping[str, Any]) -> dict[str, Any]:
        if "BAD" not in text.typed:
            return {}
        self.tries += 1
        if self.found is not None:
            return self.found
        raise self.error


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> FailingFinding:
    finding = FailingFinding()
    monkeypatch.setattr(engine, "FINDINGS", (*engine.FINDINGS, Finding("failing", finding.find)))
    return finding


async def test_a_text_that_makes_an_analyser_fail_does_not_delay_others(
    settings: Settings, failing: FailingFinding
) -> None:
    await take_in(settings, comment(1), comment(2, BAD), comment(3))
    await analyse_all(settings)
    assert set(results(settings.postgres_dsn)) == {"1", "3"}
    (row,) = outbox(settings.postgres_dsn)
    assert (row.comments, row.failures) == (["2"], 1)


async def test_two_workers_on_a_failing_text_count_a_single_failure(
    settings: Settings, failing: FailingFinding
) -> None:
    await take_in(settings, comment(1, LOVE), comment(2, BAD))
    before = analysed("done"), analysed("retried")
    async with begun(settings, LOVE, workers=2):
        pass
    assert (analysed("done"), analysed("retried")) == (before[0] + 1, before[1] + 1)
    (row,) = outbox(settings.postgres_dsn)
    assert (row.comments, row.failures) == (["2"], 1)


async def test_a_comment_cut_short_too_often_counts_as_failed_once_over_retries(
    settings: Settings,
) -> None:
    await take_in(settings, comment(1))
    execute(settings.postgres_dsn, "UPDATE analysis_outbox SET starts = 9")
    failed = analysed("failed")
    once = "nextval('tries') <= 1"
    await refuse(settings.postgres_dsn, "INSERT", "comment_analyses", once, SERIALIZATION_FAILURE, at_commit=True)
    await analyse_all(settings, redelivered=True)
    assert results(settings.postgres_dsn)["1"].status == "failed"
    assert analysed("failed") == failed + 1


async def test_a_result_that_could_not_be_stored_marks_no_comment_failed(make_settings: MakeSettings, dsn: str) -> None:
    settings = make_settings(COMMENT_MAX_RETRIES=1)
    await take_in(settings, comment(1))
    await take_in(settings, comment(2), comment(3))
    await refuse(dsn, "INSERT", "comment_analyses", code=INSUFFICIENT_PRIVILEGE)
    for _ in range(3):
        await analyse_all(settings, redelivered=True)
    await allow(dsn)
    await analyse_all(settings, redelivered=True)
    assert {name: result.status for name, result in results(dsn).items()} == dict.fromkeys("123", "done")


async def test_a_failing_text_is_retried_with_growing_waits_and_then_marked_failed(
    make_settings: MakeSettings, failing: FailingFinding
) -> None:
    settings = make_settings(COMMENT_BACKOFF_MULTIPLIER=10)
    await take_in(settings, comment(1), comment(2, BAD))
    waits = []
    for _ in range(settings.max_retries):
        await analyse_all(settings)
        waits += [row.due_in for row in outbox(settings.postgres_dsn)]
    assert len(waits) == settings.max_retries
    for earlier, later in pairwise(waits):
        assert earlier < later
    await analyse_all(settings)
    assert outbox(settings.postgres_dsn) == []
    assert failing.tries == 1 + settings.max_retries
    async with opened(settings) as database, database.connection() as conn:
        assert await conn.value(WAITING) == 0
    async with open_client(settings) as client:
        found = (await client.get("/comments/threads/2")).json()["analysis"]
    assert (found["status"], found["error"]) == ("failed", "failing: ValueError: too bad")
    assert (found["language"], found["sentiment"], found["labels"]) == (None, None, [])


async def test_the_error_is_that_of_the_analyser_even_for_resent_batches(
    settings: Settings, failing: FailingFinding
) -> None:
    """In a long queue, every batch is sent again before its first try and before each later try."""
    await take_in(settings, comment(1), comment(2, BAD), comment(3, BAD))
    for _ in range(2 * settings.max_retries + 2):
        execute(settings.postgres_dsn, "UPDATE analysis_outbox SET resends = resends + 1")
        await analyse_all(settings)
    assert outbox(settings.postgres_dsn) == []
    found = results(settings.postgres_dsn)
    assert {found[name].error for name in ("2", "3")} == {"failing: ValueError: too bad"}
    assert failing.tries == 2 * (1 + settings.max_retries)


async def test_the_wait_before_a_retry_is_capped_near_an_hour(
    make_settings: MakeSettings, failing: FailingFinding
) -> None:
    settings = make_settings(COMMENT_MAX_RETRIES=10, COMMENT_BACKOFF_MULTIPLIER=10)
    await take_in(settings, comment(1, BAD))
    for _ in range(settings.max_retries):
        await analyse_all(settings)
        assert outbox(settings.postgres_dsn)[0].due_in < 2 * 3600


async def test_texts_that_fail_together_are_retried_at_different_times(
    make_settings: MakeSettings, failing: FailingFinding
) -> None:
    settings = make_settings(COMMENT_BACKOFF_MULTIPLIER=10)
    # Enough rows that the spread is not a coincidence.
    for number in range(16):
        await take_in(settings, comment(number, BAD))
    execute(settings.postgres_dsn, "UPDATE analysis_outbox SET failures = 2")
    await analyse_all(settings)
    waits = [row.due_in for row in outbox(settings.postgres_dsn)]
    # Each wait is about 100 seconds; the rows failed one after the other, within much less than a tenth of that.
    assert max(waits) - min(waits) > 10


@pytest.mark.parametrize("message", ["\0", "\ud800", "x" * 100_000], ids=["nul", "surrogate", "long"])
async def test_any_analyser_error_leaves_the_results_of_other_comments(
    make_settings: MakeSettings, failing: FailingFinding, message: str
) -> None:
    settings = make_settings(COMMENT_MAX_RETRIES=0)
    failing.error = ValueError(message)
    await take_in(settings, comment(1), comment(2, BAD))
    await analyse_all(settings)
    found = results(settings.postgres_dsn)
    assert {name: result.status for name, result in found.items()} == {"1": "done", "2": "failed"}
    assert found["2"].error.startswith("failing: ValueError: ")
    assert len(found["2"].error) <= 500


async def test_a_result_that_cannot_be_stored_is_split_from_its_batch(
    settings: Settings, failing: FailingFinding
) -> None:
    failing.found = {"text_digest": 2**80}
    await take_in(settings, comment(1), comment(2, BAD), comment(3))
    for _ in range(2 * settings.max_retries + 2):
        await analyse_all(settings, redelivered=True)
    assert outbox(settings.postgres_dsn) == []
    states = {name: result.status for name, result in results(settings.postgres_dsn).items()}
    assert states == {"1": "done", "2": "failed", "3": "done"}


async def test_an_edit_of_a_failed_comment_gets_a_result(make_settings: MakeSettings, failing: FailingFinding) -> None:
    settings = make_settings(COMMENT_MAX_RETRIES=0)
    await take_in(settings, comment(1, BAD))
    await analyse_all(settings)
    assert results(settings.postgres_dsn)["1"].status == "failed"
    await take_in(settings, comment(1, LOVE))
    await analyse_all(settings)
    found = results(settings.postgres_dsn)["1"]
    assert (found.status, found.error, found.revision) == ("done", None, 2)
