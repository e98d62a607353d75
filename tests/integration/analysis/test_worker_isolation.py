"""A real worker process on RabbitMQ, and comments that kill or block the process that analyses them."""

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.conftest import Broker, MakeSettings, project_root, until
from tests.support import forked
from tests.support.database import outbox, results, violated_invariants
from tests.support.deadly import DEAF, EXIT, HANG, KILL
from tests.support.requests import comment, parsed

from comment_monitor.analysis.batch_processor import CUT_SHORT
from comment_monitor.core.config import Settings
from comment_monitor.runtime import open_runtime

OTHERS = ("a", "b", "c")


@pytest.fixture
def settings(make_settings: MakeSettings, rabbitmq: Broker, request: pytest.FixtureRequest) -> Settings:
    """A single retry, so that a comment fails soon; or the parameter of the test."""
    variables: dict[str, object] = {
        "CELERY_BROKER_URL": rabbitmq.url,
        "COMMENT_PROCESSING_TIMEOUT": 15,
        "COMMENT_SWEEP_INTERVAL": 0.1,
        "COMMENT_RESEND_AFTER": 600,
        "COMMENT_MAX_RETRIES": 1,
    }
    return make_settings(**variables | getattr(request, "param", {}))


@pytest.fixture
def worker(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[forked.Popen]:
    """A worker with one pool process, and the variables of the test's parameter."""
    environment = {
        **getattr(request, "param", {}),
        "POSTGRES_DSN": settings.postgres_dsn,
        "CELERY_BROKER_URL": settings.broker_url,
        "COMMENT_PROCESSING_TIMEOUT": str(settings.processing_timeout),
        "COMMENT_MAX_RETRIES": str(settings.max_retries),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }
    with (tmp_path / "worker.log").open("wb") as log:
        process = forked.Popen(
            [sys.executable, "-m", "tests.support.deadly", "worker", "--concurrency", "1", "--metrics-port", "0"],
            env={**os.environ, **environment},
            cwd=project_root(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def has_results(settings: Settings, least: int) -> bool:
    return len(results(settings.postgres_dsn)) >= least


async def analyse_texts(settings: Settings, *texts: str, seconds: float = 90) -> None:
    """Stores texts through a running process, and waits until all are analysed."""
    async with open_runtime(settings, application="test") as runtime:
        await runtime.pipeline.process(parsed(*(comment(name, name) for name in texts)))
        await until(lambda: not outbox(settings.postgres_dsn), seconds=seconds)


@pytest.mark.parametrize("word", [EXIT, KILL])
async def test_a_comment_that_kills_its_process_fails_and_the_others_are_analysed(
    settings: Settings, worker: forked.Popen, word: str
) -> None:
    await analyse_texts(settings, *OTHERS, word)
    found = results(settings.postgres_dsn)
    assert {name: found[name].status for name in OTHERS} == dict.fromkeys(OTHERS, "done")
    assert (found[word].status, found[word].error) == ("failed", CUT_SHORT)
    await analyse_texts(settings, "after")
    assert results(settings.postgres_dsn)["after"].status == "done"
    assert worker.poll() is None
    assert await violated_invariants(settings) == []


async def test_a_comment_that_kills_its_process_fails_alone_among_many_batches(
    settings: Settings, worker: forked.Popen
) -> None:
    others = [f"other {number}" for number in range(150)]
    await analyse_texts(settings, *others[:75], KILL, *others[75:])
    found = results(settings.postgres_dsn)
    assert {name: found[name].status for name in others} == dict.fromkeys(others, "done")
    assert (found[KILL].status, found[KILL].error) == ("failed", CUT_SHORT)
    assert worker.poll() is None
    assert await violated_invariants(settings) == []


async def test_two_comments_of_a_batch_that_kill_their_process_both_fail(
    settings: Settings, worker: forked.Popen
) -> None:
    await analyse_texts(settings, "a", EXIT, "b", KILL)
    states = {name: result.status for name, result in results(settings.postgres_dsn).items()}
    assert states == {"a": "done", "b": "done", EXIT: "failed", KILL: "failed"}


@pytest.mark.parametrize("settings", [{"COMMENT_MAX_RETRIES": 0}], indirect=True, ids=["no-retries"])
@pytest.mark.parametrize("amount", [1, 60])
async def test_an_analyser_that_hangs_is_ended_and_others_get_results(
    settings: Settings, worker: forked.Popen, amount: int
) -> None:
    before, after = ([f"{name} {number}" for number in range(amount)] for name in ("before", "after"))
    await analyse_texts(settings, *before, HANG, *after)
    found = results(settings.postgres_dsn)
    assert {found[name].status for name in (*before, *after)} == {"done"}
    assert found[HANG].status == "failed"
    assert found[HANG].error == "deadly: TextTimeout: no result within 15 s"
    await analyse_texts(settings, "after")
    assert results(settings.postgres_dsn)["after"].status == "done"


@pytest.mark.parametrize(
    "settings", [{"COMMENT_MAX_RETRIES": 0, "COMMENT_RESEND_AFTER": 2}], indirect=True, ids=["no-retries"]
)
@pytest.mark.parametrize("worker", [{"HARD_SECONDS": "4"}], indirect=True, ids=["hard-limit"])
async def test_a_comment_that_hangs_until_the_hard_time_limit_fails_alone(
    settings: Settings, worker: forked.Popen
) -> None:
    """The broker does not redeliver that message: the sweep sends its rows again, grouped with others."""
    others = [f"other {number}" for number in range(20)]
    await analyse_texts(settings, *others[:10], DEAF, *others[10:], seconds=150)
    found = results(settings.postgres_dsn)
    assert {name: found[name].status for name in others} == dict.fromkeys(others, "done")
    assert (found[DEAF].status, found[DEAF].error) == ("failed", CUT_SHORT)
    assert worker.poll() is None


@pytest.mark.parametrize("settings", [{"COMMENT_MAX_RETRIES": 0}], indirect=True, ids=["no-retries"])
@pytest.mark.parametrize(
    ("worker", "amount"), [({"SLOW_SECONDS": "0.28"}, 100), ({"SLOW_SECONDS": "2"}, 12), ({"SLOW_SECONDS": "10"}, 3)],
    indirect=["worker"], ids=["short", "medium", "long"],
)  # fmt: skip
async def test_a_slow_analyser_makes_steady_progress_and_no_text_fails(
    settings: Settings, worker: forked.Popen, amount: int
) -> None:
    """Each comment is analysed about once, and results are stored as they are computed."""
    texts = [f"slow {number}" for number in range(amount)]
    async with open_runtime(settings, application="test") as runtime:
        await runtime.pipeline.process(parsed(*(comment(name, name) for name in texts)))
        for least in range(1, amount + 1):
            await until(partial(has_results, settings, least), seconds=45)
        await until(lambda: not outbox(settings.postgres_dsn))
    found = results(settings.postgres_dsn)
    assert {name: found[name].status for name in texts} == dict.fromkeys(texts, "done")
    assert worker.poll() is None
    assert await violated_invariants(settings) == []
