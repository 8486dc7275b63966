"""`start`: the command as a process of its own, forked from one that has imported everything."""

from __future__ import annotations

import atexit
import itertools
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

_ROOT = Path(__file__).parents[2]
_POLL = 0.002
_numbers = itertools.count(1)


class Command:
    """A command that was started; it, and what it started, is ended with the trial at the latest."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self.log = pid, log
        self.returncode: int | None = None

    def send(self, number: int) -> None:
        """Sends a signal to the process alone, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 100.0) -> int:
        """The exit code, negative for a signal.

        Raises:
            AssertionError: it still runs after so many seconds.
        """
        self.wait_for(lambda: False, timeout)
        assert self.returncode is not None
        return self.returncode

    def wait_for(self, predicate: Callable[[], bool], timeout: float = 100.0) -> bool:
        """Waits until the predicate holds and returns True, or until the process has ended and returns False.

        Raises:
            AssertionError: neither after so many seconds.
        """
        end = time.monotonic() + timeout
        while self.poll() is None:
            if predicate():
                return True
            assert time.monotonic() < end, f"after {timeout:g} s it still runs:\n{self.output}"
            time.sleep(_POLL)
        return predicate()

    @property
    def output(self) -> str:
        """What it has printed so far, errors too."""
        return self.log.read_text(errors="replace")


def start(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    before: Callable[[], object] | None = None,
    folder: Path | None = None,
    public: bool = False,
) -> Command:
    """Starts `python -m resnet_exp ARGUMENTS`, forked from this process, so that nothing is imported again.

    Args:
        arguments: of the command line.
        env: added to the environment.
        before: called in the new process first, to bring about a fault there.
        folder: its working directory, else this one's.
        public: starts Python anew instead, as a user does; without `before`.
    """
    log = Path.cwd() / f"command-{os.getpid()}-{next(_numbers)}.log"
    if public:
        assert before is None, "a new Python cannot be changed first"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "resnet_exp", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "PYTHONPATH": str(_ROOT), **(env or {})},  # this checkout, whatever is installed
                cwd=folder,
                start_new_session=True,
            )
        return Command(process.pid, log)
    log.touch()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become(arguments, env or {}, before, folder, log)
    return Command(pid, log)


def _become(
    arguments: tuple[str, ...],
    env: Mapping[str, str],
    before: Callable[[], object] | None,
    folder: Path | None,
    log: Path,
) -> NoReturn:
    """Runs the command in this forked process, and ends it as the interpreter would."""
    code = 70  # where what follows fails itself
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        _redirect(log)
        os.environ.update(env)
        if folder is not None:
            os.chdir(folder)
        code = _exit_code(arguments, before)
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _exit_code(arguments: tuple[str, ...], before: Callable[[], object] | None) -> int:
    try:
        if before is not None:
            before()
        sys.argv[:] = ["resnet_exp", *arguments]
        sys.modules.pop("resnet_exp.__main__", None)  # runpy warns of one that is there already
        runpy.run_module("resnet_exp", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _redirect(log: Path) -> None:
    """Reads nothing, and writes into the log."""
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    for descriptor, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(descriptor, target)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
