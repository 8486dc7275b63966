"""The content of result.json, and the result in a line of text; accuracies are fractions."""

from __future__ import annotations

from typing import Any

from resnet_exp.config.config import Config
from resnet_exp.config.validation import VALIDATION
from resnet_exp.interfaces import DatasetInfo, Schedule
from resnet_exp.training.evaluate import Evaluation, wilson_interval
from resnet_exp.training.lr_range import FoundLR, RangeTest
from resnet_exp.training.train import Chosen, Training

IN_HEADLINE = ("loss", "accuracy")  # metrics that need no line beside it: it says the accuracy, the report has the loss


def of_range_test(config: Config, found: RangeTest) -> dict[str, Any]:
    """The result of a range test alone."""
    verdict = found.verdict
    return {
        "task": config.task,
        "objective": verdict.suggestion,
        "suggestion": verdict.suggestion,
        "status": verdict.status,
        "reason": verdict.reason,
    }


def of_training(
    config: Config,
    info: DatasetInfo,
    found: FoundLR,
    schedule: Schedule,
    training: Training,
    tested: Evaluation,
    tested_ema: Evaluation | None,
    note: str | None,
) -> dict[str, Any]:
    """The result of a training run, in which the moving average has a part of its own; the note is on its images."""
    validation = VALIDATION[config.split.validation]
    accuracies = {"best validation": training.best_val_accuracy, "test": tested.accuracy, None: None}
    return {
        "task": config.task,
        "objective": accuracies[validation.objective],
        "data": info.name,
        "validation": config.split.validation,
        "note": "; ".join(filter(None, (validation.note, note))) or None,
        "max_lr": schedule.max_lr,
        "min_lr": schedule.min_lr,
        "max_lr_source": found.source,
        "epochs": config.train.epochs,
        "chosen_epoch": training.chosen_epoch,
        "best_val_accuracy": training.best_val_accuracy,
        "train_accuracy": training.history[-1].metrics["accuracy/train"],
        **_measured(info, tested),
        **_of_ema(training.ema, tested_ema),
        "history": [{"epoch": epoch.epoch, **epoch.metrics} for epoch in training.history],
    }


def _of_ema(ema: Chosen | None, tested: Evaluation | None) -> dict[str, Any]:
    if ema is None or tested is None:
        return {}
    return {"ema": {"chosen_epoch": ema.epoch, "best_val_accuracy": ema.val_accuracy, "test": _counted(tested)}}


def of_evaluation(
    config: Config, info: DatasetInfo, checkpoint: str, tested: Evaluation, note: str | None
) -> dict[str, Any]:
    """The result of measuring a checkpoint; the note is on its weights."""
    return {
        "task": config.task,
        "objective": tested.accuracy,
        "data": info.name,
        "checkpoint": checkpoint,
        "note": note,
        "best_val_accuracy": None,
        **_measured(info, tested),
    }


def _measured(info: DatasetInfo, tested: Evaluation) -> dict[str, Any]:
    return {
        "test": _counted(tested),
        "per_class": {
            name: {"correct": correct, "count": count}
            for name, (correct, count) in zip(info.class_names, tested.per_class, strict=True)
        },
    }


def _counted(tested: Evaluation) -> dict[str, float]:
    return {**tested.metrics, "correct": tested.correct, "count": tested.count}


def once_metrics(result: dict[str, Any]) -> dict[str, float]:
    """The metrics that have one value a run, by their names in the journal."""
    values: dict[str, float] = {}
    for part, suffix in ((result, ""), (result.get("ema", {}), "_ema")):
        tested = part.get("test", {})
        values |= {f"{name}/test{suffix}": tested[name] for name in tested if name not in ("correct", "count")}
        if tested and part["best_val_accuracy"] is not None:
            values[f"accuracy/best_val{suffix}"] = part["best_val_accuracy"]
    return values


def headline(result: dict[str, Any]) -> str:
    """The result in one line."""
    if "test" not in result:
        return (
            f"the range test suggests {result['suggestion']:.4g} ({result['status']}); "
            "scheduler.max_lr=find takes scheduler.find_factor times that"
        )
    return accuracies(result) + (f"; {result['note']}" if result["note"] else "")


def accuracies(part: dict[str, Any]) -> str:
    """The test and validation accuracy in a result, or in its part `ema`."""
    line = f"{part['test']['accuracy']:.2%} test accuracy ({counts(part['test'])})"
    if part["best_val_accuracy"] is not None:
        line += f", {part['best_val_accuracy']:.2%} validation (best, epoch {part['chosen_epoch']})"
    return line


def counts(test: dict[str, Any]) -> str:
    """The number of images behind an accuracy, and its interval: `350 of 355, 95% interval 96.75% to 99.40%`."""
    low, high = wilson_interval(test["correct"], test["count"])
    return f"{test['correct']:,} of {test['count']:,}, 95% interval {low:.2%} to {high:.2%}"
