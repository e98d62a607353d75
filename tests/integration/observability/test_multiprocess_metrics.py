"""Multi-process metrics through a shared folder, with real processes that are killed and started in every order."""

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
from tests.support import forked
from tests.support.exported import Series, fallen, series, value

from comment_monitor.observability.metrics_server import WithoutUnknown
from comment_monitor.observability.multiprocess_metrics import OWN_PREFIX, SharedCounts

ATTEMPTS: Final = "comment_processing_attempts_total"
QUEUE: Final = "comment_processing_queue_length"
DURATION: Final = "comment_processing_duration_seconds"
# Runs a command as PID 1 of its own namespace, as root or not.
PID_1: Final = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")

Count = Callable[..., "subprocess.Popen[str]"]


def exported(folder: Path) -> Series:
    registry = CollectorRegistry()
    registry.register(WithoutUnknown(SharedCounts(folder)))
    return series(generate_latest(registry).decode())


def program(folder: Path, *arguments: str, before: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    command = [*before, sys.executable, *arguments]
    start = subprocess.Popen if before or arguments[0] != "-m" else forked.Popen
    return start(command, env=environment, cwd=project_root(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def count(tmp_path: Path) -> Iterator[Count]:
    """Returns a function that starts a process and returns once the process has counted this much."""
    with ExitStack() as stack:

        def start(attempts: int, queue: str = "-", seconds: str = "-", **more: tuple[str, ...]) -> object:
            process = program(tmp_path, "-m", "tests.support.counting", str(attempts), queue, seconds, **more)
            stack.callback(kill, process)
            assert process.stdout
            process.number = int(process.stdout.readline())  # type: ignore[attr-defined]
            return process

        yield start  # type: ignore[misc]


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def end(process: "subprocess.Popen[str]") -> None:
    process.communicate()
    assert process.returncode == 0


def test_counts_of_several_processes_are_added(tmp_path: Path, count: Count) -> None:
    count(3, "10", "0.02")
    count(4, "20", "3")
    found = exported(tmp_path)
    assert value(found, ATTEMPTS) == 7
    assert value(found, QUEUE) == 30
    assert value(found, f"{DURATION}_count") == 2
    assert [value(found, f"{DURATION}_bucket", le=le) for le in ("0.01", "0.025", "2.0", "5.0")] == [0, 1, 1, 2]


@pytest.mark.parametrize("stop", [kill, end])
def test_an_ended_process_keeps_its_counts_and_loses_its_gauges(
    tmp_path: Path, count: Count, stop: Callable[["subprocess.Popen[str]"], None]
) -> None:
    process = count(3, "10", "0.02")
    before = exported(tmp_path)
    assert (value(before, QUEUE), value(before, "comment_schema_usable")) == (10, 0)
    assert value(before, "comment_analysis_backlog") == 10
    stop(process)
    for _ in range(2):
        after = exported(tmp_path)
        assert fallen(before, after) == []
        assert value(after, ATTEMPTS) == 3
        assert not [name for name, _ in after if name in {QUEUE, "comment_schema_usable", "comment_analysis_backlog"}]


def test_an_unset_gauge_is_not_exported(tmp_path: Path, count: Count) -> None:
    count(3)
    assert not [name for name, _ in exported(tmp_path) if name in {QUEUE, "comment_schema_usable"}]


def test_many_killed_processes_leave_no_more_files_than_a_single_process(tmp_path: Path, count: Count) -> None:
    living = count(1, "5", "0.02")
    sizes = []
    for number in range(1, 13):
        kill(count(2, "7", "3"))
        found = exported(tmp_path)
        assert value(found, ATTEMPTS) == 1 + 2 * number
        assert value(found, QUEUE) == 5
        assert value(found, f"{DURATION}_bucket", le="2.0") == 1
        assert value(found, "comment_db_query_duration_seconds_count", query="write_comments") == 1 + number
        sizes.append(len(list(tmp_path.iterdir())))
    assert sizes[-1] == sizes[0] < 10
    assert living.poll() is None


def test_a_reused_pid_is_another_process(tmp_path: Path, count: Count) -> None:
    """The first process of a container has PID 1 at each start."""
    if not shutil.which("unshare") or subprocess.run([*PID_1, "true"], check=False).returncode:
        pytest.skip("this machine does not allow PID namespaces")
    for number in range(1, 4):
        process = count(2, "25", "-", before=PID_1)
        assert process.number == 1  # type: ignore[attr-defined]
        found = exported(tmp_path)
        assert (value(found, ATTEMPTS), value(found, QUEUE)) == (2 * number, 25)
        kill(process)


# Exits at the n-th call of a step, before the call.
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
def test_merging_the_counts_of_ended_processes_survives_a_kill_at_any_step(
    tmp_path: Path, count: Count, step: str, passing: int
) -> None:
    for number in range(1, 4):
        for _ in range(2):
            kill(count(5, "25", "0.02"))
        cut = program(tmp_path, "-c", CUT, step, str(passing), str(tmp_path))
        cut.communicate()
        assert cut.returncode == 9
        kill(count(1))
        found = exported(tmp_path)
        assert value(found, ATTEMPTS) == 11 * number
        assert value(found, f"{DURATION}_count") == 2 * number


def test_the_sum_never_falls_while_processes_start_end_and_are_scraped(tmp_path: Path, count: Count) -> None:
    def scrape(_: int) -> list[float]:
        seen = []
        while not done:
            seen.append(value(exported(tmp_path), ATTEMPTS) or 0)
        return seen

    done: list[bool] = []
    with ThreadPoolExecutor(4) as pool:
        scrapes = [pool.submit(scrape, number) for number in range(3)]
        try:
            for _ in range(15):
                kill(count(2, "7", "3"))
        finally:
            done.append(True)
        for future in scrapes:
            seen = future.result()
            assert len(seen) > 10
            assert seen == sorted(seen)
    assert value(exported(tmp_path), ATTEMPTS) == 30


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
        # The parent may end after its child has counted.
        child.wait()
        found = exported(tmp_path)
        assert (value(found, ATTEMPTS), value(found, QUEUE)) == (11, 0)
    finally:
        child.communicate()
    assert value(exported(tmp_path), ATTEMPTS) == 11


@pytest.mark.parametrize(
    "damage",
    [b"\xff" * 64, b"\x7f\x00", (1000).to_bytes(8, "little") + b"\x00" * 4000, b""],
    ids=["garbage", "short", "zeros", "empty"],
)
def test_a_damaged_file_loses_only_its_own_counts(tmp_path: Path, count: Count, damage: bytes) -> None:
    count(3)
    process = count(4)
    kill(process)
    for file in tmp_path.glob(f"*_{process.number}-*.db"):  # type: ignore[attr-defined]
        file.write_bytes(damage)
    (tmp_path / "ended.json").write_bytes(damage)
    for _ in range(2):
        assert value(exported(tmp_path), ATTEMPTS) == 3
    kill(count(5))
    assert value(exported(tmp_path), ATTEMPTS) == 8


def run(folder: str | None, cwd: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: text for name, text in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    if folder is not None:
        environment["PROMETHEUS_MULTIPROC_DIR"] = folder
    code = "from comment_monitor.observability import metrics; metrics.ATTEMPTS.inc(1)"
    command = [sys.executable, *(words or ("-c", code))]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_missing_folder_is_created(tmp_path: Path) -> None:
    assert run(str(tmp_path / "a" / "b"), tmp_path).returncode == 0
    assert value(exported(tmp_path / "a" / "b"), ATTEMPTS) == 1
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0


def test_an_empty_folder_name_means_no_folder(tmp_path: Path) -> None:
    assert run("", tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_folder_is_a_one_line_error(tmp_path: Path) -> None:
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


def test_a_start_removes_folders_of_killed_processes_and_keeps_used_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / f"{OWN_PREFIX}just-made").mkdir()
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)

    def start() -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", OWN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=project_root()
        )
        assert process.stdout
        assert process.stdout.readline() == "there\n"
        return process

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
        for process in made[1:]:
            with suppress(ValueError):
                end(process)
    assert folders() == {tmp_path / f"{OWN_PREFIX}just-made"}


REFRESHED: Final = """
import sys
from comment_monitor.observability import metrics
metrics.SCHEMA_AT_HEAD.set(int(sys.argv[1]))
print("refreshed", flush=True)
input()
"""


def test_a_missing_migration_of_any_running_release_is_exported(tmp_path: Path) -> None:
    """In whichever order they refreshed the gauge."""
    with ExitStack() as stack:
        started = []
        for at_head in "101":
            process = program(tmp_path, "-c", REFRESHED, at_head)
            stack.callback(kill, process)
            started.append(process)
            assert process.stdout
            assert process.stdout.readline() == "refreshed\n"
        assert value(exported(tmp_path), "comment_schema_at_head") == 0
        kill(started[1])
        assert value(exported(tmp_path), "comment_schema_at_head") == 1
