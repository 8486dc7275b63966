"""What a run leaves behind: its result, its files, and the words for them."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor, nn

from resnet_exp.config import Config, SplitConfig
from resnet_exp.console import Console
from resnet_exp.data.prepare import Data
from resnet_exp.directory import RunDirectory
from resnet_exp.interfaces import DatasetInfo, Schedule, Tracker
from resnet_exp.record import Record
from resnet_exp.runtime import Runtime
from resnet_exp.stages.evaluate import Evaluation
from resnet_exp.stages.range_test import RangeTest
from resnet_exp.stages.train import Training
from resnet_exp.tracking.mlflow_store import ui_command

# What the metrics and columns of each epoch's measurement are called. Test accuracies of every epoch keep a name of
# their own: `test/accuracy` is measured once.
MEASURED = {"holdout": "val", "test": "test_each_epoch", "none": None}
_CHOSEN_ON_TEST = "test set measured each epoch (data.validation=test); the headline is the last epoch"
_log = logging.getLogger(__name__)


def of_range_test(config: Config, found: RangeTest | None) -> dict[str, Any]:
    """The result of a run that only looks for max_lr."""
    assert found is not None
    return {
        "task": config.task,
        "objective": found.verdict.max_lr,
        "max_lr": found.verdict.max_lr,
        "max_lr_source": f"range test: {found.verdict.status}",
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
    """The result of a whole run, as it stands in result.json; accuracies are fractions."""
    validation = config.split.validation
    objective = {"holdout": training.best_val_accuracy, "test": tested.accuracy, "none": None}[validation]
    return {
        "task": config.task,
        "objective": objective,
        "max_lr": schedule.max_lr,
        "min_lr": schedule.min_lr,
        "max_lr_source": f"range test: {found.verdict.status}" if found else "given",
        "validation": validation,
        "epochs": config.train.epochs,
        "chosen_epoch": training.chosen_epoch,
        "best_val_accuracy": training.best_val_accuracy,
        "train_accuracy": training.history[-1].train_accuracy,
        "test": {"loss": tested.loss, "accuracy": tested.accuracy, "correct": tested.correct, "count": tested.count},
        "per_class": {
            name: {"correct": correct, "count": count}
            for name, (correct, count) in zip(info.class_names, tested.per_class, strict=True)
        },
        "history": [asdict(epoch) for epoch in training.history],
    }


def keep_range_test(found: RangeTest, record: Record, reused: bool) -> None:
    """Writes the range test's curves, verdict and figure."""
    from resnet_exp.report.figures import range_test_figure

    record.file(record.paths.range_test, found.to_json())
    verdict = found.verdict
    record.tags({"max_lr_source": f"range test: {verdict.status}{' (remembered)' if reused else ''}"})
    if verdict.max_lr is not None:
        record.metrics({"range_test/max_lr": verdict.max_lr})
    png, svg = record.paths.report / "range_test.png", record.paths.report / "range_test.svg"
    record.paths.report.mkdir(exist_ok=True)
    try:
        range_test_figure(verdict, found.curves, None if verdict.max_lr is None else verdict.max_lr / 8, png, svg)
    except Exception:  # a picture is never worth a run
        _log.exception("the range test's figure could not be drawn")
        return
    record.file(png, folder="report")
    record.file(svg, folder="report")


def keep_predictions(logits: Tensor, labels: Tensor, tested: Evaluation, info: DatasetInfo, record: Record) -> None:
    """Writes the test set's logits `[N, num_classes], float32` and labels `[N], int64`, and the confusion matrix."""
    with record.paths.predictions.open("wb") as file:
        np.savez_compressed(file, logits=logits.cpu().numpy(), labels=labels.cpu().numpy())
    record.file(record.paths.predictions)
    confusion = {"class_names": list(info.class_names), "rows_true_columns_predicted": tested.confusion}
    record.file(record.paths.root / "confusion_matrix.json", confusion)


def keep_model(config: Config, data: Data, model: nn.Module, record: Record) -> None:
    """Writes the weights as safetensors with all that using them needs, and the network as an MLflow model."""
    metadata = {
        "class_names": json.dumps(data.info.class_names),
        "input": json.dumps([data.info.in_channels, data.info.image_size, data.info.image_size]),
        "mean_0_255": json.dumps(data.normalisation.mean),
        "std_0_255": json.dumps(data.normalisation.std),
        "model": json.dumps(config.plugins["model"]),
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, record.paths.model, metadata)
    record.file(record.paths.model)
    if config.tracker.kind != "mlflow":
        return
    from resnet_exp.tracking.network import export_network

    shape = (data.info.in_channels, data.info.image_size, data.info.image_size)
    try:
        record.journal.model(export_network(model, shape, record.paths.root / "mlflow_model"))
    except Exception as error:  # torch.export cannot follow every network; the weights are safe
        _log.warning("no MLflow model: torch.export could not follow this network (%s)", str(error).splitlines()[0])
