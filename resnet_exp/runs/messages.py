"""All texts that a run prints, in order: the plan, the data, the range test, the epochs, the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_exp.config.config import Config
from resnet_exp.config.ranges import shown_settings
from resnet_exp.config.validation import Validation
from resnet_exp.interfaces import DatasetInfo, Metric
from resnet_exp.report.section import Section
from resnet_exp.run_dir.directory import RunDirectory
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.runs.beside import Beside
from resnet_exp.runs.console import Console
from resnet_exp.training.device import Runtime
from resnet_exp.training.lr_range import FoundLR
from resnet_exp.training.result import IN_HEADLINE, accuracies, headline
from resnet_exp.training.train import LOOP_METRICS, Epoch, Trained

_MANY_CLASSES = 20
_FORMS = {"nats": ">10.4f", "fraction": ">9.2%", "number": ">9.4g"}  # cells of the epochs' table, by a metric's unit


def print_plan(config: Config, runtime: Runtime, directory: RunDirectory, console: Console) -> None:
    """Prints what will run."""
    names, train = config.short_names, config.train
    console.heading(f"{directory.name}{'' if directory.is_new else '  (goes on)'}")
    plan = {
        "data": names["data"],
        **{group: _shown(config, group) for group in ("model", "augmentation", "optimizer")},
        "max_lr": "by the range test" if config.needs_range_test else config.plugins["scheduler"].get("max_lr"),
        "training": f"{train.epochs} epochs, batch {train.batch_size}, {names['scheduler']}"
        + (f", EMA {train.ema}" if train.ema else ""),
        "device": f"{runtime.device_name}, {runtime.precision}",
        "seed": config.seed,
    }
    if config.task == "range_test":
        plan.pop("training")
    console.facts(plan)


def print_beside(found: Beside | None, console: Console) -> None:
    """Prints which unfinished run is beside one that begins, and what differs."""
    if found is None:
        return
    differs = [f"which differs in {', '.join(found.settings)}"] if found.settings else []
    differs += [f"with {found.images}"] if found.images else []
    code = ", with the code that began it," if found.is_of_other_code else ""
    console.line(
        f"  beside it, unfinished: {found.path} ({found.epoch} of {found.epochs} epochs done), {', '.join(differs)}; "
        f"its own command{code} goes on with it"
    )


def print_evaluation_plan(
    config: Config, checkpoint: str, runtime: Runtime, directory: RunDirectory, console: Console
) -> None:
    """Prints what will be measured."""
    console.heading(f"{directory.name}{'' if directory.is_new else '  (goes on)'}")
    console.facts(
        {
            "checkpoint": checkpoint,
            "data": config.short_names["data"],
            "model": _shown(config, "model"),
            "device": f"{runtime.device_name}, {runtime.precision}",
        }
    )


def print_predictions(
    rows: Sequence[tuple[str, str, float]],
    count: int,
    unreadable: Sequence[tuple[str, str]],
    path: Path,
    console: Console,
) -> None:
    """Prints the first predictions, the files that could not be read, and the path of the table."""
    width = max(len(name) for name, _, _ in rows)
    for name, label, probability in rows:
        console.line(f"  {name:<{width}}  {label}  {probability:.1%}")
    if count > len(rows):
        console.line(f"  ... and {count - len(rows):,} more")
    for name, reason in unreadable[:10]:
        console.warn(f"{name} cannot be read: {reason}")
    if len(unreadable) > 10:
        console.warn(f"and {len(unreadable) - 10:,} more cannot be read")
    console.facts({"predictions": f"{count:,} in {path}"})


def print_changed(changed: Sequence[str], console: Console) -> None:
    """Warns of changes in code, device or packages since the run started: its digits may change with them."""
    if changed:
        console.warn(
            f"since this run started: {', '.join(changed)}; another name=... makes a new one, and rerun=true "
            "one beside a finished one"
        )


def _shown(config: Config, group: str) -> str:
    return " ".join([config.short_names[group], *shown_settings(config.plugins[group])])


def print_data(info: DatasetInfo, notes: Sequence[str | None], console: Console) -> None:
    """Prints how the images are split, and what must be known to judge an accuracy on them."""
    held = f"{info.num_val:,} held out for validation, " if info.num_val else ""
    colour = {1: "grey", 3: "colour"}.get(info.in_channels, f"{info.in_channels}-channel")
    console.facts(
        {
            "images": f"{info.num_train:,} to train on, {held}{info.num_test:,} to test; {info.num_classes} classes, "
            f"{info.image_size}x{info.image_size}, {colour}"
        }
    )
    for note in filter(None, notes):
        console.warn(note)


def print_waiting(console: Console) -> None:
    """Prints that this run waits for another process, which makes the same range test."""
    console.line("  waits for the same LR range test, which another run is making")


def print_waiting_for_run(root: Path, console: Console) -> None:
    """Prints that a job of a sweep waits for another process, which works on the same run."""
    console.line(f"\n{root.name}: waits for another process, which works on the same run, to take its result")


def print_range_test(found: FoundLR, console: Console) -> None:
    """Prints the suggestion of the range test, the max_lr taken from it, and what other rules would suggest."""
    assert found.range_test is not None
    verdict, max_lr = found.range_test.verdict, found.max_lr
    kind = "max_lr by miniature runs" if found.range_test.miniatures else "LR range test"
    console.heading(kind + (" (cached)" if found.is_cached else ""))
    for event in found.range_test.history:
        console.line(f"  {event}")
    if verdict.suggestion is None:
        return
    others = ", ".join(f"{name} {lr:.3g}" for name, lr in verdict.rules.items() if name != "minimum")
    facts = {"suggestion": f"{verdict.suggestion:.4g} ({verdict.reason})"}
    if found.range_test.miniatures:
        ends = {
            one.max_lr: f"{one.end:.3f}" if math.isfinite(one.end) else "lost" for one in found.range_test.miniatures
        }
        facts["last losses"] = ", ".join(f"{end} at {lr:.3g}" for lr, end in ends.items())
    else:
        facts["other rules"] = others or "none applies"
    if max_lr is not None:
        facts["max_lr"] = (
            f"{max_lr:.4g}, {max_lr / verdict.suggestion:.4g} times the suggestion (scheduler.find_factor)"
        )
    console.facts(facts)
    if verdict.status != "ok":
        console.warn(f"low confidence in this LR: {verdict.reason}")


def print_going_on(trained: Trained, epochs: int, steps_per_epoch: int, console: Console) -> None:
    """Prints where the training goes on, unless it begins."""
    if trained.begun_steps:
        place = f"step {trained.begun_steps} of {steps_per_epoch} in epoch {len(trained.history) + 1}"
        console.line(f"  goes on after {place} of {epochs}")
    elif trained.history:
        console.line(f"  goes on after epoch {len(trained.history)} of {epochs}")


def print_result(
    result: dict[str, Any],
    metrics: Sequence[Metric],
    directory: RunDirectory,
    tracker_lines: Sequence[str],
    console: Console,
) -> None:
    """Prints the result, the run directory, and how to look at the run in its tracker."""
    console.heading(headline(result))
    facts: dict[str, object] = {}
    if 0 < len(result.get("per_class", ())) <= _MANY_CLASSES:
        facts["per class"] = "  ".join(
            f"{name} {part['correct'] / part['count']:.0%}" for name, part in result["per_class"].items()
        )
    tested = result.get("test", {})
    others = [metric for metric in metrics if metric.name in tested and metric.name not in IN_HEADLINE]
    if others:
        facts["also measured"] = ", ".join(f"{metric.shown(tested[metric.name])} {metric.title}" for metric in others)
    if "ema" in result:
        facts["EMA of weights"] = f"{accuracies(result['ema'])}; {directory.paths.model_ema.name}"
    if "max_lr" in result:
        facts["max_lr"] = f"{result['max_lr']:.4g} ({result['max_lr_source']})"
    facts["seconds"] = f"{result['seconds']:.0f}"
    facts["run directory"] = directory.paths.root
    console.facts(facts)
    print_tracker(tracker_lines, console)


def print_tracker(lines: Sequence[str], console: Console) -> None:
    """Prints the lines that a mirror returned at its end: how to look at the run in the tracker."""
    for line in lines:
        console.line(f"  {line}")


def print_report(sections: Sequence[Section], paths: RunPaths, console: Console) -> None:
    """Prints the path of the report, and the sections that could not be drawn."""
    gaps = [section for section in sections if section.gap]
    for section in gaps:
        console.line(f"  not drawn: {section.title}: {section.gap}")
    page = paths.report / "report.html"
    if page.exists() or sections:
        console.facts({"report": page if page.exists() else paths.report})


def print_finished(
    directory: RunDirectory, metrics: Sequence[Metric], tracker_lines: Sequence[str], console: Console
) -> None:
    """Prints that this run has finished before, and its result."""
    assert directory.result is not None
    console.line(f"\n{directory.name} is finished already; rerun=true runs it again beside this one", "bold")
    print_result(directory.result, metrics, directory, tracker_lines, console)
    print_report((), directory.paths, console)


class EpochTable:
    """The table on the terminal with a row for each epoch: the loop's metrics, and the others that have a column."""

    def __init__(
        self, console: Console, epochs: int, metrics: Sequence[Metric], validation: Validation, has_ema: bool = False
    ) -> None:
        self._console, self._epochs = console, epochs
        self._columns = _columns(metrics, validation, has_ema)

    def header(self) -> None:
        """Prints the columns' titles."""
        self._console.heading("training")
        self._print("epoch", [title for _, title, _ in self._columns], "dim")

    def row(self, epoch: Epoch, best: bool) -> None:
        """Prints one epoch."""
        cells = [format(epoch.metrics[name], form) for name, _, form in self._columns]
        self._print(f"{epoch.epoch}/{self._epochs}", [*cells, "best"] if best else cells)

    def _print(self, first: str, cells: Sequence[str], style: str = "") -> None:
        widths = [max(len(title), len(format(0.0, form))) for _, title, form in self._columns]
        aligned = [cell.rjust(width) for cell, width in zip(cells, [*widths, 0], strict=False)]
        self._console.line("  ".join(["", f"{first:>7}", *aligned]), style)


def _columns(metrics: Sequence[Metric], validation: Validation, has_ema: bool) -> list[tuple[str, str, str]]:
    """Metric name, title and format of each column: training, then what is measured, then LR and speed."""
    of_loop = [(metric.name, metric.column, metric.form) for metric in LOOP_METRICS]
    measured = [
        (f"{metric.name}/{validation.images}", f"{validation.column} {metric.column}", _FORMS[metric.unit])
        for metric in metrics
        if validation.split and metric.each_epoch and metric.column
    ]
    if validation.split and has_ema:
        measured.append((f"accuracy/{validation.ema_images}", f"{validation.ema_column} acc", _FORMS["fraction"]))
    training = [column for column in of_loop if column[0].endswith("/train")]
    return [*training, *measured, *(column for column in of_loop if column not in training)]
