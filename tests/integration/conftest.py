"""A running `up`, and other commands, for the tests that need one."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.commands import SERVERS, Done, Run
from tests.support.up import Up


@pytest.fixture(scope="session")
def migrated() -> Iterator[Path]:
    """A data folder that was up once."""
    with tempfile.TemporaryDirectory(prefix="up-") as name:
        # Open to the user that PostgreSQL runs as where we are root.
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
    """Makes starts on a copy of that folder, and ends them."""
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
    """The variables of a run."""
    return {name: value for name, value in os.environ.items() if name not in SERVERS} | environment


@pytest.fixture
def ingest(program: dict[str, str], tmp_path: Path) -> Run:
    """Runs it to its end."""

    def run(*arguments: object, stdin: bytes = b"", command: str = "ingest", **changes: str | None) -> Done:
        variables = {name: value for name, value in {**program, **changes}.items() if value is not None}
        line = [sys.executable, "-m", "comment_monitor", command, *map(str, arguments)]
        return Done(subprocess.run(line, env=variables, cwd=tmp_path, input=stdin, capture_output=True, check=False))

    return run
