"""`comment-monitor smoke-test` as a process against a real system."""

import os
import sys
from pathlib import Path

import pytest
from tests.conftest import execute
from tests.support import forked
from tests.support.rabbitmq import free_port
from tests.support.system import System


def run(system: System, *arguments: str) -> tuple[int, list[str], str]:
    """Returns exit code, output lines and error output."""
    done = forked.run(
        [sys.executable, "-m", "comment_monitor", "smoke-test", *arguments],
        env={**os.environ, **system.environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines(), done.stderr


async def test_every_step_passes_and_no_data_remains(system: System) -> None:
    await system.start()
    code, lines, error = run(system, "--url", system.url)
    assert (code, error) == (0, "")
    assert len(lines) == 6
    assert all(line.startswith("ok ") for line in lines)
    for table in ("comments", "comment_analyses", "analysis_outbox"):
        assert execute(system.dsn, f"SELECT count(*) FROM {table}") == [(0,)]  # noqa: S608 - the test's own names


async def test_the_keep_option_keeps_the_comment(system: System) -> None:
    await system.start()
    code, lines, _ = run(system, "--url", system.url, "--keep")
    assert code == 0
    ((id_,),) = execute(system.dsn, "SELECT comment_id FROM comments WHERE source = 'smoke-test'")
    assert lines[-1] == f"The comment stays: smoke-test/{id_}"


async def test_a_missing_worker_fails_the_analysis_step_and_no_data_remains(system: System) -> None:
    await system.start(system.orchestrator)
    await system.until_health("ok")
    code, lines, error = run(system, "--url", system.url, "--timeout", "2")
    assert (code, error) == (1, "")
    assert lines[-1] == "FAIL  it is analysed: not within 2 s (no result yet)"
    assert execute(system.dsn, "SELECT count(*) FROM comments") == [(0,)]


async def test_a_refusal_is_printed_with_the_detail_of_the_service(system: System) -> None:
    off = System(system.orchestrator.log.parent, {**system.environment, "COMMENT_MONITORING_ENABLED": "false"})
    off.orchestrator.start()
    try:
        await off.until_healthy()
        await off.until_health("ok", intake="off")
        code, lines, _ = run(off, "--url", off.url, "--timeout", "1")
    finally:
        off.orchestrator.kill()
    assert code == 1
    assert lines[-1].endswith("(answered 503: COMMENT_MONITORING_ENABLED is false here.)")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}", "127.0.0.1:{port}", "ftp://x"], ids=["http", "no-scheme", "ftp"]
)
def test_an_unreachable_address_is_a_one_line_error(system: System, url: str, tmp_path: Path) -> None:
    address = url.format(port=free_port())
    code, lines, error = run(system, "--url", address, "--timeout", "1", "--data-dir", str(tmp_path))
    assert code == 1
    assert "Traceback" not in error
    assert len(lines + error.splitlines()) == 1
