"""The commands of the pages do what the pages say, run as written against a running `up`."""

import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from tests.conftest import project_root, until
from tests.support.rabbitmq import free_port
from tests.support.system import Program

PAGES: Final = ("README.md", "docs/user-guide.md", "docs/operations.md", "docs/logs-and-traces.md")
BLOCK: Final = re.compile(r"^```bash\n(.*?)^```\n(?:```json\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
PROGRAM: Final = ".venv/bin/comment-monitor"
# What needs a fresh checkout, or runs until Ctrl-C: .ci/first-start and tests/integration/cli/test_up.py.
ELSEWHERE: Final = re.compile(r"^make |comment-monitor (serve|worker|up)\b", re.MULTILINE)
EXAMPLE: Final = '{"post_id": "1", "id": "9", "author": "ana", "text": "from a file"}\n'


class Block(NamedTuple):
    """Commands, and the JSON that they print where the page shows it."""

    page: str
    commands: str
    output: str | None


def blocks(page: str) -> list[Block]:
    text = (project_root() / page).read_text()
    found = [Block(page, match[1], match[2]) for match in BLOCK.finditer(text)]
    assert text.count("```bash") == len(found)
    return [one for one in found if not ELSEWHERE.search(one.commands)]


class Running(NamedTuple):
    """A running `up` with ./data in a folder."""

    folder: Path
    port: int
    metrics_port: int

    def run(self, commands: str) -> "subprocess.CompletedProcess[str]":
        ours = {
            "localhost:8080": f"127.0.0.1:{self.port}",
            "localhost:9090": f"127.0.0.1:{self.metrics_port}",
            PROGRAM: f"{sys.executable} -m comment_monitor",
        }
        for theirs, mine in ours.items():
            commands = commands.replace(theirs, mine)
        quiet = re.sub(r"\bcurl\b", "curl -sS --fail-with-body", commands)
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", quiet], cwd=self.folder, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    # Not pytest's own folder: run as root, PostgreSQL's user could not enter it.
    with tempfile.TemporaryDirectory(prefix="docs-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "comments.jsonl").write_text(EXAMPLE)
        one = Running(folder, free_port(), free_port())
        ports = ("--port", str(one.port), "--metrics-port", str(one.metrics_port))
        program = Program(folder, {}, "up", *ports, "--data-dir", str(folder / "data"))
        program.start()
        try:
            asyncio.run(until(lambda: "is up" in program.output or program.process.poll() is not None, seconds=120))
            assert program.process.poll() is None, program.output
            yield one
            assert program.stop() == 0
        finally:
            program.kill()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_works_and_prints_what_it_shows(running: Running, page: str) -> None:
    found = blocks(page)
    assert found
    for block in found:
        done = running.run(block.commands)
        assert done.returncode == 0, (block.commands, done.stdout, done.stderr)
        if block.output:
            assert json.loads(done.stdout) == json.loads(block.output)
