"""`write_table`: the regret of each rule in each cell, from the rows that `max_lr.py` recorded, and a figure a cell."""

from __future__ import annotations

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from max_lr_cells import CELLS, Cell

from resnet_exp.report.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, VERMILLION, in_own_style, save

_LOST = 0.2  # a curve that has fallen by so much at its end counts as lost beyond it
_COLOURS = (VERMILLION, BLUE, GREEN, ORANGE, PURPLE, SKY, INK)


@dataclass(frozen=True)
class Curve:
    """The accuracies of a cell: by max_lr, rising, and within these by seed."""

    cell: Cell
    accuracies: dict[float, dict[int, float]]

    @property
    def means(self) -> dict[float, float]:
        return {max_lr: statistics.mean(each.values()) for max_lr, each in self.accuracies.items()}

    @property
    def best(self) -> float:
        """The max_lr of the highest mean, among those that all seeds have."""
        most = max(len(each) for each in self.accuracies.values())
        whole = {max_lr: self.means[max_lr] for max_lr, each in self.accuracies.items() if len(each) == most}
        return max(whole, key=lambda max_lr: whole[max_lr])

    def at(self, max_lr: float, seed: int | None = None) -> float:
        """The accuracy there, linear between grid points in log max_lr; of one seed, or the mean.

        Beyond the grid it is that of its end; where the curve has fallen by 20 points there, that of guessing.
        """
        values = self.means if seed is None else {x: each[seed] for x, each in self.accuracies.items() if seed in each}
        grid = list(values)
        outside = grid[0] if max_lr < grid[0] else grid[-1] if max_lr > grid[-1] else None
        if outside is not None and values[outside] < max(values.values()) - _LOST:
            return 1 / self.cell.num_classes
        return float(np.interp(math.log(max_lr), np.log(grid), list(values.values())))

    def regret(self, max_lr: float) -> float:
        """What that max_lr loses against the best one."""
        return self.means[self.best] - self.at(max_lr)

    def noise(self, max_lr: float) -> float:
        """The standard error of the regret there, paired over the seeds; NaN with one seed."""
        near = min(self.accuracies, key=lambda x: abs(math.log(x / max_lr)))
        seeds = self.accuracies[self.best].keys() & self.accuracies[near].keys()
        differences = [self.accuracies[self.best][seed] - self.accuracies[near][seed] for seed in seeds]
        return statistics.stdev(differences) / math.sqrt(len(seeds)) if len(seeds) > 1 else math.nan


def read_curves(path: Path) -> dict[str, Curve]:
    """The curve of each cell, by name, from runs.csv."""
    found: dict[str, dict[float, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in read_rows(path):
        found[row["cell"]][float(row["max_lr"])][int(row["seed"])] = float(row["accuracy"])
    return {name: Curve(CELLS[name], dict(sorted(found[name].items()))) for name in CELLS if name in found}


def write_table(folder: Path) -> None:
    """Writes regret.csv, regret.md and a figure a cell into the folder, from its runs.csv and found.csv."""
    curves = read_curves(folder / "runs.csv")
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in read_rows(folder / "found.csv"):
        if row["cell"] in curves:
            found[row["rule"], row["cell"]].append(float(row["max_lr"]) if row["max_lr"] else math.nan)
    rules = list(dict.fromkeys(rule for rule, _ in found))
    (folder / "regret.md").write_text("\n".join(_lines(curves, found, rules)) + "\n")
    for name, curve in curves.items():
        of_cell = {rule: found[rule, name] for rule in rules if (rule, name) in found}
        in_own_style(lambda curve=curve, of_cell=of_cell: _draw(curve, of_cell, folder / f"{curve.cell.name}.png"))  # type: ignore[misc]


def _lines(curves: dict[str, Curve], found: dict[tuple[str, str], list[float]], rules: Sequence[str]) -> list[str]:
    """The table: a row a cell, with the best max_lr and each rule's regret in points, its noise, its max_lr."""
    lines = []
    for chooses, title in ((True, "choosing"), (False, "confirming")):
        named = {name: curve for name, curve in curves.items() if curve.cell.chooses == chooses}
        if not named:
            continue
        lines += ["", f"| cell for {title} | best max_lr | accuracy there | n | {' | '.join(rules)} |"]
        lines.append("|---" * (4 + len(rules)) + "|")
        regrets: dict[str, list[float]] = defaultdict(list)
        for name, curve in named.items():
            cells = []
            for rule in rules:
                text, regret = _judged(curve, found.get((rule, name), []))
                cells.append(text)
                regrets[rule] += [regret] if regret is not None else []
            n = len(curve.accuracies[curve.best])
            lines.append(f"| {name} | {curve.best:g} | {curve.means[curve.best]:.2%} | {n} | {' | '.join(cells)} |")
        ends = [f"{100 * statistics.mean(r):.2f}, {100 * max(r):.2f}" if (r := regrets[rule]) else "" for rule in rules]
        lines.append(f"| **mean, worst** | | | | {' | '.join(ends)} |")
    return lines


def _judged(curve: Curve, max_lrs: Sequence[float]) -> tuple[str, float | None]:
    """A cell of the table, and the regret; a rule that found nothing (NaN) is no regret, but told."""
    known = [max_lr for max_lr in max_lrs if math.isfinite(max_lr)]
    if not known:
        return "none found" if max_lrs else "", None
    regret = statistics.mean(curve.regret(max_lr) for max_lr in known)
    middle = math.exp(statistics.mean(map(math.log, known)))
    failed = f", {len(max_lrs) - len(known)} failed" if len(known) < len(max_lrs) else ""
    noise = curve.noise(middle)
    spread = f" ± {100 * noise:.2f}" if math.isfinite(noise) else ""
    return f"{100 * regret:.2f}{spread} ({middle:.3g}{failed})", regret


def _draw(curve: Curve, found: dict[str, list[float]], path: Path) -> None:
    figure = Figure(figsize=(9.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for max_lr, each in curve.accuracies.items():
        axes.plot([max_lr] * len(each), [100 * value for value in each.values()], "o", color=INK, ms=3.5, alpha=0.45)
    means = curve.means
    axes.plot(list(means), [100 * value for value in means.values()], color=INK, lw=1.6, label="mean over seeds")
    top = 100 * max(means.values())
    floor = max(min(100 * value for value in means.values()), top - 15)
    for number, (rule, max_lrs) in enumerate(found.items()):
        at = [max_lr for max_lr in max_lrs if math.isfinite(max_lr)]
        heights = [top + (top - floor) * (0.06 + 0.05 * number)] * len(at)
        axes.plot(at, heights, "v", ms=7, color=_COLOURS[number % len(_COLOURS)], alpha=0.8, label=rule)
    axes.set_xscale("log")
    axes.set_ylim(floor - 0.06 * (top - floor), top + (top - floor) * (0.12 + 0.05 * len(found)))
    axes.set_xlabel("max_lr")
    axes.set_ylabel("validation accuracy, last epoch (%)")
    axes.set_title(curve.cell.name, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8.5, frameon=False)
    save(figure, path)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
