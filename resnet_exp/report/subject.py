"""`Subject`: what a report is drawn from, the records in a run directory with the run's data and network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from resnet_exp.config.config import Config
from resnet_exp.config.schema import ReportConfig
from resnet_exp.data.bank import ImageBank
from resnet_exp.data.prepare import Data, EvaluationData
from resnet_exp.interfaces import Augmentation, DatasetInfo, Metric
from resnet_exp.report.fonts import is_drawable, isolated
from resnet_exp.report.section import Gap
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.training.device import Runtime


@dataclass(frozen=True)
class Predictions:
    """The network's predictions on the test set; row i is test image i."""

    labels: np.ndarray  # [N], int64
    probabilities: np.ndarray  # [N, num_classes], float32

    @classmethod
    def read(cls, path: Path, most_bytes: int | None = None) -> Predictions:
        """Reads the predictions that a run saved in its `predictions.npz`.

        Raises:
            Gap: it unpacks to more bytes than these, of which its names and shapes take a few.
        """
        with np.load(path) as saved:
            if most_bytes is not None and sum(one.file_size for one in saved.zip.infolist()) > most_bytes + 10_000:
                raise Gap(f"{path.name} is larger than the predictions of this run can be")
            return cls(saved["labels"], saved["probabilities"])

    @cached_property
    def predicted(self) -> np.ndarray:
        """The predicted class, `[N], int64`."""
        return self.probabilities.argmax(1)

    @cached_property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, `[N], float32`, 0..1."""
        return self.probabilities.max(1)

    def details(self, indices: np.ndarray, class_names: Sequence[str]) -> list[tuple[int, str, str, float]]:
        """The number, true class, predicted class and confidence of each of these images."""
        return [
            (int(i), class_names[self.labels[i]], class_names[self.predicted[i]], float(self.confidence[i]))
            for i in indices
        ]

    @cached_property
    def wrong(self) -> np.ndarray:
        """The numbers of the misclassified images, `[M], int64`: the most confident first, then by number."""
        indices = np.flatnonzero(self.predicted != self.labels)
        return indices[np.argsort(-self.confidence[indices], kind="stable")]


@dataclass(frozen=True)
class Subject:
    """A run whose report is drawn. Everything measured is read from its directory, so that a redraw is the same."""

    paths: RunPaths
    settings: ReportConfig
    result: dict[str, Any]  # as in result.json
    data: EvaluationData
    metrics: tuple[Metric, ...]  # those that the run measured
    seed: int
    runtime: Runtime
    model: nn.Module | None = None  # trained, on the device; None after a range test alone
    augmentation: Augmentation | None = None  # None where nothing was trained

    @classmethod
    def of(
        cls,
        config: Config,
        paths: RunPaths,
        result: dict[str, Any],
        data: EvaluationData,
        metrics: tuple[Metric, ...],
        runtime: Runtime,
        model: nn.Module | None,
        augmentation: Augmentation | None,
    ) -> Subject:
        """The run of this config, with what it left behind and what it was made from."""
        return cls(paths, config.report, result, data, metrics, config.seed, runtime, model, augmentation)

    @property
    def info(self) -> DatasetInfo:
        return self.data.info

    @property
    def drawn_names(self) -> tuple[str, ...]:
        """The classes as figures show them: with the class's number where a name cannot be written in any font."""
        names = enumerate(self.info.class_names)
        return tuple(isolated(name if is_drawable(name) else f"{number}: {name}") for number, name in names)

    @property
    def test(self) -> ImageBank:
        return self.data.test

    @property
    def train(self) -> ImageBank | None:
        return self.data.train if isinstance(self.data, Data) else None

    @cached_property
    def predictions(self) -> Predictions:
        """The predictions on the test set.

        Raises:
            Gap: the run directory has none.
        """
        if not self.paths.predictions.exists():
            raise Gap(f"{self.paths.predictions.name} is missing from the run directory")
        predictions = Predictions.read(self.paths.predictions, self.info.num_test * (8 * self.info.num_classes + 8))
        rows, classes = predictions.probabilities.shape
        if (len(predictions.labels), rows, classes) != (self.info.num_test, self.info.num_test, self.info.num_classes):
            raise Gap(f"{self.paths.predictions.name} is of other images or classes")
        return predictions

    def test_images(self, indices: np.ndarray) -> np.ndarray:
        """The pixels `[N, H, W, C], uint8` of the test images with these numbers `[N], int64`."""
        return self.test.pixels(torch.from_numpy(indices))

    @property
    def folder(self) -> Path:
        return self.paths.report
