"""Prometheus metrics of several processes in one folder, which survive SIGKILL, restarts and PID reuse.

prometheus_client writes each process's counts to files that are named by its PID, and sums the files. Here a random
token is added to the PID, so that the name is unique, and a lock shows whether the process is alive. The gauges of an
ended process are omitted, and its counts are merged into one file: otherwise restarts would fill the disk.
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
from prometheus_client.core import Metric, Sample
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from comment_monitor.core.errors import ConfigurationError

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
OWN_PREFIX: Final = "comment-worker-metrics-"
ENDED: Final = "ended.json"
# Bytes that are preallocated for each file of a process: more than all its series need.
RESERVED: Final = 262_144
# The maximum number of files of a process.
FILES: Final = 6
# The maximum number of attempts to read the sum. No lock is held during a read, so it is repeated if another process
# merged counts meanwhile.
TRIES: Final = 10
# The exceptions of prometheus_client for a damaged file.
UNREADABLE: Final = (struct.error, ValueError, RuntimeError)


class _Self:
    """This process's unique name, and the lock that it holds while it is alive."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._lock = -1
        os.register_at_fork(after_in_child=self._forked)

    def name(self) -> str:
        """Returns the name, and takes the lock at the first call; prometheus_client calls this at every count."""
        if self._name is None:
            name = f"{os.getpid()}-{secrets.token_hex(4)}"
            folder = Path(os.environ[FOLDER_VARIABLE])
            self._lock = os.open(folder / f"{name}.new", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            # The file is renamed only now, so that no reader finds a *.lock file that is not locked yet.
            (folder / f"{name}.new").rename(folder / f"{name}.lock")
            self._name = name
        return self._name

    def _forked(self) -> None:
        """Gives a child a new name, and closes its copy of the parent's lock, so that the lock ends with the parent."""
        if self._name is not None:
            self._name = None
            os.close(self._lock)


_self: Final = _Self()


class _Reserved(MmapedDict):
    """A file of counts with preallocated space: otherwise a write on a full disk could end the process (SIGBUS)."""

    def __init__(self, filename: str, read_mode: bool = False):
        if not read_mode:
            with Path(filename).open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVED)
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]


def _try_reserve(folder: Path) -> None:
    """Raises OSError if the disk has no space for the files of a process."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, RESERVED * FILES)


def share() -> None:
    """If PROMETHEUS_MULTIPROC_DIR names a folder, metrics created from now on are stored there; otherwise in memory.

    Raises:
        ConfigurationError: the folder can't be used.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        # prometheus_client would use the working directory if the variable were set, but empty.
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


def _try_flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(lock: Path) -> bool:
    """Returns whether a process holds this lock; False if the file was removed."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_flock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


class _Ended(NamedTuple):
    """The summed counts of ended processes, and the names of the files that are already in the sum.

    Such a file may still exist; it must not be counted again.
    """

    taken: frozenset[str] = frozenset()
    families: tuple[Metric, ...] = ()

    @staticmethod
    def read(folder: Path) -> "_Ended":
        try:
            found = json.loads((folder / ENDED).read_bytes())
        except (FileNotFoundError, ValueError):
            # The file can be unreadable only after a crash of the machine. Then counts that start at zero are better
            # than no metrics.
            return _Ended()
        families = []
        for name, documentation, kind, samples in found["families"]:
            family = Metric(name, documentation, kind)
            family.samples = [Sample(*sample) for sample in samples]
            families.append(family)
        return _Ended(frozenset(found["taken"]), tuple(families))

    def write(self, folder: Path) -> None:
        families: list[Any] = [
            (family.name, family.documentation, family.type, [(s.name, s.labels, s.value) for s in family.samples])
            for family in self.families
        ]
        new = folder / f"{ENDED}.new"
        new.write_text(json.dumps({"taken": sorted(self.taken), "families": families}))
        new.replace(folder / ENDED)


class SharedCounts(Collector):
    """The sum over all processes that share a folder, including ended ones."""

    def __init__(self, folder: Path):
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Yields the current sums."""
        self._merge_ended()
        for _ in range(TRIES):
            before = self._version()
            ended = _Ended.read(self._folder)
            with suppress(FileNotFoundError):
                found = _merge(file for file in self._files() if file.name not in ended.taken)
                if self._version() == before:
                    yield from _sum(found, ended.families)
                    return
        raise RuntimeError(f"{self._folder} changed during each of {TRIES} reads")

    def _version(self) -> tuple[int, int] | None:
        with suppress(FileNotFoundError):
            found = (self._folder / ENDED).stat()
            return found.st_ino, found.st_mtime_ns
        return None

    def _ended_locks(self) -> list[Path]:
        return [lock for lock in self._folder.glob("*.lock") if not _is_alive(lock)]

    def _files(self) -> Iterator[Path]:
        """Yields the files to sum: all except the gauges of ended processes."""
        ended = {lock.stem for lock in self._ended_locks()}
        for file in self._folder.glob("*.db"):
            # A new file is empty at first.
            if file.stat().st_size and not (_is_gauge(file) and file.stem.rpartition("_")[2] in ended):
                yield file

    def _merge_ended(self) -> None:
        """Merges the counts of ended processes into one file, then removes their own files.

        After an interruption at any point, nothing is counted twice: the file with the sum also names the files that
        the sum includes.
        """
        with _try_lock(self._folder) as locked:
            if not locked or not (locks := self._ended_locks()):
                return
            files = [file for lock in locks for file in self._folder.glob(f"*_{lock.stem}.db")]
            counts = [file for file in files if not _is_gauge(file)]
            ended = _Ended.read(self._folder)
            if fresh := [file for file in counts if file.name not in ended.taken]:
                families = _sum(_merge(filter(_readable, fresh)), ended.families)
                _Ended(frozenset(file.name for file in counts), tuple(families)).write(self._folder)
            for file in (*files, *locks):
                file.unlink(missing_ok=True)


def _is_gauge(file: Path) -> bool:
    return file.name.startswith("gauge_")


def _merge(files: Iterable[Path]) -> list[Metric]:
    return list(MultiProcessCollector.merge(list(map(str, files))))  # type: ignore[no-untyped-call]


def _readable(file: Path) -> bool:
    """Returns whether the file is intact. If a crash of the machine damaged it, only the counts in it are lost."""
    try:
        _merge([file])
    except UNREADABLE:
        return False
    return True


def _key(sample: Sample) -> tuple[object, ...]:
    return sample.name, *sorted(sample.labels.items())


def _sum(some: Iterable[Metric], others: Iterable[Metric]) -> list[Metric]:
    """Adds the samples of two lists of metrics: counters, and histograms bucket by bucket."""
    sums = {family.name: family for family in some}
    for other in others:
        family = sums.setdefault(other.name, Metric(other.name, other.documentation, other.type))
        samples = {_key(sample): sample for sample in family.samples}
        for sample in other.samples:
            old = samples.get(_key(sample))
            samples[_key(sample)] = old._replace(value=old.value + sample.value) if old else sample
        family.samples = list(samples.values())
    return list(sums.values())


@contextmanager
def _try_lock(folder: Path) -> Iterator[bool]:
    """Tries to lock the folder for merging; yields False if another process or thread holds the lock."""
    descriptor = os.open(folder / "taking", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield _try_flock(descriptor, fcntl.LOCK_EX)
    finally:
        # Closing alone would not release the lock if a child that was forked meanwhile has the descriptor too.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextmanager
def own_folder() -> Iterator[None]:
    """Creates a folder for this process and its children, unless PROMETHEUS_MULTIPROC_DIR names one.

    If it creates a folder, it also removes the folders that killed processes left behind.
    """
    if os.environ.get(FOLDER_VARIABLE):
        yield
        return
    _remove_abandoned(Path(tempfile.gettempdir()))
    folder = os.environ[FOLDER_VARIABLE] = tempfile.mkdtemp(prefix=OWN_PREFIX)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{OWN_PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            # A folder without a lock may be new, so it stays.
            locks = list(folder.glob("*.lock"))
            if locks and not any(map(_is_alive, locks)):
                shutil.rmtree(folder, ignore_errors=True)
