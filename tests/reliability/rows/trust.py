"""X1, X2: configs, model files, run and sweep directories of somebody else run, write and send nothing."""

from __future__ import annotations

from pathlib import Path

from ..foreign.configs import CASES as CONFIGS
from ..foreign.files import CASES as FILES
from ..foreign.witness import Case, World
from ..trials import Row


def _trial(cases: tuple[Case, ...], number: int, folder: Path) -> None:
    case = cases[number]
    with World(folder) as world:
        try:
            world.withstands(*case.make(world), told=case.told, code=case.code)
        except AssertionError as error:
            raise AssertionError(f"{case.name}: {error}") from error


ROWS = (
    Row(
        "X1",
        "hostile configs by yaml, command line, `hydra.*` and search path",
        "refused in a line that says why; nothing run, opened, sent or written outside",
        full=len(CONFIGS),
        ci=20,
        trial=lambda number, folder: _trial(CONFIGS, number, folder),
    ),
    Row(
        "X2",
        "hostile model files, checkpoints, run and sweep directories",
        "the same",
        full=len(FILES),
        ci=12,
        trial=lambda number, folder: _trial(FILES, number, folder),
    ),
)
