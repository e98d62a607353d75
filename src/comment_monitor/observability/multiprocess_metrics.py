"""Prometheus metrics of several processes in one folder, which survive SIGKILL, restarts and PID reuse.

prometheus_client writes each process's counts to files named by a number of the process, and adds the files up. Here
that name is one that no other process ever has, and a lock says whether its process lives. So the gauges of a process
that was killed end with it, and its counts stay: they are taken into one file, or restarts would fill the disk.
"""

import fcntl
import json
import os
import secrets
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from prometheus_client import values
from prometheus_client.core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from comment_monitor.core.errors import ConfigurationError

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
OWN_PREFIX: Final = "comment-worker-metrics-"
ENDED: Final = "ended.json"
# Bytes of a process's file, more than all its series take, and how many files it has at most.
RESERVED: Final = 262_144
FILES: Final = 6
# Readers take no lock: one that meets a change starts again, at most so often.
TRIES: Final = 10
# What prometheus_client makes of a file that is none of its own.
UNREADABLE: Final = (struct.error, ValueError, RuntimeError)


class _Self:
    """This process among those that share: its name, and the lock that it holds as long as it lives."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._lock = -1
        os.register_at_fork(after_in_child=self._forked)

    def name(self) -> str:
        """Asked at every count."""
        if self._name is None:
            name = f"{os.getpid()}-{secrets.token_hex(4)}"
            folder = Path(os.environ[FOLDER_VARIABLE])
            self._lock = os.open(folder / f"{name}.new", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            # Found under this name, it is held already.
            (folder / f"{name}.new").rename(folder / f"{name}.lock")
            self._name = name
        return self._name

    def _forked(self) -> None:
        """A child is another process, and must not hold its parent's lock after the parent's end."""
        if self._name is not None:
            self._name = None
            os.close(self._lock)


_self: Final = _Self()


class _Reserved(MmapedDict):
    """A file of counts whose room is taken at once: a write into a hole on a full disk ends the process (SIGBUS)."""

    def __init__(self, filename: str, read_mode: bool = False):
        if not read_mode:
            with Path(filename).open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVED)
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]


def _try_reserve(folder: Path) -> None:
    """Raises OSError where there is no room."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, RESERVED * FILES)


def share() -> None:
    """Has every metric made from here on kept in the folder, where one is named; else in this process alone.

    Raises:
        ConfigurationError: the folder can't be used.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        # An empty name would be the working directory to prometheus_client.
        os.environ.pop(FOLDER_VARIABLE, None)
        values.ValueClass = values.MutexValue
        return
    try:
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        values.MmapedDict = _Reserved  # type: ignore[attr-defined]
        _try_reserve(Path(folder))
        values.ValueClass = values.MultiProcessValue(_self.name)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise ConfigurationError(f"{FOLDER_VARIABLE}={folder}: can't be used ({error.strerror}).") from None


def _lives(lock: Path) -> bool:
    """Whether the process of this lock holds it; one whose lock was removed is over."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class _Ended(NamedTuple):
    """The counts of processes that are over, and the files they are from: to be ignored where they are still there."""

    taken: frozenset[str] = frozenset()
    families: tuple[Metric, ...] = ()

    @staticmethod
    def read(folder: Path) -> "_Ended":
        try:
            found = json.loads((folder / ENDED).read_bytes())
        except (FileNotFoundError, ValueError):
            # Unreadable, the machine itself was cut off: counts that start at zero are better than none.
            return _Ended()
        families = []
        for name, documentation, kind, samples in found["families"]:
            family = Metric(name, documentation, kind)
            for sample, labels, value in samples:
                family.add_sample(sample, labels, value)
            families.append(family)
        return _Ended(frozenset(found["taken"]), tuple(families))

    def write(self, folder: Path) -> None:
        families: list[Any] = [
            (one.name, one.documentation, one.type, [(s.name, s.labels, s.value) for s in one.samples])
            for one in self.families
        ]
        new = folder / f"{ENDED}.new"
        new.write_text(json.dumps({"taken": sorted(self.taken), "families": families}))
        new.replace(folder / ENDED)


class SharedCounts(Collector):
    """The sum over all processes that share a folder, those that are over included."""

    def __init__(self, folder: Path):
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """As of now."""
        self._take_ended()
        for _ in range(TRIES):
            before = self._version()
            ended = _Ended.read(self._folder)
            with suppress(FileNotFoundError):
                found = _merge(one for one in self._files() if one.name not in ended.taken)
                if self._version() == before:
                    yield from _added(found, ended.families)
                    return
        raise RuntimeError(f"{self._folder} does not come to rest")

    def _version(self) -> tuple[int, int] | None:
        with suppress(FileNotFoundError):
            found = (self._folder / ENDED).stat()
            return found.st_ino, found.st_mtime_ns
        return None

    def _files(self) -> Iterator[Path]:
        """What counts: of processes that are over, all but their gauges."""
        over = {lock.stem for lock in self._folder.glob("*.lock") if not _lives(lock)}
        for one in self._folder.glob("*.db"):
            is_gauge = one.name.startswith("gauge_")
            # Just made, a file has nothing in it yet.
            if one.stat().st_size and not (is_gauge and one.stem.rpartition("_")[2] in over):
                yield one

    def _take_ended(self) -> None:
        """Takes the counts of processes that are over into one file, then removes theirs.

        Cut short anywhere, it counts nothing twice: the names of what is taken stand in the same file as the sum.
        """
        with _alone(self._folder) as alone:
            if not alone:
                return
            over = [lock for lock in self._folder.glob("*.lock") if not _lives(lock)]
            if not over:
                return
            files = [file for lock in over for file in self._folder.glob(f"*_{lock.stem}.db")]
            counts = [one for one in files if not one.name.startswith("gauge_")]
            ended = _Ended.read(self._folder)
            if fresh := [one for one in counts if one.name not in ended.taken]:
                families = _added(_merge(filter(_readable, fresh)), ended.families)
                _Ended(frozenset(one.name for one in counts), tuple(families)).write(self._folder)
            for file in (*files, *over):
                file.unlink(missing_ok=True)


def _merge(files: Iterable[Path]) -> list[Metric]:
    return list(MultiProcessCollector.merge([str(one) for one in files]))  # type: ignore[no-untyped-call]


def _readable(file: Path) -> bool:
    """Whether it holds counts: one that the machine's own end has spoilt must not cost all others'."""
    try:
        _merge([file])
    except UNREADABLE:
        return False
    return True


def _added(some: Iterable[Metric], others: Iterable[Metric]) -> list[Metric]:
    """Counts of both, added up: counters, and histograms with their buckets."""
    sums = {one.name: one for one in some}
    for other in others:
        family = sums.setdefault(other.name, Metric(other.name, other.documentation, other.type))
        places = {(one.name, *sorted(one.labels.items())): place for place, one in enumerate(family.samples)}
        for sample in other.samples:
            place = places.get((sample.name, *sorted(sample.labels.items())))
            if place is None:
                family.samples.append(sample)
            else:
                old = family.samples[place]
                family.samples[place] = old._replace(value=old.value + sample.value)
    return list(sums.values())


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Yields whether nobody else is at it; who is second need not wait."""
    descriptor = os.open(folder / "taking", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            # Said, not left to the closing: a child forked meanwhile has it open too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


@contextmanager
def own_folder() -> Iterator[None]:
    """A folder of this process and its children, where none is named; those that a kill left behind are removed."""
    if os.environ.get(FOLDER_VARIABLE):
        yield
        return
    _remove_abandoned(Path(tempfile.gettempdir()))
    folder = os.environ[FOLDER_VARIABLE] = tempfile.mkdtemp(prefix=OWN_PREFIX)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(where: Path) -> None:
    for folder in where.glob(f"{OWN_PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            # One that has no lock yet is just being made.
            locks = list(folder.glob("*.lock"))
            if locks and not any(map(_lives, locks)):
                shutil.rmtree(folder, ignore_errors=True)
