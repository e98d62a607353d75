"""Metrics of the container, read from the files of control groups version 1 and 2."""

import os
from pathlib import Path
from typing import Final

import pytest

from comment_monitor.observability.cgroup import DECLARED, ContainerCollector

VERSION_2 = {
    "memory.current": "1000000\n",
    "memory.stat": "anon 700000\ninactive_file 200000\n",
    "memory.max": "2000000\n",
    "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
    "cpu.max": "150000 100000\n",
}
VERSION_1 = {
    "memory/memory.usage_in_bytes": "1000000\n",
    "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 200000\n",
    "memory/memory.limit_in_bytes": "2000000\n",
    "cpuacct/cpuacct.usage": "2500000000\n",
    "cpu/cpu.cfs_quota_us": "150000\n",
    "cpu/cpu.cfs_period_us": "100000\n",
}
UNLIMITED = (
    {"memory.max": "max\n", "cpu.max": "max 100000\n"},
    {"memory/memory.limit_in_bytes": "9223372036854771712\n", "cpu/cpu.cfs_quota_us": "-1\n"},
)


def collect(root: Path, files: dict[str, str]) -> dict[str, float]:
    """Returns the value of each metric that a control group with these files exports."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    found = list(ContainerCollector(root).collect())
    assert {metric.name for metric in found} <= {name.removesuffix("_total") for name, _, _ in DECLARED}
    return {sample.name: sample.value for metric in found for sample in metric.samples}


@pytest.mark.parametrize("files", [VERSION_2, VERSION_1], ids=["version-2", "version-1"])
def test_usage_and_limits_are_read(tmp_path: Path, files: dict[str, str]) -> None:
    assert collect(tmp_path, files) == {
        "comment_container_memory_working_set_bytes": 800_000,
        "comment_container_memory_limit_bytes": 2_000_000,
        "comment_container_cpu_usage_seconds_total": 2.5,
        "comment_container_cpu_limit_cores": 1.5,
    }


@pytest.mark.parametrize(
    ("files", "changes"), [(VERSION_2, UNLIMITED[0]), (VERSION_1, UNLIMITED[1])], ids=["version-2", "version-1"]
)
def test_without_a_limit_the_size_of_the_machine_is_exported(
    tmp_path: Path, files: dict[str, str], changes: dict[str, str]
) -> None:
    found = collect(tmp_path, {**files, **changes})
    assert found["comment_container_memory_limit_bytes"] > 100_000_000
    assert found["comment_container_cpu_limit_cores"] >= 1


INCOMPLETE: Final[tuple[dict[str, str], ...]] = (
    {},
    {"memory.current": "", "cpu.stat": "nonsense"},
    {"memory.current": "1000\n", "memory.max": "max\n", "cpu.max": "max 100000\n"},
    # Folders in place of the files: not even root can read them.
    {"memory.current/x": "", "memory.stat/x": "", "cpu.stat/x": "", "memory/memory.stat/x": "", "cpuacct/x": ""},
)


@pytest.mark.parametrize("files", INCOMPLETE, ids=["no-files", "invalid", "no-statistics", "unreadable"])
def test_missing_or_unreadable_files_export_no_metrics(tmp_path: Path, files: dict[str, str]) -> None:
    assert collect(tmp_path, files) == {}


def test_memory_metrics_do_not_need_the_cpu_files(tmp_path: Path) -> None:
    files = {name: text for name, text in VERSION_2.items() if name.startswith("memory")}
    assert set(collect(tmp_path, files)) == {
        "comment_container_memory_working_set_bytes",
        "comment_container_memory_limit_bytes",
    }


@pytest.mark.parametrize("period", ["0", "", "-1"], ids=["zero", "empty", "negative"])
def test_an_invalid_cpu_period_is_no_limit(tmp_path: Path, period: str) -> None:
    found = collect(tmp_path, {**VERSION_2, "cpu.max": f"150000 {period}\n"})
    assert found["comment_container_cpu_limit_cores"] == os.cpu_count()


def test_the_control_group_of_this_process_is_read() -> None:
    """Checks nothing on a machine without control groups."""
    names = {sample.name for metric in ContainerCollector().collect() for sample in metric.samples}
    if Path("/sys/fs/cgroup/memory.current").exists() or Path("/sys/fs/cgroup/memory").exists():
        assert "comment_container_memory_working_set_bytes" in names
