"""`run_trials`: trials of a row, some at once, each in a forked process that is ended with all that it started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from .trials import Row

_POLL = 0.01
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: what a command leaves behind becomes the trial's child


@dataclass(frozen=True)
class Outcome:
    """How one trial ended."""

    number: int
    held: bool
    seconds: float
    reason: str = ""  # why it was not held


@dataclass(frozen=True)
class _Running:
    number: int
    started: float
    limit: float
    report: Path  # where the trial writes why it was not held


def run_trials(row: Row, count: int, session: Path, jobs: int = 2, limit: float | None = None) -> list[Outcome]:
    """The outcomes of the trials 0 to count - 1, by number; a trial that hangs is ended after its limit."""
    waiting, running, outcomes = list(range(count)), dict[int, _Running](), list[Outcome]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number = waiting.pop(0)
                pid, trial = _fork(row, number, session, limit)
                running[pid] = trial
            for pid, trial in list(running.items()):
                outcome = _ended(pid, trial)
                if outcome is not None:
                    del running[pid]
                    outcomes.append(outcome)
            time.sleep(_POLL)
    finally:  # interrupted: nothing runs on
        for pid in running:
            _end_descendants(pid)
            os.kill(pid, signal.SIGKILL)
    return sorted(outcomes, key=lambda outcome: outcome.number)


def _fork(row: Row, number: int, session: Path, limit: float | None) -> tuple[int, _Running]:
    folder = session / f"{row.name}-{number}"
    report = folder.with_suffix(".txt")
    folder.mkdir(parents=True)
    load = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become(row, number, folder, report)
    return pid, _Running(number, time.monotonic(), limit or row.limit * load, report)


def _become(row: Row, number: int, folder: Path, report: Path) -> NoReturn:
    """Runs the trial in this forked process; exit code 0 if it was held."""
    code = 1
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
        os.chdir(folder)
        row.trial(number, folder)
        code = 0
    except BaseException as error:  # that it was skipped, too
        report.write_text("".join(traceback.format_exception_only(error)) + "\n" + traceback.format_exc())
    finally:
        _end_descendants(os.getpid())
        os._exit(code)


def _ended(pid: int, trial: _Running) -> Outcome | None:
    """The outcome of a trial that has ended, or that is ended since its time is over; None while it runs."""
    seconds = time.monotonic() - trial.started
    found, status = os.waitpid(pid, os.WNOHANG)
    if not found:
        if seconds < trial.limit:
            return None
        _end_descendants(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return Outcome(trial.number, False, seconds, f"not finished after {seconds:.0f} s")
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return Outcome(trial.number, True, seconds)
    said = trial.report.read_text() if trial.report.exists() else f"its process ended with exit code {code}"
    return Outcome(trial.number, False, seconds, said)


def _end_descendants(pid: int) -> None:
    """Kills all that a process started, and what these started, until there is none."""
    while found := [each for each in _descendants(pid) if _is_alive(each)]:
        for each in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(_POLL)


def _descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and (fields := _stat(int(entry))):
            parents[int(entry)] = int(fields[1])
    found, new = [], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found


def _is_alive(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def _stat(pid: int) -> list[str]:
    """State, parent and so on of a process; nothing where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
