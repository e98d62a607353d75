"""The file in which a running `up` publishes its servers' addresses to the other commands."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from comment_monitor.devserver.errors import EmbeddedError
from comment_monitor.devserver.folders import make_folder


def _file(data_dir: Path) -> Path:
    return data_dir / "endpoints.json"


@contextmanager
def only_one(data_dir: Path) -> Iterator[bool]:
    """Holds the data folder's lock until the end of the block; yields whether the previous `up` was killed.

    Raises:
        EmbeddedError: another `up` holds it.
    """
    make_folder(data_dir)
    (data_dir / "up.lock").touch()
    with (data_dir / "up.lock").open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise EmbeddedError(
                f"`comment-monitor up` runs already on {data_dir} (process {lock.read().strip() or 'unknown'}): "
                "stop it, or choose another --data-dir."
            ) from None
        lock.seek(0)
        was_killed = bool(lock.read())
        _file(data_dir).unlink(missing_ok=True)
        # Written over the previous PID, so that the file always holds one.
        lock.seek(0)
        lock.write(f"{os.getpid():<10}")
        lock.flush()
        try:
            yield was_killed
        finally:
            # Only an `up` that ends in order removes its PID.
            lock.truncate(0)


@contextmanager
def published(data_dir: Path, endpoints: Mapping[str, str]) -> Iterator[None]:
    """Publishes the servers' addresses until the end of the block."""
    file = _file(data_dir)
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(json.dumps({**endpoints, "pid": str(os.getpid())}))
    new.replace(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def read_endpoints(data_dir: Path) -> dict[str, str] | None:
    """Returns the addresses of the `up` on a data folder by variable, API_URL and METRICS_URL; None if none runs."""
    try:
        values: dict[str, str] = json.loads(_file(data_dir).read_text())
        with (data_dir / "up.lock").open() as lock:
            # Shared: two commands that check at once must not mistake each other for an `up`.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return {name: value for name, value in values.items() if name.isupper()}
    except (OSError, ValueError):
        return None
    # The lock is free: the `up` that wrote the file was killed.
    return None
