"""Fixtures that run `up` and other commands as processes."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support import forked
from tests.support.commands import SERVERS, Done, Run
from tests.support.up import Up


@pytest.fixture(scope="session")
def migrated() -> Iterator[Path]:
    """A data folder on which `up` has run once, so that its databases exist."""
    with tempfile.TemporaryDirectory(prefix="up-") as name:
        # If the tests run as root, PostgreSQL runs as another user, which needs access.
        Path(name).chmod(0o755)
        up = Up(Path(name) / "data").start()
        try:
            up.wait_until_up().ctrl_c()
            assert up.process.wait() == 0, up.output()
        finally:
            up.end()
        yield up.data_dir


MakeUp = Callable[..., Up]


@pytest.fixture
def make_up(migrated: Path) -> Iterator[MakeUp]:
    """Returns a function that makes an `Up` on a copy of that folder; each is ended after the test."""
    made: list[Up] = []
    with tempfile.TemporaryDirectory(prefix="up-") as name:
        Path(name).chmod(0o755)
        subprocess.run(["cp", "-a", migrated, f"{name}/data"], check=True)

        def make(**environment: str) -> Up:
            made.append(Up(Path(name) / "data", **environment))
            return made[-1]

        yield make
        for up in made:
            up.end()


@pytest.fixture
def program(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a command, with the test's own servers."""
    return {name: value for name, value in os.environ.items() if name not in SERVERS} | environment


@pytest.fixture
def ingest(program: dict[str, str], tmp_path: Path) -> Run:
    """Returns a function that runs a command, `ingest` by default, until it ends."""

    def run(*arguments: object, stdin: bytes = b"", command: str = "ingest", **changes: str | None) -> Done:
        variables = {name: value for name, value in {**program, **changes}.items() if value is not None}
        line = [sys.executable, "-m", "comment_monitor", command, *map(str, arguments)]
        return Done(forked.run(line, env=variables, cwd=tmp_path, input=stdin, capture_output=True, check=False))

    return run
