"""Programs of this project in processes that are forked after the libraries were imported.

An import of the libraries takes a second of CPU time, and the tests start nearly a thousand programs. The fork server
of `multiprocessing` imports the libraries once (see `tests.support.preloaded`). It does not import the modules of
`comment_monitor` that read variables or make metrics.

`up` starts its programs without the fork server, as do `.ci/first-start` and the tests of imports.
"""

import asyncio
import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import forkserver, reduction
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

ROOT: Final = Path(__file__).parents[2]
_context: Final = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.preloaded"])


class _Descriptor:
    """A file descriptor that `multiprocessing` copies into the process that unpickles this object."""

    def __init__(self, number: int):
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self._number),)


def _received(copy: Any) -> int:
    return cast("int", copy.detach())


class _Program(NamedTuple):
    module: str
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    # Standard input, output and error; None: /dev/null.
    streams: list[Any]
    new_session: bool


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen` for commands of the form `[sys.executable, "-m", module, *arguments]`."""

    _forked: ForkServerProcess

    def _execute_child(self, args: Sequence[Any], *others: Any) -> None:
        _, preexec_fn, _, pass_fds, cwd, env, _, _, shell, *last = others
        descriptors, new_session = last[:6], bool(last[-2])
        stdin, _, _, stdout, _, stderr = descriptors
        assert (preexec_fn, pass_fds, shell) == (None, (), False)
        python, option, module, *arguments = map(os.fspath, args)
        assert (python, option) == (sys.executable, "-m"), "only programs of this project can be forked"
        streams = [None if number == -1 else _Descriptor(number) for number in (stdin, stdout, stderr)]
        environment = dict(os.environ if env is None else env)
        program = _Program(module, arguments, environment, os.fspath(cwd or Path.cwd()), streams, new_session)
        _start_server()
        self._forked = _context.Process(target=_run, args=(program,))
        self._forked.start()
        self.pid = cast("int", self._forked.pid)
        self._child_created = True
        self._close_pipe_fds(*descriptors)  # type: ignore[attr-defined]
        # The caller may kill the process group at once.
        with suppress(ProcessLookupError):
            while new_session and os.getpgid(self.pid) != self.pid:
                time.sleep(0.001)

    async def ended(self) -> tuple[Any, Any]:
        """Waits for the end; returns the output and the error output."""
        return await asyncio.to_thread(self.communicate)

    def _internal_poll(self, **_: object) -> int | None:
        self.returncode = self._forked.exitcode
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        self._forked.join(timeout)
        if self._internal_poll() is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode


def run(
    command: Sequence[Any],
    *,
    input: Any = None,  # noqa: A002
    capture_output: bool = False,
    check: bool = False,
    timeout: float | None = None,
    **more: Any,
) -> "subprocess.CompletedProcess[Any]":
    """`subprocess.run` for commands of the form `[sys.executable, "-m", module, *arguments]`."""
    output = subprocess.PIPE if capture_output else None
    given = {} if input is None else {"stdin": subprocess.PIPE}
    with Popen(command, **{"stdout": output, "stderr": output, **given, **more}) as process:
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _start_server() -> None:
    """Starts the fork server of this process, if it does not run yet."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), before)))
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _run(program: _Program) -> None:
    """Does what `python -m` does, in the forked process."""
    if program.new_session:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(program.folder)
    os.environ.clear()
    os.environ.update(program.environment)
    # The variable TMPDIR was read when the server started.
    tempfile.tempdir = None
    _redirect(program.streams)
    sys.argv = [program.module, *program.arguments]
    try:
        runpy.run_module(program.module, run_name="__main__", alter_sys=True)
    finally:
        # `multiprocessing` ends a process without the handlers that the interpreter calls at its end.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()


def _redirect(streams: Sequence[int | None]) -> None:
    for number, given in enumerate(streams):
        descriptor = os.open(os.devnull, os.O_RDWR) if given is None else given
        os.dup2(descriptor, number)
        if descriptor != number:
            os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
