"""A run's result, as it stands in result.json; accuracies are fractions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from resnet_exp.config.config import Config
from resnet_exp.interfaces import DatasetInfo, Schedule
from resnet_exp.training.evaluate import Evaluation, wilson_interval
from resnet_exp.training.lr_range import RangeTest
from resnet_exp.training.train import Training

# What the metrics and columns of each epoch's measurement are called. Test accuracies of every epoch keep a name of
# their own: `accuracy/test` is measured once.
MEASURED = {"holdout": "val", "test": "test_each_epoch", "none": None}
MEASURED_ON_TEST = "the test set was measured each epoch (data.validation=test); the headline is the last epoch"


def of_range_test(config: Config, found: RangeTest) -> dict[str, Any]:
    """The result of a range test alone."""
    return {
        "task": config.task,
        "objective": found.verdict.suggestion,
        "suggestion": found.verdict.suggestion,
        "status": found.verdict.status,
        "reason": found.verdict.reason,
    }


def of_training(
    config: Config,
    info: DatasetInfo,
    found: RangeTest | None,
    schedule: Schedule,
    training: Training,
    tested: Evaluation,
) -> dict[str, Any]:
    """The result of a whole run."""
    validation = config.split.validation
    return {
        "task": config.task,
        "objective": {"holdout": training.best_val_accuracy, "test": tested.accuracy, "none": None}[validation],
        "data": info.name,
        "validation": validation,
        "note": MEASURED_ON_TEST if validation == "test" else None,
        "max_lr": schedule.max_lr,
        "min_lr": schedule.min_lr,
        "max_lr_source": _source(found, schedule.max_lr),
        "epochs": config.train.epochs,
        "chosen_epoch": training.chosen_epoch,
        "best_val_accuracy": training.best_val_accuracy,
        "train_accuracy": training.history[-1].train_accuracy,
        **_measured(info, tested),
        "history": [asdict(epoch) for epoch in training.history],
    }


def of_evaluation(config: Config, info: DatasetInfo, checkpoint: str, tested: Evaluation) -> dict[str, Any]:
    """The result of measuring a checkpoint."""
    return {
        "task": config.task,
        "objective": tested.accuracy,
        "data": info.name,
        "checkpoint": checkpoint,
        "note": None,
        "best_val_accuracy": None,
        **_measured(info, tested),
    }


def _measured(info: DatasetInfo, tested: Evaluation) -> dict[str, Any]:
    return {
        "test": {"loss": tested.loss, "accuracy": tested.accuracy, "correct": tested.correct, "count": tested.count},
        "per_class": {
            name: {"correct": correct, "count": count}
            for name, (correct, count) in zip(info.class_names, tested.per_class, strict=True)
        },
    }


def once_metrics(result: dict[str, Any]) -> dict[str, float]:
    """The metrics that have one value a run."""
    if "test" not in result:
        return {}
    values = {"loss/test": result["test"]["loss"], "accuracy/test": result["test"]["accuracy"]}
    if result["best_val_accuracy"] is not None:
        values["accuracy/best_val"] = result["best_val_accuracy"]
    return values


def headline(result: dict[str, Any]) -> str:
    """The result in one line."""
    if "test" not in result:
        return (
            f"the range test suggests {result['suggestion']:.4g} ({result['status']}); "
            "scheduler.max_lr=find takes scheduler.find_factor times that"
        )
    line = f"{result['test']['accuracy']:.2%} test accuracy ({counts(result['test'])})"
    if result["best_val_accuracy"] is not None:
        line += f", {result['best_val_accuracy']:.2%} validation (best, epoch {result['chosen_epoch']})"
    return line + (f"; {result['note']}" if result["note"] else "")


def counts(test: dict[str, Any]) -> str:
    """The images that an accuracy rests on, and how sure that makes it."""
    low, high = wilson_interval(test["correct"], test["count"])
    return f"{test['correct']:,} of {test['count']:,}, 95% interval {low:.2%} to {high:.2%}"


def _source(found: RangeTest | None, max_lr: float) -> str:
    if found is None:
        return "given"
    suggestion = found.verdict.suggestion
    assert suggestion is not None, "a failed one ends the run"
    return f"range test: {found.verdict.status}, {max_lr / suggestion:g} x {suggestion:.4g}"
