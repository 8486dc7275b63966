"""`task=predict`: a trained network classifies images; their classes and probabilities are written to a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from resnet_exp.config.config import Config
from resnet_exp.data.bank import Batch, ImageBank, in_order
from resnet_exp.data.decode_pool import decode_all
from resnet_exp.data.image_listing import image_endings, images_in, shown_left_out
from resnet_exp.data.memory import SMALLER, memory_told
from resnet_exp.interfaces import ConfigError, LabelledImages, RunError
from resnet_exp.run_dir.files import write_csv
from resnet_exp.run_dir.model_file import (
    ModelFile,
    network,
    read_model_file,
    with_model_of,
)
from resnet_exp.runs import messages
from resnet_exp.runs.console import Console
from resnet_exp.training.device import Runtime, start_runtime
from resnet_exp.training.evaluate import check_finite, predict
from resnet_exp.training.learner import infer

_SHOWN = 10  # predictions printed on the terminal; the file has all of them


@memory_told("predicting", SMALLER)
def predict_images(config: Config) -> Path:
    """Classifies images and writes the table `file,class,probability`; returns its path, the setting `predictions`.

    Raises:
        ConfigError: a setting that cannot work, or no image is found.
        RunError: none of the images can be read.
    """
    console = Console()
    model_file = read_model_file(str(config.checkpoint))
    config = with_model_of(config, model_file)
    files, left_out = _images(Path(str(config.images)).expanduser().absolute())
    path = Path(config.predictions).absolute()
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"predictions={path}: a file in a folder that can be written to is needed")
    runtime = start_runtime(config.device, config.train.precision, config.train.deterministic)
    model = network(config, model_file, runtime.device)
    console.heading(f"{len(files):,} image{'s' if len(files) > 1 else ''} and {model_file.shown}")
    if left_out:
        console.warn(f"images={config.images}: left out: {shown_left_out(left_out)}")
    rows: list[tuple[str, str, float]] = []
    unreadable: list[tuple[str, str]] = []
    with closing(_decoded(files, model_file)) as groups, console.progress("predicting", len(files)) as advance:
        for names, pixels, faults in groups:
            unreadable += faults
            rows += _predicted(model, names, pixels, model_file, config.train.batch_size, runtime)
            advance(len(names) + len(faults))
    if not rows:
        raise RunError(f"images={config.images}: none can be read ({unreadable[0][0]}: {unreadable[0][1]})")
    write_csv(path, ("file", "class", "probability"), ((*row[:2], f"{row[2]:.6f}") for row in rows))
    messages.print_predictions(rows[:_SHOWN], len(rows), unreadable, path, console)
    return path


def _images(root: Path) -> tuple[dict[Path, str], Counter[str]]:
    """The image, or those in the folder, each with its name in the table; and how often what else is there."""
    if root.is_file():
        return {root: root.name}, Counter()
    if not root.is_dir():
        what = "that is neither a file nor a folder" if root.exists() else "there is no such file or folder"
        raise ConfigError(f"images={root}: {what}; an image, or a folder of images, is needed")
    found = images_in(root, "images")
    if not found.names:
        there = f", but {shown_left_out(found.left_out)}" if found.left_out else ""
        raise ConfigError(f"images={root}: no images in it{there}. {image_endings()}")
    return {root / name: name for name in found.names}, found.left_out


def _decoded(
    files: dict[Path, str], model_file: ModelFile
) -> Generator[tuple[list[str], np.ndarray, list[tuple[str, str]]], None, None]:
    """Groups of images: the names and pixels of those that can be read, and the reasons why the others cannot."""
    names = list(files.values())
    first = 0
    with closing(decode_all(list(files), model_file.image_size, model_file.in_channels, None)) as runs:
        for decoded in runs:
            faults = dict(decoded.unreadable)
            here = names[first : first + len(decoded.pixels) + len(faults)]
            first += len(here)
            readable = [name for index, name in enumerate(here) if index not in faults]
            yield readable, decoded.pixels, [(here[index], reason) for index, reason in faults.items()]


def _predicted(
    model: torch.nn.Module,
    names: list[str],
    pixels: np.ndarray,
    model_file: ModelFile,
    batch_size: int,
    runtime: Runtime,
) -> list[tuple[str, str, float]]:
    if not names:
        return []
    images = LabelledImages(pixels, np.zeros(len(pixels), np.int64))
    bank = ImageBank(images, model_file.normalisation, runtime.device)
    batches: Iterator[Batch] = in_order(bank, batch_size)
    logits, _ = infer(model, batches, runtime)
    check_finite(logits, "given")
    probabilities = predict(logits).cpu()
    best = probabilities.max(1)
    classes = [model_file.class_names[label] for label in best.indices.tolist()]
    return list(zip(names, classes, best.values.tolist(), strict=True))
