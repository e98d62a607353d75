"""Folders of embedded servers: private, and with paths short enough for a socket."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

from comment_monitor.devserver.errors import EmbeddedError

# The kernel's limit for a socket's path, minus the longest file name that a server creates in the folder.
LONGEST_SOCKET_FOLDER: Final = 107 - len("/.s.PGSQL.5432.lock")
PRIVATE: Final = 0o700


def make_folder(path: Path, owner: tuple[int, int] | None = None) -> Path:
    """Creates a private folder; `owner` is (uid, gid).

    Raises:
        EmbeddedError: the folder can't be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
        if owner and path.stat().st_uid != owner[0]:
            os.chown(path, *owner)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise EmbeddedError(
            f"The data folder {path} can't be used: {error.strerror}. Choose another with --data-dir."
        ) from None
    return path


def socket_folder(data_dir: Path, server: str, owner: tuple[int, int] | None = None) -> Path:
    """Returns the folder of a server's socket: in the data folder or, if its path is too long, a short private one."""
    folder = data_dir / f"{server}.socket"
    if len(os.fsencode(folder)) > LONGEST_SOCKET_FOLDER:
        name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"comment-monitor-{name}-{server}"
    make_folder(folder, owner)
    uid = folder.lstat().st_uid
    if folder.is_symlink() or uid not in {os.getuid(), owner[0] if owner else os.getuid()}:
        raise EmbeddedError(f"{folder} belongs to someone else: remove it, or choose a shorter --data-dir.")
    return folder
