"""P1: a signal wherever a run is; the run is saved and ends, a second signal ends it at once."""

from __future__ import annotations

import ctypes
import importlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_exp.run_dir.journal import read

from ..trials import TINY, Command, Row, differences, reference, start

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT)
_RUN = (*TINY, "train.batch_size=32")  # some steps an epoch
_SEARCH = (*TINY, "train.batch_size=64", "scheduler.max_lr=find", "range_test.num_steps=60", "range_test.repeats=1")
_AT_ONCE = 1.0  # seconds
_PAUSE = 0.5  # between two signals: more than what is taken for the first one's echo


@dataclass(frozen=True)
class _Phase:
    """A place in a run: a call of a function, after that of another one."""

    name: str
    calls: tuple[str, ...]  # the functions of which one is chosen
    after: str | None = None  # nothing counts before this function is called
    most: int = 1  # the call, up to this one
    search: bool = False  # the run has a range test
    recorded: str | None = "KILLED"  # the status in the journal then; None: there is no run yet
    twice: str = ""  # what keeps the process there, until a second signal
    hangs: str = ""  # what keeps a thread there, which the process leaves behind at the first signal


_TRAIN, _STEP = "resnet_exp.runs.run.train", "resnet_exp.training.learner.Learner._backward"
_PHASES = (
    _Phase("start-up", ("resnet_exp.config.command_line.check", "resnet_exp.runs.run.try_network"), recorded=None),
    _Phase("data", ("resnet_exp.data.digits.Digits.load", "resnet_exp.runs.run.messages.print_data")),
    _Phase("range test", (_STEP,), after="resnet_exp.runs.max_lr.range_test", most=50, search=True),
    _Phase("middle of an epoch", (_STEP,), after=_TRAIN, most=15),
    _Phase("evaluation", ("resnet_exp.runs.run.infer",), after=_TRAIN, most=3),
    _Phase("save", ("torch.save",), after=_TRAIN),
    _Phase("report", tuple(f"resnet_exp.runs.run.outputs.{name}" for name in ("save_predictions", "save_report"))),
    _Phase("end of the tracker", ("resnet_exp.interfaces.Mirror.end",), recorded="FINISHED"),
    _Phase("step, twice", (_STEP,), after=_TRAIN, most=15, twice="a call of a library"),
    _Phase("save, twice", ("torch.save",), after=_TRAIN, twice="a call of a library"),
    _Phase("evaluation, twice", ("resnet_exp.runs.run.infer",), after=_TRAIN, most=3, twice="a finally"),
    _Phase(
        "end of the tracker, which hangs",
        ("resnet_exp.interfaces.Mirror.end",),
        recorded="FINISHED",
        hangs="a call of a library",
    ),
)


def _trial(number: int, folder: Path) -> None:
    chosen = random.Random(number)
    phase, first = _PHASES[number % len(_PHASES)], _SIGNALS[number % len(_SIGNALS)]
    call, which = chosen.choice(phase.calls), chosen.randint(1, phase.most)
    arguments = _SEARCH if phase.search else _RUN
    where = f"{first.name} at call {which} of {call}"
    expected = reference(*arguments)
    if phase.hangs:
        last = first
        command = start(*arguments, before=lambda: _on_call(call, which, phase.after, lambda: _stay(phase.hangs)))
        _signal_last(command, first)
    elif phase.twice:
        last = chosen.choice(_SIGNALS)
        command = start(*arguments, before=lambda: _on_call(call, which, phase.after, lambda: _stay(phase.twice)))
        _signal_twice(command, first, last)
        where += f", then {last.name}"
    else:
        last = first
        command = start(*arguments, before=lambda: _on_call(call, which, phase.after, lambda: _send(first)))
        command.wait()
    assert command.returncode == 128 + last, f"{where}: it ended with {command.returncode}:\n{command.output}"
    assert "Traceback" not in command.output, f"{where}:\n{command.output}"
    assert "the same command" in command.output, f"{where}: not told what to do:\n{command.output}"
    _check_recorded(phase, last, where)
    if phase.name in ("middle of an epoch", "evaluation"):
        _check_saved(phase, which, where)
    again = start(*arguments)
    assert again.wait() == 0, f"{where}: the same command failed:\n{again.output}"
    (root,) = [path.parent for path in folder.glob("outputs/*/journal.jsonl")]
    assert not (differ := differences(root, expected)), f"{where}: {'; '.join(differ[:5])}"
    assert not [*folder.glob("outputs/range_tests/*/")], f"{where}: what the range test saved is left"


def _check_recorded(phase: _Phase, last: signal.Signals, where: str) -> None:
    statuses = [
        one for path in Path("outputs").glob("*/journal.jsonl") for one in read(path) if one["kind"] == "status"
    ]
    if phase.recorded is None:
        assert not statuses, f"{where}: recorded as {statuses}"
        return
    assert statuses, f"{where}: there is no status in a journal"
    status, reason = statuses[-1]["status"], statuses[-1]["reason"] or ""
    assert status == phase.recorded, f"{where}: recorded as {status} ({reason})"
    assert status == "FINISHED" or last.name in reason, f"{where}: the reason is {reason}"


def _check_saved(phase: _Phase, which: int, where: str) -> None:
    """The step that the process was at is in the last checkpoint, or the one before it."""
    (root,) = [path.parent for path in Path("outputs").glob("*/journal.jsonl")]
    names = [path.name.split("-") for path in root.glob("checkpoints/*.pt")]
    saved = max((int(name[3]) for name in names), default=0)
    lines = (reference(*_RUN) / "steps.csv").read_text().splitlines()
    steps = which if phase.name == "middle of an epoch" else which * (len(lines) - 1) // 2
    assert saved >= min(steps, len(lines) - 1) - 1, f"{where}: saved is step {saved}"


def _signal_twice(command: Command, first: signal.Signals, last: signal.Signals) -> None:
    """Sends the second signal while the process is kept from ending by itself; it ends at once."""
    _wait_until_there(command)
    command.send(first)
    time.sleep(_PAUSE)
    assert command.poll() is None, f"it ended by itself with {command.returncode}:\n{command.output}"
    _end_at_once(command, last)


def _signal_last(command: Command, last: signal.Signals) -> None:
    """Sends a signal while a thread that the process waits for hangs; the process ends at once."""
    _wait_until_there(command)
    _end_at_once(command, last)


def _wait_until_there(command: Command) -> None:
    assert command.wait_for(Path("there").exists), f"it never came there:\n{command.output}"
    time.sleep(0.1)  # it is within the call now


def _end_at_once(command: Command, last: signal.Signals) -> None:
    lag = _lag()
    begun = time.monotonic()
    command.send(last)
    command.wait()
    took = time.monotonic() - begun
    assert took <= _AT_ONCE + max(lag, _lag()), f"{last.name} took {took:.2f} s:\n{command.output}"


def _lag() -> float:
    """The seconds that a process takes to be started and ended: what the machine is late by."""
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        signal.pause()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return time.monotonic() - begun


def _send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def _stay(how: str) -> None:
    """Keeps the process here: in a call that no signal interrupts, or in code that clears up for ever."""
    Path("there").touch()
    if how == "a finally":
        try:
            time.sleep(100)
        finally:
            time.sleep(100)
    lock, libc = ctypes.create_string_buffer(256), ctypes.CDLL(None)
    for _ in range(2):  # the second waits for the first
        libc.pthread_mutex_lock(lock)


def _on_call(name: str, which: int, after: str | None, act: Callable[[], None]) -> None:
    """Calls `act` when a function is called for the time `which`, once, counted from the call of `after` on."""
    counting, calls = after is None, 0

    def begun(*_: Any) -> None:
        nonlocal counting
        counting = True

    def called(*_: Any) -> None:
        nonlocal calls
        calls += counting
        if counting and calls == which:
            act()

    if after is not None:
        _before(after, begun)
    _before(name, called)


def _before(name: str, hook: Callable[..., None]) -> None:
    """Lets the function of this name call the hook first."""
    owner, attribute = _owner(name)
    original = getattr(owner, attribute)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        hook()
        return original(*args, **kwargs)

    setattr(owner, attribute, wrapped)


def _owner(name: str) -> tuple[Any, str]:
    """The module or class that has the attribute of this dotted name, and the attribute."""
    path, _, attribute = name.rpartition(".")
    module, _, member = path.rpartition(".")
    try:
        return importlib.import_module(path), attribute
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), member), attribute


ROWS = (
    Row(
        "P1",
        "SIGTERM, SIGINT, SIGUSR1, SIGHUP, SIGQUIT in each phase of a run; a second one in three of them",
        "saved within a step, KILLED with the signal's name, 128 + n, goes on identically; a second ends it within 1 s",
        60,
        12,
        _trial,
    ),
)
