"""Processes that share their counts through a folder, killed and started in every order; each is a real one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.conftest import project_root
from tests.support.exported import Series, fallen, series, value

from comment_monitor.observability.metrics_server import WithoutUnknown
from comment_monitor.observability.multiprocess_metrics import OWN_PREFIX, SharedCounts

ATTEMPTS: Final = "comment_processing_attempts_total"
QUEUE: Final = "comment_processing_queue_length"
DURATION: Final = "comment_processing_duration_seconds"
# As root or not, a process that has number 1 to itself.
NUMBER_1: Final = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")

Count = Callable[..., "subprocess.Popen[str]"]


def told(folder: Path) -> Series:
    registry = CollectorRegistry()
    registry.register(WithoutUnknown(SharedCounts(folder)))
    return series(generate_latest(registry).decode())


def program(folder: Path, *arguments: str, before: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    command = [*before, sys.executable, *arguments]
    return subprocess.Popen(
        command, env=environment, cwd=project_root(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def count(tmp_path: Path) -> Iterator[Count]:
    """Starts a process that has counted so much once this returns."""
    with ExitStack() as stack:

        def start(attempts: int, queue: str = "-", seconds: str = "-", **more: tuple[str, ...]) -> object:
            one = program(tmp_path, "-m", "tests.support.counting", str(attempts), queue, seconds, **more)
            stack.callback(kill, one)
            assert one.stdout
            one.number = int(one.stdout.readline())  # type: ignore[attr-defined]
            return one

        yield start  # type: ignore[misc]


def kill(one: "subprocess.Popen[str]") -> None:
    one.kill()
    one.communicate()


def end(one: "subprocess.Popen[str]") -> None:
    one.communicate()
    assert one.returncode == 0


def test_what_several_processes_count_is_one_sum(tmp_path: Path, count: Count) -> None:
    count(3, "10", "0.02")
    count(4, "20", "3")
    found = told(tmp_path)
    assert value(found, ATTEMPTS) == 7
    assert value(found, QUEUE) == 30
    assert value(found, f"{DURATION}_count") == 2
    assert [value(found, f"{DURATION}_bucket", le=le) for le in ("0.01", "0.025", "2.0", "5.0")] == [0, 1, 1, 2]


@pytest.mark.parametrize("over", [kill, end])
def test_of_a_process_that_is_over_the_counts_stay_and_the_gauges_go(
    tmp_path: Path, count: Count, over: Callable[["subprocess.Popen[str]"], None]
) -> None:
    one = count(3, "10", "0.02")
    before = told(tmp_path)
    assert (value(before, QUEUE), value(before, "comment_schema_usable")) == (10, 0)
    assert value(before, "comment_analysis_backlog") == 10
    over(one)
    for _ in range(2):
        after = told(tmp_path)
        assert fallen(before, after) == []
        assert value(after, ATTEMPTS) == 3
        assert not [name for name, _ in after if name in {QUEUE, "comment_schema_usable", "comment_analysis_backlog"}]


def test_a_gauge_that_a_process_never_set_is_not_told(tmp_path: Path, count: Count) -> None:
    count(3)
    assert not [name for name, _ in told(tmp_path) if name in {QUEUE, "comment_schema_usable"}]


def test_many_that_were_killed_leave_no_more_files_than_one(tmp_path: Path, count: Count) -> None:
    living = count(1, "5", "0.02")
    sizes = []
    for number in range(1, 13):
        kill(count(2, "7", "3"))
        found = told(tmp_path)
        assert value(found, ATTEMPTS) == 1 + 2 * number
        assert value(found, QUEUE) == 5
        assert value(found, f"{DURATION}_bucket", le="2.0") == 1
        assert value(found, "comment_db_query_duration_seconds_count", query="write_comments") == 1 + number
        sizes.append(len(list(tmp_path.iterdir())))
    assert sizes[-1] == sizes[0] < 10
    assert living.poll() is None


def test_a_number_that_is_given_again_is_another_process(tmp_path: Path, count: Count) -> None:
    """As a container's is at each start."""
    if not shutil.which("unshare") or subprocess.run([*NUMBER_1, "true"], check=False).returncode:
        pytest.skip("this machine gives no process a numbering of its own")
    for number in range(1, 4):
        one = count(2, "25", "-", before=NUMBER_1)
        assert one.number == 1  # type: ignore[attr-defined]
        found = told(tmp_path)
        assert (value(found, ATTEMPTS), value(found, QUEUE)) == (2 * number, 25)
        kill(one)


# Ends at the first, or the second, passing of a step: nothing is written any more.
CUT: Final = """
import os, sys
from pathlib import Path
from comment_monitor.observability.multiprocess_metrics import SharedCounts

def cut(name, passing):
    inner = getattr(Path, name)
    left = [passing]
    def step(*args, **more):
        left[0] -= 1
        if not left[0]:
            os._exit(9)
        return inner(*args, **more)
    setattr(Path, name, step)

cut(sys.argv[1], int(sys.argv[2]))
list(SharedCounts(Path(sys.argv[3])).collect())
"""


@pytest.mark.parametrize(
    ("step", "passing"), [("write_text", 1), ("replace", 1), ("unlink", 1), ("unlink", 2), ("unlink", 4)]
)
def test_taking_in_what_is_over_may_be_cut_short_anywhere(
    tmp_path: Path, count: Count, step: str, passing: int
) -> None:
    for number in range(1, 4):
        for _ in range(2):
            kill(count(5, "25", "0.02"))
        cut = program(tmp_path, "-c", CUT, step, str(passing), str(tmp_path))
        cut.communicate()
        assert cut.returncode == 9
        kill(count(1))
        found = told(tmp_path)
        assert value(found, ATTEMPTS) == 11 * number
        assert value(found, f"{DURATION}_count") == 2 * number


def test_the_sum_never_falls_while_processes_come_go_and_are_looked_at_by_many(tmp_path: Path, count: Count) -> None:
    def look(_: int) -> list[float]:
        seen = []
        while not done:
            seen.append(value(told(tmp_path), ATTEMPTS) or 0)
        return seen

    done: list[bool] = []
    with ThreadPoolExecutor(4) as pool:
        looking = [pool.submit(look, number) for number in range(3)]
        try:
            for _ in range(15):
                kill(count(2, "7", "3"))
        finally:
            done.append(True)
        for one in looking:
            seen = one.result()
            assert len(seen) > 10
            assert seen == sorted(seen)
    assert value(told(tmp_path), ATTEMPTS) == 30


FORK: Final = """
import os, sys, time
from comment_monitor.observability import metrics
metrics.ATTEMPTS.inc(1)
metrics.QUEUE_LENGTH.inc(5)
if os.fork():
    os._exit(0)
metrics.ATTEMPTS.inc(10)
print("counted", flush=True)
sys.stdin.read()
"""


def test_a_child_does_not_keep_its_parents_gauges_alive(tmp_path: Path) -> None:
    child = program(tmp_path, "-c", FORK)
    try:
        assert child.stdout
        assert child.stdout.readline() == "counted\n"
        # The parent ends beside its child, and may be slower.
        child.wait()
        found = told(tmp_path)
        assert (value(found, ATTEMPTS), value(found, QUEUE)) == (11, 0)
    finally:
        child.communicate()
    assert value(told(tmp_path), ATTEMPTS) == 11


@pytest.mark.parametrize("damage", [b"\xff" * 64, b"\x7f\x00", (1000).to_bytes(8, "little") + b"\x00" * 4000, b""])
def test_a_file_that_is_damaged_costs_its_own_counts_only(tmp_path: Path, count: Count, damage: bytes) -> None:
    count(3)
    one = count(4)
    kill(one)
    for file in tmp_path.glob(f"*_{one.number}-*.db"):  # type: ignore[attr-defined]
        file.write_bytes(damage)
    (tmp_path / "ended.json").write_bytes(damage)
    for _ in range(2):
        assert value(told(tmp_path), ATTEMPTS) == 3
    kill(count(5))
    assert value(told(tmp_path), ATTEMPTS) == 8


def run(folder: str | None, cwd: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: one for name, one in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    if folder is not None:
        environment["PROMETHEUS_MULTIPROC_DIR"] = folder
    code = "from comment_monitor.observability import metrics; metrics.ATTEMPTS.inc(1)"
    command = [sys.executable, *(words or ("-c", code))]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    assert run(str(tmp_path / "a" / "b"), tmp_path).returncode == 0
    assert value(told(tmp_path / "a" / "b"), ATTEMPTS) == 1
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0


def test_an_empty_name_is_none(tmp_path: Path) -> None:
    assert run("", tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_not_be_used_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(str(tmp_path / "file"), tmp_path, "-m", "comment_monitor", "serve")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"Error: PROMETHEUS_MULTIPROC_DIR={tmp_path}/file: can't be used (File exists)."
    ]


OWN: Final = """
import sys
from comment_monitor.observability.multiprocess_metrics import own_folder
with own_folder():
    from comment_monitor.observability import metrics
    metrics.ATTEMPTS.inc(1)
    print("there", flush=True)
    sys.stdin.read()
"""


def test_folders_that_a_kill_left_behind_are_removed_by_the_next_and_those_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / f"{OWN_PREFIX}just-made").mkdir()
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)

    def start() -> "subprocess.Popen[str]":
        one = subprocess.Popen(
            [sys.executable, "-c", OWN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=project_root()
        )
        assert one.stdout
        assert one.stdout.readline() == "there\n"
        return one

    def folders() -> set[Path]:
        return set(tmp_path.glob(f"{OWN_PREFIX}*"))

    made = [start() for _ in range(2)]
    try:
        assert len(folders()) == 3
        kill(made[0])
        assert len(folders()) == 3
        made.append(start())
        assert len(folders()) == 3
    finally:
        for one in made[1:]:
            with suppress(ValueError):
                end(one)
    assert folders() == {tmp_path / f"{OWN_PREFIX}just-made"}


LOOKED: Final = """
import sys
from comment_monitor.observability import metrics
metrics.SCHEMA_AT_HEAD.set(int(sys.argv[1]))
print("looked", flush=True)
input()
"""


def test_of_two_releases_at_once_the_one_that_misses_its_migration_is_told(tmp_path: Path) -> None:
    """Whichever looked last."""
    with ExitStack() as stack:
        started = []
        for at_head in "101":
            one = program(tmp_path, "-c", LOOKED, at_head)
            stack.callback(kill, one)
            started.append(one)
            assert one.stdout
            assert one.stdout.readline() == "looked\n"
        assert value(told(tmp_path), "comment_schema_at_head") == 0
        kill(started[1])
        assert value(told(tmp_path), "comment_schema_at_head") == 1
