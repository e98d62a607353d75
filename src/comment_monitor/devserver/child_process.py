"""Child processes that do not outlive their parent."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

PR_SET_PDEATHSIG: Final = 1
# Seconds to wait after each signal, before the next one or a kill.
PATIENCE: Final = 20.0

# Loaded before any fork: between fork and exec nothing may be loaded.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _tied_to(parent: int, number: signal.Signals, user: tuple[int, int] | None) -> Callable[[], None]:
    """Returns the function that a child runs first: it sets the user, and requests a signal on the parent's death."""

    def prepare() -> None:
        if user:
            os.setgroups([])
            os.setgid(user[1])
            os.setuid(user[0])
        # After the change of user, which resets it.
        if _libc:
            _libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def start_child(
    arguments: Sequence[str | Path],
    *,
    on_parent_death: signal.Signals = signal.SIGTERM,
    user: tuple[int, int] | None = None,
    environment: Mapping[str, str] | None = None,
    output: IO[Any] | None = None,
) -> "subprocess.Popen[bytes]":
    """Starts a program in its own session, so that a Ctrl-C at the terminal reaches this process alone.

    Args:
        arguments: program and arguments.
        on_parent_death: the signal that the child gets if this process dies without stopping it (Linux).
        user: (uid, gid) to run as.
        environment: the child's environment; None: that of this process.
        output: where stdout and stderr go; None: where those of this process go.
    """
    return subprocess.Popen(
        [str(argument) for argument in arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        start_new_session=True,
        preexec_fn=_tied_to(os.getpid(), on_parent_death, user),  # noqa: PLW1509 - no threads before the children
    )


def stop_child(child: "subprocess.Popen[bytes]", *signals: signal.Signals, patience: float = PATIENCE) -> None:
    """Sends the signals in turn, waits `patience` seconds after each, and kills the child if it has not ended."""
    for number in (*signals, signal.SIGKILL):
        if child.poll() is not None:
            return
        child.send_signal(number)
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def how_it_ended(child: "subprocess.Popen[bytes]") -> str:
    """Returns an ended child's exit code or signal in words."""
    code = child.returncode
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
