"""Text of others that commands print can't move a terminal's cursor, set colours, reverse text, or begin a line."""

import ast
import http.server
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import execute
from tests.support.commands import Run

from comment_monitor import cli
from comment_monitor.core.printable import HARMLESS, all_printable, printable

# An id, a file name or a server's text that clears the screen, sets the title, reverses text, or begins a line.
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\b\x7f\n4 read: 4 stored\u202egnp\u2066\u2028\u0085"
FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


def assert_harmless(output: str) -> None:
    assert FORBIDDEN.search(output) is None, ascii(output)
    assert not any(line.startswith("4 read") for line in output.splitlines()), output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Grüße 你好 😀", "Grüße 你好 😀"),
        ("👨\u200d👩", "👨\u200d👩"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\u202e\u2066\ufeff", "\\u202e\\u2066\\ufeff"),
        ("\x9b\x85\x7f", "\\x9b\\x85\\x7f"),
        ("\udcff", "\\udcff"),
        ("\U000e0020", "\\U000e0020"),
    ],
)
def test_unprintable_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert all_printable({text: [text, (1, None)]}) == {shown: [shown, [1, None]]}
    assert all(character == printable(character) for character in HARMLESS)


# `status` prints text that is already printable; `ingest` writes JSON into a file.
EXCEPTIONS = {"printing.py": {"click.echo"}, "status.py": {"click.echo", "console.print"}, "ingest.py": {"print"}}


def test_commands_print_only_through_the_printing_module() -> None:
    functions = {"click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write", "console.print"}
    for file in Path(cli.__file__).parent.glob("*.py"):
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)}
        assert calls & functions <= EXCEPTIONS.get(file.name, set()), file


def test_ingest_escapes_invalid_lines(ingest: Run, tmp_path: Path) -> None:
    lines = [
        {"post_id": "p", "id": EVIL, "text": ""},
        {"post_id": "p", "id": "1", "text": "x", EVIL: 1, "timestamp": EVIL},
    ]
    (tmp_path / "evil.jsonl").write_text(
        "".join(f"{json.dumps(item)}\n" for item in lines) + "{" + EVIL.replace("\n", "")
    )
    done = ingest("evil.jsonl")
    assert_harmless(done.out + done.err)
    assert "\\x1b[2J" in done.err
    (tmp_path / "evil.csv").write_text(f'id,{EVIL.replace(chr(10), "")},text\n"{EVIL}",p,\n', newline="")
    done = ingest("evil.csv", "--post-id", "p")
    assert_harmless(done.out + done.err)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("ingest", (EVIL,)), ("ingest", ("a", EVIL)), ("migrate", (EVIL,)), ("check", (f"--{EVIL}",)),
        ("status", ("--url", f"http://127.0.0.1:1/{EVIL}")), (f"nosuch{EVIL}", ()),
    ],
    ids=["file", "extra-file", "revision", "option", "url", "command"],
)  # fmt: skip
def test_command_line_arguments_are_escaped(command: str, arguments: tuple[str, ...], ingest: Run) -> None:
    """A shell may insert such names of files in a folder."""
    done = ingest(*arguments, command=command)
    assert done.code
    assert_harmless(done.out + done.err)


def test_check_escapes_examples(ingest: Run, dsn: str) -> None:
    execute(dsn, "ALTER TABLE comments DROP CONSTRAINT comments_identity")
    identity = "E'\\x1b[2J\\x0a4 read: 4 stored\\u202e'"
    execute(
        dsn,
        "INSERT INTO comments (source, comment_id, post_id, author, text)"  # noqa: S608
        f" SELECT 'threads', {identity}, '', '', '' FROM generate_series(1, 2)",
    )
    done = ingest(command="check")
    assert "threads \\x1b[2J\\n4 read: 4 stored\\u202e" in done.out
    assert_harmless(done.out + done.err)


@pytest.fixture
def evil_service() -> Iterator[str]:
    """A service whose responses have such a text in every place."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                label = EVIL.replace("\n", "\\n")
                body = f'comment_processing_errors_total{{reason="{label}"}} 5\n'
                body += f'comment_invariant_violations{{invariant="{label}"}} 5\n'
                kind = "text/plain"
            else:
                body, kind = json.dumps({"status": EVIL, "checks": {EVIL: EVIL}, "detail": EVIL}), "application/json"
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_responses_of_a_service_are_escaped(ingest: Run, evil_service: str) -> None:
    for command, arguments in (
        ("status", ("--metrics-url", f"{evil_service}/metrics")),
        ("status", ("--metrics-url", f"{evil_service}/metrics", "--json")),
        ("smoke-test", ("--timeout", "1")),
    ):
        done = ingest("--url", evil_service, *arguments, command=command)
        assert_harmless(done.out + done.err)


def test_log_lines_on_a_terminal_are_escaped() -> None:
    master, slave = pty.openpty()
    script = (
        "import logging, sys; from comment_monitor.observability import logs as log; log.configure('INFO');"
        "log.get('x').warning(sys.argv[1], id=sys.argv[1]); logging.getLogger('celery').warning(sys.argv[1]);"
        "log.from_a_signal('x', sys.argv[1])"
    )
    with os.fdopen(master, "rb", 0) as terminal:
        subprocess.run([sys.executable, "-c", script, EVIL.replace("\0", "")], stderr=slave, check=True)
        os.close(slave)
        shown = b""
        try:
            while part := terminal.read(65536):
                shown += part
        except OSError:
            pass
    # The renderer's own colours and the terminal's line ends are allowed.
    assert_harmless(re.sub("\x1b\\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n"))
