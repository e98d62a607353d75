"""A real worker, as processes on RabbitMQ, and comments that end or keep the process which analyses them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import MakeSettings, project_root, until
from tests.support.database import broken_promises, outbox, results
from tests.support.deadly import EXIT, HANG, KILL
from tests.support.rabbitmq import RabbitMQ
from tests.support.requests import comment, parsed

from comment_monitor.config import Settings
from comment_monitor.runtime import open_runtime
from comment_monitor.worker import CUT_SHORT

MATES = ("a", "b", "c")


@pytest.fixture
def settings(make_settings: MakeSettings, rabbitmq: RabbitMQ, request: pytest.FixtureRequest) -> Settings:
    """One retry, so that it is soon over; or as many as a test names."""
    return make_settings(
        CELERY_BROKER_URL=rabbitmq.url,
        COMMENT_PROCESSING_TIMEOUT=15,
        COMMENT_SWEEP_INTERVAL=0.1,
        COMMENT_RESEND_AFTER=600,
        COMMENT_MAX_RETRIES=getattr(request, "param", 1),
    )


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker with one process that analyses."""
    environment = {
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


async def goes_through(settings: Settings, *texts: str) -> None:
    """What a process takes in, publishes and sweeps is analysed to the last comment."""
    async with open_runtime(settings, application="test") as runtime:
        await runtime.pipeline.process(parsed(*(comment(name, name) for name in texts)))
        await until(lambda: not outbox(settings.postgres_dsn), seconds=90)


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


@pytest.mark.parametrize("settings", [0], indirect=True)
async def test_an_analyser_that_does_not_come_back_is_ended_and_costs_the_others_nothing(
    settings: Settings, worker: "subprocess.Popen[bytes]"
) -> None:
    await goes_through(settings, "a", HANG, "b")
    found = results(settings.postgres_dsn)
    assert {found[name].status for name in ("a", "b")} == {"done"}
    assert found[HANG].status == "failed"
    assert found[HANG].error.startswith("deadly: SoftTimeLimitExceeded")
    await goes_through(settings, "after")
    assert results(settings.postgres_dsn)["after"].status == "done"
