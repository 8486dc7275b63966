"""M1: many jobs in one process, whose memory stays flat; and runs that are copied elsewhere and go on there."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from ..points import calling
from ..trials import TINY, Row, differences, reference, run_directory, start
from .killed import OPTIONS

_WARM = 10  # jobs until everything that is made once has been made
_MOST = 64 * 1024  # bytes that a job may leave for good: less than the smallest bank of images or a figure
_OBJECTS = 200  # that a job may leave for good, such as the text that names a network that was tried
_JOB = ("--multirun", *TINY, "data.limit_train=100")


def check_flat(values: Sequence[float], most: float, what: str) -> None:
    """Raises AssertionError where the values, one a job, rise by more than `most` a job from the tenth on.

    The median of all slopes between two jobs: a single jump, as of an allocator's arena, does not count.
    """
    later = list(enumerate(values))[_WARM:]
    slope = statistics.median((end - start) / (j - i) for (i, start), (j, end) in combinations(later, 2))
    assert slope <= most, f"{what}: {slope:,.0f} more with each job, of {most:,.0f} at most"


def _jobs(count: int, more: tuple[str, ...], folder: Path) -> None:
    path = folder / "memory.csv"
    sweep = start(*_JOB, *more, f"seed=range({count})", before=partial(_watch, path))
    assert sweep.wait(900) == 0, sweep.output
    rows = [[int(cell) for cell in line.split(",")] for line in path.read_text().splitlines()]
    assert len(rows) == count, f"{len(rows)} of {count} jobs"
    resident, objects, tensors, figures = zip(*rows, strict=True)
    check_flat(resident, _MOST, "bytes in memory")
    check_flat(objects, _OBJECTS, "objects")
    check_flat(tensors, 0, "tensors")
    check_flat(figures, 0, "figures")


def _watch(path: Path) -> None:
    """Writes down after each job: bytes in memory, Python's objects, tensors among them, and open figures."""
    from resnet_exp.sweeps import job

    whole = job.run_job

    def watched(*arguments: Any) -> Any:
        try:
            return whole(*arguments)
        finally:
            with path.open("a") as file:
                file.write(",".join(map(str, _memory())) + "\n")

    job.run_job = watched


def _memory() -> tuple[int, int, int, int]:
    import torch
    from matplotlib import pyplot

    gc.collect()
    found = gc.get_objects()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    # By type: isinstance would ask lazy modules for their class.
    tensors = sum(type(value) in (torch.Tensor, torch.nn.Parameter) for value in found)
    return resident, len(found), tensors, len(pyplot.get_fignums())


def _copied(options: str, point: tuple[str, int], how: str, folder: Path) -> None:
    """Killed, copied elsewhere, gone on with: as it is, under another name of its folder, or beside the original."""
    arguments = (*TINY, *OPTIONS[options])
    killed = start(*arguments, before=calling(*point, _kill_self))
    assert killed.wait() == -signal.SIGKILL, killed.output
    elsewhere, name = folder / "else where", "moved" if how == "renamed" else "outputs"
    shutil.copytree(folder / "outputs", elsewhere / name)
    if how != "beside":
        shutil.rmtree(folder / "outputs")
    command = start(*arguments, f"output_dir={name}", folder=elsewhere)
    assert command.wait() == 0, command.output
    (found,) = (path.parent for path in (elsewhere / name).glob("*/journal.jsonl"))
    assert not (problems := differences(found, reference(*arguments))), problems
    if how == "beside":  # the original is untouched, and goes on as well
        again = start(*arguments)
        assert again.wait() == 0, again.output
        assert not (problems := differences(run_directory(folder), reference(*arguments))), problems


def _finished_and_copied(folder: Path) -> None:
    """A finished run is printed again where it was copied to; nothing of it changes."""
    arguments = (*TINY, *OPTIONS["plain"])
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(reference(*arguments).parent, elsewhere / "outputs")
    result = run_directory(elsewhere) / "result.json"
    before = result.read_bytes()
    command = start(*arguments, folder=elsewhere)
    assert command.wait() == 0 and "is finished already" in command.output, command.output
    assert result.read_bytes() == before


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


_STEP = "resnet_exp.training.learner.Learner._step"
_CASES: tuple[Callable[[Path], None], ...] = (
    partial(_copied, "plain", (_STEP, 14), "moved"),
    partial(_jobs, 25, ()),
    partial(_copied, "range test", (_STEP, 20), "renamed"),
    partial(_finished_and_copied),
    partial(_copied, "cycled and clipped", (_STEP, 8), "beside"),
    partial(_copied, "report", ("resnet_exp.runs.outputs.save_report", 1), "moved"),
    partial(_copied, "dropout, none", (_STEP, 9), "renamed"),
    partial(_jobs, 100, ()),
    partial(_jobs, 100, ("tracker=csv", "report=default", "report.gradcam=0", "report.receptive_field=0")),
)

ROWS = (
    Row(
        "M1",
        "100 jobs in one process, also with report and tracker; a run copied elsewhere, half done or finished, and "
        "gone on with",
        "memory flat after the tenth: bytes, objects, tensors, figures; identical",
        full=len(_CASES),
        ci=3,
        trial=lambda number, folder: _CASES[number](folder),
        limit=600.0,
    ),
)
