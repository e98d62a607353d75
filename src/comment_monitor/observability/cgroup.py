"""The container's memory and CPU usage and limits, read from its control group (version 2 or 1) at each scrape.

The metric names differ from cAdvisor's: both may be scraped, and a sum must not count a container twice.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

ROOT: Final = Path("/sys/fs/cgroup")
# Version 1 represents "no limit" by a number beyond any machine's memory.
UNLIMITED: Final = 1 << 60

WORKING_SET: Final = (
    "comment_container_memory_working_set_bytes",
    "Memory of this container that can't be reclaimed: the value that its limit applies to.",
)
MEMORY_LIMIT: Final = (
    "comment_container_memory_limit_bytes",
    "Memory that this container may use; without a limit, the machine's memory.",
)
CPU_USAGE: Final = ("comment_container_cpu_usage_seconds_total", "Processor time that this container has used.")
CPU_LIMIT: Final = (
    "comment_container_cpu_limit_cores",
    "Processors that this container may use; without a limit, the machine's processors.",
)
DECLARED: Final = (
    (*WORKING_SET, "gauge"),
    (*MEMORY_LIMIT, "gauge"),
    (*CPU_USAGE, "counter"),
    (*CPU_LIMIT, "gauge"),
)


class Files(NamedTuple):
    """The files in which a version of control groups keeps its figures."""

    used: str
    stat: str
    inactive: str
    limit: str


VERSION_2: Final = Files("memory.current", "memory.stat", "inactive_file", "memory.max")
VERSION_1: Final = Files(
    "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file", "memory/memory.limit_in_bytes"
)


class ContainerCollector(Collector):
    """Exports figures of the control group under `root`; without a control group, no figures."""

    def __init__(self, root: Path = ROOT):
        self._root = root

    def collect(self) -> Iterator[Metric]:
        """Yields the current figures."""
        for files in (VERSION_2, VERSION_1):
            used, inactive = self._number(files.used), self._field(files.stat, files.inactive)
            if used is not None and inactive is not None:
                limit = self._number(files.limit)
                yield GaugeMetricFamily(*WORKING_SET, value=max(0, used - inactive))
                yield GaugeMetricFamily(*MEMORY_LIMIT, value=_machine() if limit is None else min(limit, _machine()))
                break
        usage = self._cpu_usage()
        if usage is not None:
            yield CounterMetricFamily(*CPU_USAGE, value=usage)
            yield GaugeMetricFamily(*CPU_LIMIT, value=self._cpu_limit() or float(os.cpu_count() or 1))

    def _cpu_usage(self) -> float | None:
        microseconds = self._field("cpu.stat", "usage_usec")
        if microseconds is not None:
            return microseconds / 1e6
        nanoseconds = self._number("cpuacct/cpuacct.usage")
        return None if nanoseconds is None else nanoseconds / 1e9

    def _cpu_limit(self) -> float | None:
        quota, _, period = (self._text("cpu.max") or "").partition(" ")
        if not period:
            quota, period = self._text("cpu/cpu.cfs_quota_us") or "", self._text("cpu/cpu.cfs_period_us") or ""
        return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None

    def _number(self, name: str) -> int | None:
        text = self._text(name)
        return int(text) if text and text.isdigit() and int(text) < UNLIMITED else None

    def _field(self, name: str, field: str) -> int | None:
        for line in (self._text(name) or "").splitlines():
            key, _, value = line.partition(" ")
            if key == field and value.isdigit():
                return int(value)
        return None

    def _text(self, name: str) -> str | None:
        try:
            return (self._root / name).read_text().strip()
        except OSError:
            return None


def _machine() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
