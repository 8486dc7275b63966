"""A row of the table, and what its trials are made of: commands, runs left alone, and how two runs differ."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resnet_exp.run_dir.lock import locked

from .command import Command, start
from .differences import differences

__all__ = ["TINY", "Command", "Row", "differences", "reference", "run_directory", "start"]

# A run of a second or two, with a validation set and two epochs; later arguments replace these.
TINY = (
    *("experiment=quickstart", "train.epochs=2", "scheduler.peak_epoch=1", "data.limit_train=300", "model.width=4"),
    *("scheduler.max_lr=0.05", "report=none", "tracker=none"),
)
# The session's folder, which `__main__` names before it forks trials: references are kept there.
SESSION = "RELIABILITY_SESSION"


@dataclass(frozen=True)
class Row:
    """A fault, and what must hold where it happens.

    A trial is a function of its number alone, such as `random.Random(number)`, and of an empty folder, which is its
    working directory; it runs in a process of its own, and raises where the fault was not withstood.
    """

    name: str  # such as P1
    fault: str
    must_hold: str
    full: int  # trials of the whole table
    ci: int  # trials that fit into CI: at most 40 s together
    trial: Callable[[int, Path], None]
    limit: float = 120.0  # seconds of a trial on an idle machine, after which it is ended and not held


def reference(*arguments: str) -> Path:
    """The run directory of the same run left alone: made once a session, by whoever asks first. Read it only."""
    key = hashlib.sha256(repr(arguments).encode()).hexdigest()[:16]
    folder = Path(os.environ[SESSION]) / "references" / key
    with locked(folder.with_suffix(".lock")):
        if not folder.exists():
            partial = folder.with_name(f"{key}.{os.getpid()}.{time.time_ns()}")
            partial.mkdir(parents=True)
            alone = start(*arguments, folder=partial)
            assert alone.wait() == 0, f"the run left alone failed:\n{alone.output}"
            partial.rename(folder)
    return run_directory(folder)


def run_directory(folder: Path) -> Path:
    """The one run directory in `outputs` of the folder."""
    found = [path.parent for path in folder.glob("outputs/*/journal.jsonl")]
    assert len(found) == 1, f"{len(found)} run directories in {folder / 'outputs'}"
    return found[0]
