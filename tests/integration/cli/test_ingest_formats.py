"""`comment-monitor ingest`, run as a program on files of other tools and on damaged files."""

import gzip
import json
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import execute, until
from tests.support import forked
from tests.support.commands import SURNAME, Run, lines, record

HEADER = "id,author,post_id,text\n"


def stored(dsn: str, columns: str = "comment_id") -> list[Any]:
    rows = execute(dsn, f"SELECT {columns} FROM comments ORDER BY id")  # noqa: S608 - the tests' own names
    return [row[0] if len(row) == 1 else row for row in rows]


def test_invalid_csv_lines_are_reported_and_the_rest_is_stored(ingest: Run, dsn: str, tmp_path: Path) -> None:
    rows = f'1,ana,p,{SURNAME}\n2,b,p,"{SURNAME}" he said\n3,c,p,"never closed\n4,d,p,"two\nlines"\n,,,\n5,e,p,y,,\n'
    (tmp_path / "Some.CSV.GZ").write_bytes(gzip.compress((HEADER + rows).encode()))
    done = ingest("Some.CSV.GZ")
    assert (done.code, done.counts) == (1, (5, 3, 0, 0, 2))
    assert done.out.splitlines()[0] == "2 lines were left out as invalid CSV, and counted as rejected"
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["line 3", "line 4"]
    assert stored(dsn, "comment_id, text") == [("1", SURNAME), ("4", "two\nlines"), ("5", "y")]


def test_a_preset_reads_the_file_of_another_tool(ingest: Run, dsn: str) -> None:
    item = {
        "cid": "Ux.9",
        "text": SURNAME,
        "author": "@a",
        "channel": "UC1",
        "votes": "1.2K",
        "time_parsed": 1769852400.0,
    }
    options = ("-", "--preset=youtube-comment-downloader")
    refused = ingest(*options, stdin=lines(item))
    assert (refused.code, refused.out) == (2, "")
    assert "needs --post-id: its lines do not name the video" in " ".join(refused.err.split())
    done = ingest(*options, "--post-id=v", stdin=lines(item, {**item, "cid": "Ux"}))
    assert (done.code, done.counts, done.err) == (0, (2, 2, 0, 0, 0), "")
    wanted = [("youtube", "v", "Ux.9", "Ux"), ("youtube", "v", "Ux", None)]
    assert sorted(stored(dsn, "source, post_id, comment_id, parent_id"), reverse=True, key=lambda row: row[2]) == wanted


def test_ids_that_are_unique_within_a_post_are_stored_with_their_post(ingest: Run, dsn: str) -> None:
    done = ingest("-", "--id-scope=post", stdin=lines(record(1), record(1, post_id="q", parent_id="c0")))
    assert (done.code, done.counts) == (0, (2, 2, 0, 0, 0))
    assert stored(dsn, "comment_id, parent_id") == [("p/c1", None), ("q/c1", "q/c0")]


def test_every_rejected_line_is_written_to_the_given_file(ingest: Run, tmp_path: Path) -> None:
    rows = lines(*(record(number, text=" ") for number in range(25)), record(99))
    done = ingest("-", "--rejected", "bad.jsonl", stdin=rows)
    assert (done.code, done.counts) == (1, (26, 1, 0, 0, 25))
    assert done.err.splitlines()[-1] == "further rejected lines are in the file"
    assert "--rejected" not in done.out
    found = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [rejected["line"] for rejected in found] == list(range(1, 26))
    assert found[24] == {"line": 25, "id": "c24", "reason": "`text` is blank"}
    assert ingest("-", stdin=rows).out.startswith("--rejected PATH writes")


def test_the_file_of_rejected_lines_must_differ_from_the_input(ingest: Run, dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "comments.jsonl"
    file.write_bytes(lines(record(1), record(2, text=" ")))
    before = file.read_bytes()
    (tmp_path / "link").symlink_to(file)
    for name in ("comments.jsonl", "./comments.jsonl", "link"):
        done = ingest("comments.jsonl", "--rejected", name)
        assert done.code == 2
        assert "is the file that is read" in " ".join(done.err.split())
    assert file.read_bytes() == before
    assert stored(dsn) == []


def test_an_unwritable_file_of_rejected_lines_is_reported_and_loses_no_comment(ingest: Run, dsn: str) -> None:
    rows = lines(record(1, text=" "), record(2), record(3, text=" "))
    for path, words in (("nowhere/bad.jsonl", "No such file or directory"), (".", "Is a directory")):
        assert words in ingest("-", "--rejected", path, stdin=rows).only_error()
    done = ingest("-", "--rejected", "/dev/full", stdin=rows)
    assert (done.code, done.counts) == (1, (3, 1, 0, 0, 2))
    assert done.err.count("/dev/full can't be written: No space left on device.") == 1
    assert [line.split(":")[0] for line in done.err.splitlines() if line.startswith("line ")] == [
        "line 1 (c1)",
        "line 3 (c3)",
    ]
    assert stored(dsn) == ["c2"]


def test_ids_that_repeat_across_posts_are_conflicts_with_a_hint(ingest: Run, dsn: str) -> None:
    done = ingest("-", stdin=lines(record(1), record(1, post_id="q"), record(2)))
    assert (done.code, done.counts) == (1, (3, 2, 0, 0, 1))
    assert done.err == "line 2 (c1): id c1 belongs to another comment (post p)\n"
    hint = done.out.splitlines()[0]
    assert hint.startswith("Conflicts: 1. ")
    assert "--id-scope post" in hint
    assert stored(dsn) == ["c1", "c2"]


def test_a_column_option_takes_a_path_of_members(ingest: Run, dsn: str) -> None:
    item = {"n": 7, "user": {"name": "x"}, "body": {"text": SURNAME}, "thread": 3}
    columns = ("id=n", "author=user.name", "text=body.text", "post_id=thread")
    done = ingest("-", *(f"--column={column}" for column in columns), stdin=lines(item))
    assert (done.code, done.counts) == (0, (1, 1, 0, 0, 0))
    assert stored(dsn, "post_id, comment_id, author") == [("3", "7", "x")]


def test_another_encoding_is_detected_and_read_with_the_option(ingest: Run, dsn: str, tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_bytes((HEADER + "1,Zoé,p,ça va “bien”\n").encode("cp1252"))
    refused = ingest("old.csv")
    assert (refused.code, refused.out) == (1, "")
    assert "--encoding windows-1252 reads it" in refused.only_error()
    assert ingest("old.csv", "--encoding=windows-1252").counts == (1, 1, 0, 0, 0)
    assert stored(dsn, "author, text") == [("Zoé", "ça va “bien”")]


@pytest.mark.parametrize(
    "name",
    ["nope", "rot13", "base64", "punycodes", ""],
    ids=["unknown", "rot13", "base64", "misspelled", "empty"],
)
def test_an_unknown_encoding_is_reported(ingest: Run, name: str) -> None:
    done = ingest("-", f"--encoding={name}", "--dry-run", stdin=lines(record(1)))
    assert (done.code, done.out) == (2, "")
    assert "--encoding" in done.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "https://example.com/comments.jsonl",
            "`curl -fsSL https://example.com/comments.jsonl | comment-monitor ingest -`",
        ),
        ("file:///tmp/comments.jsonl", "/tmp/comments.jsonl"),  # noqa: S108 - only named
        (".", "is a folder"),
    ],
)
def test_an_input_that_is_not_a_file_is_reported_with_a_hint(ingest: Run, name: str, words: str) -> None:
    done = ingest(name, "--dry-run")
    assert (done.code, done.out) == (1, "")
    assert words in done.only_error()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("lines_before", [0, 1100])
async def test_a_signal_ends_ingest_with_a_hint_how_to_continue(
    program: dict[str, str], dsn: str, tmp_path: Path, sent: signal.Signals, lines_before: int
) -> None:
    """Before the first line arrives, and after some comments are stored."""
    line = [sys.executable, "-m", "comment_monitor", "ingest", "-"]
    # Not forked: the copies of a forked process's descriptors look like an open input.
    with subprocess.Popen(  # noqa: ASYNC220 - it does not wait
        line, env=program, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        try:
            assert running.stdin
            assert running.stdout
            assert running.stderr
            running.stdin.write(lines(*map(record, range(lines_before))))
            running.stdin.flush()
            await until(lambda: execute(dsn, "SELECT count(*) FROM comments") == [(lines_before,)])
            # Wait until the input is open: without a line nothing else is visible from outside.
            await until(lambda: _reads(running.pid))
            running.send_signal(sent)
            assert running.wait(60) == 1
            assert re.search(rb"\d+ read: ", running.stdout.read())
            error = running.stderr.read().decode()
            assert "Error: interrupted; " in error
            assert "Run the same command again to go on" in error
            assert "Traceback" not in error
        finally:
            running.kill()


def _reads(pid: int) -> bool:
    """Returns whether the program has a second descriptor of its input."""
    folder = Path(f"/proc/{pid}/fd")
    own, names = (folder / "0").readlink(), []
    for file in folder.iterdir():
        # A descriptor may be closed in between.
        with suppress(FileNotFoundError):
            names.append(file.readlink())
    return names.count(own) > 1


async def test_a_single_line_of_an_open_pipe_is_stored(program: dict[str, str], dsn: str, tmp_path: Path) -> None:
    for number, first in enumerate((json.dumps(record("j")), HEADER + "c,a,p,x")):
        line = [sys.executable, "-m", "comment_monitor", "ingest", "-"]
        with forked.Popen(line, env=program, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
            try:
                assert running.stdin
                running.stdin.write(f"{first}\n".encode())
                running.stdin.flush()
                await until(lambda n=number: len(stored(dsn)) == n + 1)  # type: ignore[misc]
                running.stdin.close()
                assert running.wait(60) == 0
            finally:
                running.kill()
