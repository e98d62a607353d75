"""A real worker, as processes on RabbitMQ, and comments that end or keep the process which analyses them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.conftest import Broker, MakeSettings, project_root, until
from tests.support.database import broken_promises, outbox, results
from tests.support.deadly import DEAF, EXIT, HANG, KILL
from tests.support.requests import comment, parsed

from comment_monitor.analysis.batch_processor import CUT_SHORT
from comment_monitor.core.config import Settings
from comment_monitor.runtime import open_runtime

MATES = ("a", "b", "c")


@pytest.fixture
def settings(make_settings: MakeSettings, rabbitmq: Broker, request: pytest.FixtureRequest) -> Settings:
    """One retry, so that it is soon over; or as a test says."""
    variables: dict[str, object] = {
        "CELERY_BROKER_URL": rabbitmq.url,
        "COMMENT_PROCESSING_TIMEOUT": 15,
        "COMMENT_SWEEP_INTERVAL": 0.1,
        "COMMENT_RESEND_AFTER": 600,
        "COMMENT_MAX_RETRIES": 1,
    }
    return make_settings(**variables | getattr(request, "param", {}))


@pytest.fixture
def worker(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker with one process that analyses, with variables of its own."""
    environment = {
        **getattr(request, "param", {}),
        "POSTGRES_DSN": settings.postgres_dsn,
        "CELERY_BROKER_URL": settings.broker_url,
        "COMMENT_PROCESSING_TIMEOUT": str(settings.processing_timeout),
        "COMMENT_MAX_RETRIES": str(settings.max_retries),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
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


async def goes_through(settings: Settings, *texts: str, seconds: float = 90) -> None:
    """What a process takes in, publishes and sweeps is analysed to the last comment."""
    async with open_runtime(settings, application="test") as runtime:
        await runtime.pipeline.process(parsed(*(comment(name, name) for name in texts)))
        await until(lambda: not outbox(settings.postgres_dsn), seconds=seconds)


@pytest.mark.parametrize("word", [EXIT, KILL])
async def test_a_comment_that_kills_its_process_is_found_out_and_its_mates_are_analysed(
    settings: Settings, worker: "subprocess.Popen[bytes]", word: str
) -> None:
    await goes_through(settings, *MATES, word)
    found = results(settings.postgres_dsn)
    assert {name: found[name].status for name in MATES} == dict.fromkeys(MATES, "done")
    assert (found[word].status, found[word].error) == ("failed", CUT_SHORT)
    await goes_through(settings, "after")
    assert results(settings.postgres_dsn)["after"].status == "done"
    assert worker.poll() is None
    assert await broken_promises(settings) == []


async def test_a_killer_among_many_batches_takes_none_of_them_with_it(
    settings: Settings, worker: "subprocess.Popen[bytes]"
) -> None:
    mates = [f"mate {number}" for number in range(150)]
    await goes_through(settings, *mates[:75], KILL, *mates[75:])
    found = results(settings.postgres_dsn)
    assert {name: found[name].status for name in mates} == dict.fromkeys(mates, "done")
    assert (found[KILL].status, found[KILL].error) == ("failed", CUT_SHORT)
    assert worker.poll() is None
    assert await broken_promises(settings) == []


async def test_two_killers_in_one_batch_are_both_found_out(
    settings: Settings, worker: "subprocess.Popen[bytes]"
) -> None:
    await goes_through(settings, "a", EXIT, "b", KILL)
    states = {name: one.status for name, one in results(settings.postgres_dsn).items()}
    assert states == {"a": "done", "b": "done", EXIT: "failed", KILL: "failed"}


@pytest.mark.parametrize("settings", [{"COMMENT_MAX_RETRIES": 0}], indirect=True)
@pytest.mark.parametrize("amount", [1, 60])
async def test_an_analyser_that_does_not_come_back_is_ended_and_costs_the_others_nothing(
    settings: Settings, worker: "subprocess.Popen[bytes]", amount: int
) -> None:
    before, after = ([f"{name} {number}" for number in range(amount)] for name in ("before", "after"))
    await goes_through(settings, *before, HANG, *after)
    found = results(settings.postgres_dsn)
    assert {found[name].status for name in (*before, *after)} == {"done"}
    assert found[HANG].status == "failed"
    assert found[HANG].error == "deadly: TextTimeout: no result within 15 s"
    await goes_through(settings, "after")
    assert results(settings.postgres_dsn)["after"].status == "done"


@pytest.mark.parametrize("settings", [{"COMMENT_MAX_RETRIES": 0, "COMMENT_RESEND_AFTER": 2}], indirect=True)
@pytest.mark.parametrize("worker", [{"HARD_SECONDS": "4"}], indirect=True)
async def test_a_comment_that_keeps_its_process_until_it_is_killed_is_found_out_too(
    settings: Settings, worker: "subprocess.Popen[bytes]"
) -> None:
    """The broker does not deliver that message again: the sweep sends its rows, in a group with others."""
    mates = [f"mate {number}" for number in range(20)]
    await goes_through(settings, *mates[:10], DEAF, *mates[10:], seconds=150)
    found = results(settings.postgres_dsn)
    assert {name: found[name].status for name in mates} == dict.fromkeys(mates, "done")
    assert (found[DEAF].status, found[DEAF].error) == ("failed", CUT_SHORT)
    assert worker.poll() is None


@pytest.mark.parametrize("settings", [{"COMMENT_MAX_RETRIES": 0}], indirect=True)
@pytest.mark.parametrize(
    ("worker", "amount"), [({"SLOW_SECONDS": "0.28"}, 100), ({"SLOW_SECONDS": "2"}, 12), ({"SLOW_SECONDS": "10"}, 3)],
    indirect=["worker"],
)  # fmt: skip
async def test_an_analyser_that_is_slow_makes_steady_progress_and_no_text_fails(
    settings: Settings, worker: "subprocess.Popen[bytes]", amount: int
) -> None:
    """Each comment costs its time, about once, and results are stored as they come."""
    texts = [f"slow {number}" for number in range(amount)]
    async with open_runtime(settings, application="test") as runtime:
        await runtime.pipeline.process(parsed(*(comment(name, name) for name in texts)))
        for least in range(1, amount + 1):
            await until(partial(has_results, settings, least), seconds=45)
        await until(lambda: not outbox(settings.postgres_dsn))
    found = results(settings.postgres_dsn)
    assert {name: found[name].status for name in texts} == dict.fromkeys(texts, "done")
    assert worker.poll() is None
    assert await broken_promises(settings) == []
