"""The commands of the documentation, run as written against `comment-monitor up`, print what the pages show."""

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
# Commands that need a fresh checkout or run until Ctrl-C: .ci/first-start and tests/integration/cli/test_up.py.
TESTED_ELSEWHERE: Final = re.compile(r"^make |comment-monitor (serve|worker|up)\b", re.MULTILINE)
EXAMPLE: Final = '{"post_id": "1", "id": "9", "author": "ana", "text": "from a file"}\n'


class Block(NamedTuple):
    """Commands, and the JSON that they print if the page shows it."""

    page: str
    commands: str
    output: str | None


def blocks(page: str) -> list[Block]:
    text = (project_root() / page).read_text()
    found = [Block(page, match[1], match[2]) for match in BLOCK.finditer(text)]
    assert text.count("```bash") == len(found)
    return [block for block in found if not TESTED_ELSEWHERE.search(block.commands)]


class Running(NamedTuple):
    """A running `up` with its data in a folder."""

    folder: Path
    port: int
    metrics_port: int

    def run(self, commands: str) -> "subprocess.CompletedProcess[str]":
        replacements = {
            "localhost:8080": f"127.0.0.1:{self.port}",
            "localhost:9090": f"127.0.0.1:{self.metrics_port}",
            PROGRAM: f"{sys.executable} -m comment_monitor",
        }
        for documented, actual in replacements.items():
            commands = commands.replace(documented, actual)
        quiet = re.sub(r"\bcurl\b", "curl -sS --fail-with-body", commands)
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", quiet], cwd=self.folder, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    # Not pytest's own folder: if the tests run as root, PostgreSQL's user cannot enter it.
    with tempfile.TemporaryDirectory(prefix="docs-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "comments.jsonl").write_text(EXAMPLE)
        up = Running(folder, free_port(), free_port())
        ports = ("--port", str(up.port), "--metrics-port", str(up.metrics_port))
        program = Program(folder, {}, "up", *ports, "--data-dir", str(folder / "data"))
        program.start()
        try:
            asyncio.run(until(lambda: "is up" in program.output or program.process.poll() is not None, seconds=120))
            assert program.process.poll() is None, program.output
            yield up
            assert program.stop() == 0
        finally:
            program.kill()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_prints_the_output_on_the_page(running: Running, page: str) -> None:
    found = blocks(page)
    assert found
    for block in found:
        result = running.run(block.commands)
        assert result.returncode == 0, (block.commands, result.stdout, result.stderr)
        if block.output:
            assert json.loads(result.stdout) == json.loads(block.output)
