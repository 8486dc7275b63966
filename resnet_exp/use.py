"""What a trained network is used for: measured on a data set (`task=evaluate`), asked about images (`task=predict`)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from resnet_exp import artifacts, build, result, runtime, telling
from resnet_exp.config import Config
from resnet_exp.console import Console
from resnet_exp.data.bank import Batch, ImageBank, in_order
from resnet_exp.data.decode_pool import decode_all
from resnet_exp.data.image_listing import ENDINGS
from resnet_exp.data.prepare_test import prepare_test
from resnet_exp.directory import open_run_directory
from resnet_exp.engine import infer
from resnet_exp.files import read_json, write_csv
from resnet_exp.interfaces import ConfigError, LabelledImages, RunError
from resnet_exp.record import recorded
from resnet_exp.report.subject import Subject
from resnet_exp.runtime import Runtime
from resnet_exp.signature import evaluation_signature
from resnet_exp.stages.evaluate import evaluate, predict
from resnet_exp.trained import Trained, check_classes, check_images, read_trained, with_trained_model

_SHOWN = 10  # predictions on the terminal; the file has them all


def evaluate_checkpoint(config: Config, command: str) -> float:
    """Measures a trained network on the test split of a data set, as a run of its own; returns the accuracy.

    The images are normalised as the network's training images were.

    Raises:
        ConfigError: a setting that cannot work, or a checkpoint of other classes or another model.
        RunError: the data cannot be read.
    """
    start = time.time()
    console = Console()
    trained = read_trained(str(config.checkpoint))
    config = with_trained_model(config, trained)
    source = build.source(config)
    check_images(trained, source.image_size)
    check_classes(trained, source.size().num_classes)
    artifacts.check_report(config.report, lambda: build.model(config, trained.info))
    machine = runtime.start(config.device, config.train.precision, config.train.deterministic)
    environment = runtime.environment(machine, config.plugin_folders)
    signature = evaluation_signature(config, source.identity(), trained.digest, machine.precision)
    data = prepare_test(
        source, config.short_names["data"], trained.normalisation, device=machine.device, progress=console.progress
    )
    check_classes(trained, data.info.num_classes, data.info.class_names)
    check_images(trained, data.info.image_size, data.info.in_channels)
    with open_run_directory(config.output_dir, config.title, signature, config.rerun) as directory:
        tracker = build.tracker(config.tracker, directory.paths)
        telling.tell_changed(read_json(directory.paths.environment) or environment, environment, console)
        if directory.result is not None:
            return telling.tell_finished(directory, config, tracker, console) or 0.0
        telling.tell_evaluation_plan(config, str(trained.path), machine, directory, console)
        with recorded(directory.paths, tracker) as record:
            record.begin(config, environment, command, directory.is_new)
            record.data(data.info, {"test": data.digest})
            record.mirror()
            model = network(config, trained, machine)
            logits, labels = infer(model, in_order(data.bank, config.train.batch_size), machine)
            tested = evaluate(logits, labels)
            artifacts.keep_predictions(logits, labels, tested, data.info, record)
            outcome = result.of_evaluation(config, data.info, str(trained.path), tested)
            outcome = record.finish(outcome, time.time() - start)
            subject = Subject(
                paths=directory.paths,
                settings=config.report,
                result=outcome,
                info=data.info,
                seed=config.seed,
                machine=machine,
                model=model,
                test=data.bank,
            )
            sections = artifacts.keep_report(subject, record, console.progress)
        telling.tell_result(outcome, config, directory, record.link, console)
        telling.tell_report(sections, directory.paths, console)
        return tested.accuracy


def network(config: Config, trained: Trained, machine: Runtime) -> torch.nn.Module:
    """The trained network on the device, in eval mode."""
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    model = trained.load_into(build.model(config, trained.info))
    return model.to(machine.device).to(memory_format=layout)


def predict_images(config: Config) -> Path:
    """The table `file,class,probability` of what a trained network takes each image for, written to `predictions`.

    Raises:
        ConfigError: a setting that cannot work, or no image there.
        RunError: not one image can be read.
    """
    console = Console()
    trained = read_trained(str(config.checkpoint))
    config = with_trained_model(config, trained)
    files = _images(Path(str(config.images)).expanduser().absolute())
    path = Path(config.predictions).absolute()
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"predictions={path}: a file in a folder that can be written to is needed")
    machine = runtime.start(config.device, config.train.precision, config.train.deterministic)
    model = network(config, trained, machine)
    console.heading(f"{len(files):,} image{'s' if len(files) > 1 else ''} and {trained.path}")
    rows: list[tuple[str, str, float]] = []
    unreadable: list[tuple[str, str]] = []
    with console.progress("predicting", len(files)) as advance:
        for names, pixels, faults in _decoded(files, trained):
            unreadable += faults
            rows += _predicted(model, names, pixels, trained, config.train.batch_size, machine)
            advance(len(names) + len(faults))
    if not rows:
        raise RunError(f"images={config.images}: not one can be read ({unreadable[0][0]}: {unreadable[0][1]})")
    write_csv(path, ("file", "class", "probability"), ((*row[:2], f"{row[2]:.6f}") for row in rows))
    telling.tell_predictions(rows[:_SHOWN], len(rows), unreadable, path, console)
    return path


def _images(root: Path) -> dict[Path, str]:
    """The image, or those under the folder, each with the name that the table has it by."""
    if root.is_file():
        return {root: root.name}
    if not root.is_dir():
        raise ConfigError(f"images={root}: there is no such file or folder; an image, or a folder of images, is needed")
    inside = {path: path.relative_to(root) for path in sorted(root.rglob("*")) if path.suffix.lower() in ENDINGS}
    shown = {path: str(name) for path, name in inside.items() if not any(part.startswith(".") for part in name.parts)}
    if not shown:
        raise ConfigError(f"images={root}: no images in it; their names end in {' '.join(ENDINGS)}")
    return shown


def _decoded(files: dict[Path, str], trained: Trained) -> Iterator[tuple[list[str], np.ndarray, list[tuple[str, str]]]]:
    """Runs of images: the names and pixels of those that can be read, and why the others cannot."""
    names = list(files.values())
    first = 0
    for decoded in decode_all(list(files), trained.image_size, trained.in_channels, None):
        faults = dict(decoded.unreadable)
        here = names[first : first + len(decoded.pixels) + len(faults)]
        first += len(here)
        readable = [name for index, name in enumerate(here) if index not in faults]
        yield readable, decoded.pixels, [(here[index], reason) for index, reason in faults.items()]


def _predicted(
    model: torch.nn.Module, names: list[str], pixels: np.ndarray, trained: Trained, batch_size: int, machine: Runtime
) -> list[tuple[str, str, float]]:
    if not names:
        return []
    images = LabelledImages(pixels, np.zeros(len(pixels), np.int64))
    bank = ImageBank(images, trained.normalisation, machine.device)
    batches: Iterator[Batch] = in_order(bank, batch_size)
    probabilities = predict(infer(model, batches, machine)[0]).cpu()
    best = probabilities.max(1)
    classes = [trained.class_names[label] for label in best.indices.tolist()]
    return list(zip(names, classes, best.values.tolist(), strict=True))
