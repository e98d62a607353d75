"""`comment-monitor ingest`, run as a program on files, with the test's own database."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import execute, until
from tests.support import forked
from tests.support.commands import SURNAME, Run, lines, record, table


def stored(dsn: str, columns: str = "comment_id") -> list[Any]:
    rows = execute(dsn, f"SELECT {columns} FROM comments ORDER BY id")  # noqa: S608 - the tests' own names
    return [row[0] if len(row) == 1 else row for row in rows]


def waiting(dsn: str) -> int:
    (row,) = execute(dsn, "SELECT coalesce(sum(cardinality(comment_ids)), 0) FROM analysis_outbox")
    return int(row[0])


def names(numbers: Sequence[int]) -> list[str]:
    return sorted(f"c{number}" for number in numbers)


@pytest.mark.parametrize(
    ("make", "suffix", "packed"),
    [(lines, "jsonl", False), (lines, "jsonl", True), (table, "csv", False), (table, "csv", True)],
    ids=["jsonl", "jsonl.gz", "csv", "csv.gz"],
)
def test_every_file_format_is_stored_exactly_once(
    ingest: Run, dsn: str, tmp_path: Path, make: Callable[..., bytes], suffix: str, packed: bool
) -> None:
    records = [record(number, parent_id="c0", timestamp="2026-01-31T10:30:00+01:00") for number in range(1200)]
    raw = gzip.compress(make(*records)) if packed else make(*records)
    path = tmp_path / f"comments.{suffix}{'.gz' if packed else ''}"
    path.write_bytes(raw)
    first = ingest(path)
    assert (first.code, first.counts, first.err) == (0, (1200, 1200, 0, 0, 0), "")
    columns = "comment_id, source, post_id, text, author, parent_id, posted_at AT TIME ZONE 'UTC' = '2026-01-31 09:30'"
    wanted = [(item["id"], "threads", "p", item["text"], item["author"], "c0", True) for item in records]
    assert sorted(stored(dsn, columns)) == sorted(wanted)
    assert waiting(dsn) == 1200
    again = ingest("-", "--format", suffix, stdin=raw)
    assert (again.code, again.counts, again.err) == (0, (1200, 0, 0, 1200, 0), "")
    assert len(stored(dsn)) == waiting(dsn) == 1200


def test_another_text_is_an_edit_and_a_repeat_in_the_file_is_a_duplicate(ingest: Run, dsn: str) -> None:
    assert ingest("-", stdin=lines(record(1), record(2))).counts == (2, 2, 0, 0, 0)
    changed = record(1, text=f"{SURNAME} changed")
    assert ingest("-", stdin=lines(changed, changed, record(2), record(3))).counts == (4, 1, 1, 2, 0)
    assert stored(dsn, "comment_id, text") == [
        ("c1", changed["text"]),
        ("c2", record(2)["text"]),
        ("c3", record(3)["text"]),
    ]


def test_invalid_lines_are_reported_with_a_reason_and_the_rest_is_stored(ingest: Run, dsn: str) -> None:
    bad: list[tuple[object, str]] = [
        (f'{{"text": "{SURNAME}'.encode(), "not JSON"),
        (b'{"id": "\xff"}', "UTF-8"),
        (record(3, text=""), "text"),
        (record(4, text=f"{SURNAME}" * 2000), "text"),
        (record(5, text=f"{SURNAME}\ud800"), "surrogate"),
        (record(6, author=f"{SURNAME}\0"), "`author` holds a NUL"),
        (record(7, timestamp=SURNAME), "timestamp"),
        (record(8, post_id=None), "`post_id` is missing"),
        (record(9, metadata=[SURNAME]), "metadata"),
        ([SURNAME], "object"),
        (json.dumps(SURNAME).encode(), "object"),
    ]
    records = [item for number, (line, _) in enumerate(bad) for item in (record(f"good{number}"), b"", line)]
    done = ingest("-", stdin=lines(*records))
    assert (done.code, done.counts) == (1, (22, 11, 0, 0, 11))
    assert sorted(stored(dsn)) == sorted(f"cgood{number}" for number in range(11))
    output = done.err.splitlines()
    assert [re.split("[:(]", line)[0].strip() for line in output] == [f"line {3 * number + 3}" for number in range(11)]
    assert "(c3)" in output[2]
    for line, (_, word) in zip(output, bad, strict=True):
        assert word in line


def test_invalid_rows_are_reported_by_line_and_id_and_the_rest_is_stored(ingest: Run, dsn: str) -> None:
    rows = [
        record(1, metadata=""),
        record(2, text="", metadata=""),
        record(3, metadata="{"),
        record(4, metadata='{"a": 1}'),
    ]
    rows.insert(1, record(5, text=f"{SURNAME}\nin two lines", metadata="[]"))
    raw = table(*rows) + f"p,c\udcff,{SURNAME},{SURNAME},\n".encode("utf-8", "surrogateescape")
    done = ingest("-", "--format=csv", stdin=raw)
    assert (done.code, done.counts) == (1, (6, 2, 0, 0, 4))
    assert stored(dsn, "comment_id, metadata->>'a'") == [("c1", None), ("c4", "1")]
    output = [line.partition(": ") for line in done.err.splitlines()]
    assert [where for where, _, _ in output[:3]] == ["line 4 (c5)", "line 5 (c2)", "line 6 (c3)"]
    assert output[3][0].startswith("line 8 ")
    for (_, _, reason), word in zip(output, ("metadata", "text", "`metadata` is not JSON", "not UTF-8"), strict=True):
        assert word in reason


def test_invalid_lines_beyond_twenty_are_only_counted(ingest: Run, dsn: str) -> None:
    done = ingest("-", stdin=lines(record(1), *[b"{"] * 50, record(2)))
    assert (done.code, done.counts) == (1, (52, 2, 0, 0, 50))
    assert done.err.count("line ") == 20
    assert done.err.splitlines()[20:] == ["further rejected lines are only counted"]
    assert stored(dsn) == ["c1", "c2"]


@pytest.mark.parametrize("where", [None, "postgresql://nobody@127.0.0.1:1/nothing"], ids=["unset", "unavailable"])
def test_a_dry_run_reads_the_whole_input_and_needs_no_database(ingest: Run, where: str | None) -> None:
    away: dict[str, str | None] = {"POSTGRES_DSN": where, "REDIS_URL": None}
    good = ingest("-", "--dry-run", stdin=lines(*map(record, range(1500))), **away)
    assert (good.code, good.err) == (0, "")
    assert good.out == "1500 read: 1500 valid, 0 rejected; nothing stored\n"
    bad = ingest("-", "--dry-run", stdin=lines(record(1), b"{", record(2)), **away)
    assert (bad.code, bad.out) == (1, "3 read: 2 valid, 1 rejected; nothing stored\n")
    assert bad.err.startswith("line 2: ")


def test_a_dry_run_stores_nothing_in_an_available_database(ingest: Run, dsn: str) -> None:
    assert ingest("-", "--dry-run", stdin=lines(record(1))).code == 0
    assert stored(dsn) == []
    assert waiting(dsn) == 0


def test_options_set_columns_post_and_source(ingest: Run, dsn: str) -> None:
    row = {"COMMENT_ID": "c1", "AUTHOR": SURNAME, "DATE": "2026-01-31T09:30:00Z", "CONTENT": SURNAME, "CLASS": "1"}
    columns = {"id": "COMMENT_ID", "author": "AUTHOR", "timestamp": "DATE", "text": "CONTENT"}
    options = [f"--column={field}={name}" for field, name in columns.items()]
    done = ingest("-", "--format=csv", *options, "--post-id=video", "--source=youtube", stdin=table(row))
    assert (done.code, done.counts) == (0, (1, 1, 0, 0, 0))
    assert stored(dsn, "source, post_id, comment_id, text, author") == [("youtube", "video", "c1", SURNAME, SURNAME)]


def test_post_and_source_options_apply_only_to_lines_without_them(ingest: Run, dsn: str) -> None:
    bare = record(1)
    del bare["post_id"]
    done = ingest("-", "--post-id=q", "--source=s", stdin=lines(bare, record(2), record(3, source="t")))
    assert (done.code, done.counts) == (0, (3, 3, 0, 0, 0))
    assert sorted(stored(dsn, "comment_id, source, post_id")) == [("c1", "s", "q"), ("c2", "s", "p"), ("c3", "t", "p")]


def test_missing_columns_are_reported(ingest: Run, dsn: str) -> None:
    done = ingest(
        "-", "--format=csv", "--column=text=BODY", stdin=table({"id": "c1", "CONTENT": SURNAME, "text": SURNAME})
    )
    assert done.code == 1
    for word in ("BODY, post_id;", "--column"):
        assert word in done.only_error()
    assert stored(dsn) == []


@pytest.mark.parametrize(
    "option", ["--column=text", "--column=text=", "--column=body=B", "--delimiter=", "--delimiter=ab", "--format=xml"]
)
def test_an_invalid_option_is_reported(ingest: Run, option: str) -> None:
    done = ingest("-", "--format=csv", option, stdin=table(record(1)))
    assert (done.code, done.out) == (2, "")
    assert option[: option.index("=")] in done.err


@pytest.mark.parametrize(("make", "kind"), [(lines, "jsonl"), (table, "csv")], ids=["jsonl", "csv"])
def test_a_damaged_file_is_a_one_line_error_and_the_whole_file_stores_the_rest(
    ingest: Run, dsn: str, make: Callable[..., bytes], kind: str
) -> None:
    # Random texts, so that half of the file holds about half of them.
    packed = gzip.compress(make(*(record(number, parent_id=os.urandom(60).hex()) for number in range(3000))))
    done = ingest("-", "--format", kind, stdin=packed[: len(packed) // 2])
    assert done.code == 1
    found = re.search(r"-: damaged or cut short after line (\d+) ", done.only_error())
    assert found
    before = int(found[1]) - (kind == "csv")
    assert 1000 < before < 2000
    assert done.counts == (before, before, 0, 0, 0)
    kept = stored(dsn)
    assert sorted(kept) == names(range(before))
    again = ingest("-", "--format", kind, stdin=packed)
    assert (again.code, again.counts) == (0, (3000, 3000 - len(kept), 0, len(kept), 0))
    assert sorted(stored(dsn)) == names(range(3000))


def test_an_unreadable_file_is_a_one_line_error(ingest: Run, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.jsonl", tmp_path):
        done = ingest(path)
        assert (done.code, done.out) == (1, "")
        assert str(path) in done.only_error()


def test_a_blank_timestamp_is_an_unknown_time(ingest: Run, dsn: str) -> None:
    blank = ("", "  ", None)
    assert ingest("-", stdin=lines(*(record(n, timestamp=given) for n, given in enumerate(blank)))).counts[1] == 3
    rows = (record(n + 5, timestamp=given) for n, given in enumerate(blank[:2]))
    done = ingest("-", "--format=csv", stdin=table(*rows))
    assert (done.code, done.counts) == (0, (2, 2, 0, 0, 0))
    assert stored(dsn, "posted_at") == [None] * 5


def test_texts_are_kept_exactly_and_a_byte_order_mark_is_ignored(ingest: Run, dsn: str) -> None:
    text = f"\ufeff {SURNAME} e\u0301 🙂\u2028\t\r\n\"',;\\ \ufeff"
    mark = "\ufeff".encode()
    metadata = b'{"n": 12345678901234567890123, "f":1.10}'
    first = lines(record(1, text=text, author=text, metadata="HERE")).replace(b'"HERE"', metadata)
    assert ingest("-", stdin=mark + first).counts == (1, 1, 0, 0, 0)
    second = mark + table(record(2, text=text, author=text))
    assert ingest("-", "--format=csv", stdin=second).counts == (1, 1, 0, 0, 0)
    assert stored(dsn, "text, author, metadata::text") == [(text, text, metadata.decode()), (text, text, None)]


@pytest.mark.parametrize("capacity", [25, 700, 1100])
def test_ingest_works_with_any_queue_capacity(ingest: Run, dsn: str, capacity: int) -> None:
    done = ingest("-", stdin=lines(*map(record, range(6000))), COMMENT_QUEUE_CAPACITY=str(capacity))
    assert (done.code, done.err, done.counts) == (0, "", (6000, 6000, 0, 0, 0))
    assert sorted(stored(dsn)) == names(range(6000))


async def test_a_second_run_completes_a_killed_ingest(
    ingest: Run, program: dict[str, str], dsn: str, tmp_path: Path
) -> None:
    count = 40_000
    path = tmp_path / "many.jsonl"
    path.write_bytes(lines(*map(record, range(count))))
    line = [sys.executable, "-m", "comment_monitor", "ingest", str(path)]
    with forked.Popen(line, env=program, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as killed:
        try:
            await until(lambda: execute(dsn, "SELECT count(*) >= 2000 FROM comments") == [(True,)], seconds=60)
        finally:
            killed.kill()
    assert killed.wait() == -signal.SIGKILL
    # A commit that it requested before the kill is still carried out.
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    await until(lambda: execute(dsn, others) == [(0,)])
    before = len(stored(dsn))
    assert 2000 <= before < count
    again = ingest(path)
    assert (again.code, again.counts) == (0, (count, count - before, 0, before, 0))
    assert sorted(stored(dsn)) == names(range(count))
    assert waiting(dsn) == count
    check = ingest(command="check")
    assert (check.code, check.out.splitlines()[-1]) == (0, "5 of 5 hold")


def test_ctrl_c_ends_ingest_with_a_one_line_error(program: dict[str, str], dsn: str, tmp_path: Path) -> None:
    """Three times, because the reading thread is at another place each time."""
    file = tmp_path / "many.jsonl"
    file.write_bytes(lines(*map(record, range(60_000))))
    for _ in range(3):
        execute(dsn, "DELETE FROM comments")
        line = [sys.executable, "-m", "comment_monitor", "ingest", str(file)]
        with forked.Popen(line, env=program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            try:
                while execute(dsn, "SELECT count(*) FROM comments") == [(0,)]:
                    assert running.poll() is None
                running.send_signal(signal.SIGINT)
                _, output = running.communicate(timeout=60)
            finally:
                running.kill()
        assert running.returncode == 1
        # On a slow machine lines of progress come first.
        *progress, last = output.decode().splitlines()
        assert all(re.fullmatch(r"[0-9,]+ comments \([0-9]+%\)", line_of_progress) for line_of_progress in progress)
        assert last.startswith("Error: interrupted")


@pytest.mark.parametrize("way", ["pipe", "fifo"])
async def test_a_pausing_input_blocks_neither_commits_nor_ctrl_c(
    program: dict[str, str], dsn: str, tmp_path: Path, way: str
) -> None:
    """All lines that were read are committed, no transaction stays open, and Ctrl-C works during the pause."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    line = [sys.executable, "-m", "comment_monitor", "ingest", str(fifo) if way == "fifo" else "-"]
    with forked.Popen(line, env=program, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as paused:
        writer = fifo.open("wb") if way == "fifo" else paused.stdin
        assert writer
        try:
            writer.write(lines(*map(record, range(3100))))
            writer.flush()
            await until(lambda: execute(dsn, "SELECT count(*) = 3100 FROM comments") == [(True,)])
            # A last comment: once it is committed, all comments before it are counted.
            writer.write(lines(record("last")))
            writer.flush()
            await until(lambda: execute(dsn, "SELECT count(*) = 3101 FROM comments") == [(True,)])
            idle = "SELECT count(*) FROM pg_stat_activity WHERE state ~ '^idle in' AND datname = current_database()"
            await until(lambda: execute(dsn, idle) == [(0,)])
            paused.send_signal(signal.SIGINT)
            # The input is still open.
            assert paused.wait(60) == 1
            assert paused.stdout
            # The last comment may be committed too late to be counted.
            assert re.match(rb"(3101|3100) read: \1 stored", paused.stdout.read())
        finally:
            paused.kill()
            writer.close()


@pytest.mark.parametrize(
    ("magic", "name"),
    [(b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\x00", "xz"), (b"BZh9", "bzip2"), (b"PK\x03\x04", "zip")],
    ids=["zstd", "xz", "bzip2", "zip"],
)
def test_an_unsupported_compression_is_reported_with_a_hint(
    ingest: Run, tmp_path: Path, magic: bytes, name: str
) -> None:
    (tmp_path / "some.jsonl").write_bytes(magic + bytes(100))
    done = ingest("some.jsonl", "--dry-run")
    assert (done.code, done.out) == (1, "")
    assert f"compressed with {name}" in done.only_error()
    assert "| comment-monitor ingest -" in done.only_error()
