"""The files that the stages of a run write into its directory, each recorded in the journal."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.torch import save
from torch import Tensor, nn

from resnet_exp.config import build
from resnet_exp.config.config import Config
from resnet_exp.config.schema import ReportConfig
from resnet_exp.data.prepare import Data
from resnet_exp.interfaces import COMPARED_IMAGES, COMPARED_TABLES, DatasetInfo, Progress, RunError, first_line
from resnet_exp.report.section import Section, drawn
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.contents import read_recorded
from resnet_exp.run_dir.directory import NO_REPORT
from resnet_exp.run_dir.files import (
    Unwritable,
    displayed,
    read_csv,
    write_csv,
    write_durably,
    write_json,
    written_durably,
)
from resnet_exp.run_dir.weights import weights_of
from resnet_exp.runs.record import Record
from resnet_exp.training.device import untouched_randomness
from resnet_exp.training.evaluate import Evaluation, predict
from resnet_exp.training.lr_range import FoundLR
from resnet_exp.training.train import Training

_log = logging.getLogger(__name__)


def save_range_test(found: FoundLR, record: Record, *, draw: bool) -> None:
    """Writes range_test.json, with curves and verdict, and draws them; the figure marks the schedule's LRs if known.

    A failed range test is drawn even without `draw`: the figure shows what was wrong.
    """
    tested = found.range_test
    assert tested is not None
    own = read_recorded(record.paths.range_test) or {}  # a resumed run may have made its range test itself
    record.file(record.paths.range_test, {**tested.to_json(), "remembered": own.get("remembered", found.is_cached)})
    verdict = tested.verdict
    record.tags({"max_lr_source": f"range test: {verdict.status}{' (cached)' if found.is_cached else ''}"})
    lrs = {"range_test/suggestion": verdict.suggestion, "range_test/max_lr": found.max_lr}
    record.metrics({name: lr for name, lr in lrs.items() if lr is not None})
    if not draw and verdict.suggestion is not None:
        return

    def figure() -> Section:
        from resnet_exp.report.parts.lr_range import range_test_section

        return range_test_section(tested, found.max_lr, found.min_lr, record.paths.report)

    try:
        section = drawn("LR range test", figure)
    except Unwritable as error:
        section = Section("LR range test", gap=str(error))
    if section.gap:
        _log.warning("not drawn: %s: %s", section.title, section.gap)
    if record.paths.report.exists():  # without a figure its data may be there
        record.file(record.paths.report, folder="report")


def check_report(settings: ReportConfig, make_model: Callable[[], nn.Module | None]) -> None:
    """Raises ConfigError where the report names functions that do not exist, or layers that the network lacks."""
    for name in settings.extra:
        build.figure(name)
    if settings.gradcam and settings.gradcam_layers:
        from resnet_exp.report.network.layers import check_layers

        with untouched_randomness():
            model = make_model()
        if model is not None:
            check_layers(model, settings.gradcam_layers)


def save_report(subject: Subject, record: Record, progress: Progress) -> tuple[Section, ...]:
    """Draws the report and records it, with the images and tables that runs are compared by; returns its sections.

    Raises:
        RunError: it could not be drawn, or does not fit on the disk; the run itself is saved.
    """
    try:
        from resnet_exp.report.report import draw_report

        sections = draw_report(subject, progress)
        tables = [
            _as_json(path) for path in (subject.folder / f"{name}.csv" for name in COMPARED_TABLES) if path.exists()
        ]
    except Unwritable as error:
        record.journal.last_event(NO_REPORT, reason=str(error))
        raise RunError(
            f"the report is not drawn: {error}. The run itself is saved, and its own command draws it"
        ) from error
    except Exception as error:
        _log.debug("", exc_info=True)
        raise RunError(
            f"the report could not be drawn ({type(error).__name__}: {first_line(error)}); the run itself is saved: "
            f"task=report run_dir={subject.paths.root} draws it again"
        ) from error
    if not subject.folder.exists():
        return ()
    record.file(subject.folder, folder="report")
    for name in COMPARED_IMAGES:
        if _drawn(name, sections):
            record.image(subject.folder / f"{name}.png", name)
    for table in tables:
        record.table(table)
    return sections


def _drawn(name: str, sections: tuple[Section, ...]) -> bool:
    return any(figure.image.stem == name for section in sections for figure in section.figures)


def _as_json(table: Path) -> Path:
    """Writes the CSV as JSON, `columns` and `data`, beside it; returns the path."""
    columns, *rows = [[displayed(cell) for cell in row] for row in read_csv(table)]  # names may be of any bytes
    path = table.with_suffix(".json")
    write_json(path, {"columns": columns, "data": rows})
    return path


def save_steps(training: Training, record: Record) -> None:
    """Writes steps.csv: LR, momentum and loss of every optimizer step, as applied and measured."""
    per_epoch = len(training.steps) // len(training.history)
    rows = ((step, step // per_epoch + 1, *map(repr, row)) for step, row in enumerate(training.steps.tolist()))
    record.file(write_csv(record.paths.steps, ("step", "epoch", "lr", "momentum", "loss"), rows))


def save_predictions(logits: Tensor, labels: Tensor, tested: Evaluation, info: DatasetInfo, record: Record) -> None:
    """Writes predictions.npz, of the test set, and its confusion matrix.

    The arrays are logits and probabilities `[N, num_classes], float32`, and labels `[N], int64`.
    """
    with written_durably(record.paths.predictions) as path, path.open("wb") as file:
        np.savez_compressed(
            file,
            logits=logits.cpu().numpy(),
            probabilities=predict(logits).cpu().numpy(),
            labels=labels.cpu().numpy(),
        )
    record.file(record.paths.predictions)
    confusion = {"class_names": list(info.class_names), "rows_true_columns_predicted": tested.confusion}
    record.file(record.paths.root / "confusion_matrix.json", confusion)


def save_model(
    config: Config, data: Data, model: nn.Module, record: Record, *, export: bool = False, ema: float | None = None
) -> None:
    """Writes model.safetensors, weights and what using them needs; with `export` also in the tracker's own format.

    With `ema`, the decay of the moving average that the weights are, it is model_ema.safetensors, which says so.
    """
    info = data.info
    metadata = {
        "class_names": info.class_names,
        "input_shape": (info.in_channels, info.image_size, info.image_size),
        "mean": data.normalisation.mean,  # of pixels 0..255, a value a channel
        "std": data.normalisation.std,
        "model": config.plugins["model"],
        **({} if ema is None else {"ema": ema}),
    }
    # Under one key: safetensors writes several keys in any order, and the same network would give different bytes.
    content = save(weights_of(model), {"resnet_exp": json.dumps(metadata, sort_keys=True)})
    path = record.paths.model if ema is None else record.paths.model_ema
    write_durably(path, content)
    record.file(path)
    if export:
        record.export(model, info)
