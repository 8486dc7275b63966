"""Where the best max_lr lies, and how far from it each rule's max_lr is: the bench behind `scheduler.max_lr=find`.

    python benchmarks/max_lr.py images CIFAR10_JPEG IMAGES     makes the two small data sets in the folder IMAGES
    python benchmarks/max_lr.py curves CIFAR10_JPEG IMAGES [CELL ...] [--seeds 0 1 2] [--within 6] [--jobs 2]
    python benchmarks/max_lr.py found CIFAR10_JPEG IMAGES [CELL ...] [--seeds 0 1 2] [--jobs 2]
    python benchmarks/max_lr.py table

CIFAR10_JPEG is CIFAR-10 as a folder of images. A *cell* is a setting that people train in (`max_lr_cells.py`). Its
*curve* is the validation accuracy over a grid of given max_lr, a sweep for each seed; what is in runs.csv is not run
again. `found` has each rule find a max_lr in each cell and with each seed. The *regret* of a rule is the best of the
curve less the curve at its max_lr. Rows, figures and the table are in results/max_lr; the plan is docs/decisions/0016.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from max_lr_cells import CELLS, Cell
from max_lr_images import make_images
from max_lr_table import read_rows, write_table

RESULTS = Path("results/max_lr")
FOUND_COLUMNS = ("cell", "seed", "rule", "max_lr", "steps", "run_steps", "seconds")
COLUMNS = ("cell", "seed", "max_lr", "accuracy", "best_accuracy", "status", "seconds", "commit")
_writing = Lock()


def curves(cells: Sequence[Cell], folders: dict[str, str], seeds: Sequence[int], within: float, jobs: int) -> None:
    """Runs the grids, a sweep for each seed and cell, some at once, and writes runs.csv anew after each.

    Args:
        cells: which.
        folders: of the images, by the names that the cells' settings have for them.
        seeds: the first one is run on the whole grid.
        within: points of percent; the other seeds run where the first one's accuracy is that near to its best.
        jobs: sweeps at once, each with one thread.
    """
    for seed in seeds:
        with ThreadPoolExecutor(jobs) as pool:
            for cell in cells:
                pool.submit(_sweep, cell, folders, seed, within if seed != seeds[0] else None)


def _sweep(cell: Cell, folders: dict[str, str], seed: int, within: float | None) -> None:
    known = {float(row["max_lr"]) for row in _of(cell) if row["seed"] == str(seed)}
    values = [
        max_lr for max_lr in (cell.max_lrs if within is None else _near_the_best(cell, within)) if max_lr not in known
    ]
    if not values:
        return
    settings = [setting.format(**folders) for setting in cell.settings]
    swept = f"scheduler.max_lr={','.join(f'{value:g}' for value in values)}"
    command = [sys.executable, "-m", "resnet_exp", "--multirun", *settings, f"name={cell.name}", f"seed={seed}", swept]
    command += ["tracker=none", "report=none", "train.checkpoint_interval=120", "device=cpu"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    folder = next((line.split()[-1] for line in done.stdout.splitlines() if "leaderboard " in line), None)
    if folder is None:
        print(f"{cell.name}, seed {seed}: exit code {done.returncode}\n{done.stderr[-2000:]}", flush=True)
        return
    _add(RESULTS / "runs.csv", [_row(cell, seed, line) for line in read_rows(Path(folder))])
    print(f"{cell.name}, seed {seed}: {len(values)} runs", flush=True)


def found(cells: Sequence[Cell], folders: dict[str, str], seeds: Sequence[int], jobs: int) -> None:
    """Has each rule find a max_lr in each cell with each seed, and writes found.csv anew after each."""
    with ThreadPoolExecutor(jobs) as pool:
        for seed in seeds:
            for cell in cells:
                pool.submit(_find, cell, folders, seed)


def _find(cell: Cell, folders: dict[str, str], seed: int) -> None:
    settings = [setting.format(**folders) for setting in cell.settings]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "found.csv"
        command = [sys.executable, "benchmarks/max_lr_rules.py", str(rows), cell.name, *settings, f"seed={seed}"]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        _add(RESULTS / "found.csv", read_rows(rows), FOUND_COLUMNS)
    ending = "" if "interrupted" in done.stderr else f"\n{done.stderr[-2000:]}"
    print(f"{cell.name}, seed {seed}: rules{ending}", flush=True)


def _row(cell: Cell, seed: int, line: dict[str, str]) -> dict[str, str]:
    """A row of runs.csv from one of a leaderboard; what diverged has the accuracy of guessing."""
    max_lr = line["what_differs"].removeprefix("max_lr=")
    row = {"cell": cell.name, "seed": str(seed), "max_lr": max_lr, "status": line["status"], "seconds": line["seconds"]}
    root = Path("outputs") / line["runs"]
    row["commit"] = json.loads((root / "environment.json").read_text())["git_commit"][:7]
    if line["status"] != "finished":
        assert "not finite" in line["reason"], line
        return row | {"accuracy": f"{1 / cell.num_classes:.4f}", "best_accuracy": f"{1 / cell.num_classes:.4f}"}
    result = json.loads((root / "result.json").read_text())
    each = [value for epoch in result["history"] for name, value in epoch.items() if name in cell.measured]
    return row | {"accuracy": f"{each[-1]:.4f}", "best_accuracy": f"{max(each):.4f}"}


def _near_the_best(cell: Cell, within: float) -> list[float]:
    """The part of the grid from the first to the last point whose accuracy, with the first seed, is near the best."""
    rows = _of(cell)
    first = {float(row["max_lr"]): float(row["accuracy"]) for row in rows if row["seed"] == rows[0]["seed"]}
    near = [max_lr for max_lr, accuracy in first.items() if accuracy >= max(first.values()) - within / 100]
    return [max_lr for max_lr in cell.max_lrs if min(near) <= max_lr <= max(near)]


def _of(cell: Cell) -> list[dict[str, str]]:
    with _writing:
        return [row for row in read_rows(RESULTS / "runs.csv") if row["cell"] == cell.name]


def _add(path: Path, rows: Iterable[dict[str, str]], columns: Sequence[str] = COLUMNS) -> None:
    """Adds rows to a CSV file, in the place of those of the same cell, seed and max_lr, or rule."""
    with _writing:
        _write(path, rows, columns)


def _write(path: Path, rows: Iterable[dict[str, str]], columns: Sequence[str]) -> None:
    key = columns[:3]
    found = {tuple(row[name] for name in key): row for row in [*read_rows(path), *rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    with aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(found.values(), key=lambda row: [*map(_sortable, (row[name] for name in key))]))
    aside.replace(path)


def _sortable(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return float("-inf"), text


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("images", "curves", "found", "table"))
    parser.add_argument("cifar", metavar="CIFAR10_JPEG", nargs="?", default="")
    parser.add_argument("images", metavar="IMAGES", nargs="?", default="")
    parser.add_argument(
        "cells", nargs="*", metavar="CELL", help=f"one of {' '.join(CELLS)}; those for choosing without"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--within", type=float, default=6.0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if options.what == "images":
        make_images(Path(options.cifar), Path(options.images))
        return
    if options.what == "table":
        write_table(RESULTS)
        return
    cells = [CELLS[name] for name in options.cells] or [cell for cell in CELLS.values() if cell.chooses]
    folders = {"cifar": options.cifar, "images": options.images}
    if options.what == "found":
        found(cells, folders, options.seeds, options.jobs)
    else:
        curves(cells, folders, options.seeds, options.within, options.jobs)


if __name__ == "__main__":
    main()
