"""The evaluation of a network on labelled images, and the interval of an accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resnet_exp.interfaces import Metric, RunError
from resnet_exp.training.metrics import measure, metrics_for

_Z = 1.959963984540054  # the normal distribution's 97.5 % quantile, for an interval of 95 %


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a split, and its confusion matrix."""

    metrics: dict[str, float]  # by name: loss, accuracy, ...
    confusion: tuple[tuple[int, ...], ...]  # row: the true class; column: the predicted one

    @property
    def loss(self) -> float:
        """In nats, the mean over images."""
        return self.metrics["loss"]

    @property
    def accuracy(self) -> float:
        """A fraction, 0..1."""
        return self.metrics["accuracy"]

    @property
    def correct(self) -> int:
        return sum(row[label] for label, row in enumerate(self.confusion))

    @property
    def count(self) -> int:
        return sum(map(sum, self.confusion))

    @property
    def per_class(self) -> tuple[tuple[int, int], ...]:
        """(correct, count) of each class, in label order."""
        return tuple((row[label], sum(row)) for label, row in enumerate(self.confusion))


def predict(logits: Tensor) -> Tensor:
    """The probabilities `[N, num_classes], float32` of logits: their softmax."""
    return logits.float().softmax(1)


def evaluate(logits: Tensor, labels: Tensor, metrics: Sequence[Metric] | None = None) -> Evaluation:
    """The evaluation of logits `[N, num_classes], float32` against labels `[N], int64`; waits for the device.

    Every metric is NaN where an image's logits give no probabilities: the largest of NaNs is the first, so that a
    broken network would have the accuracy of always answering the first class.

    Args:
        logits: of each image.
        labels: the true classes.
        metrics: those to compute; None: all of ours that apply to so many classes.
    """
    classes = logits.shape[1]
    confusion = torch.bincount(labels * classes + logits.argmax(1), minlength=classes**2).reshape(classes, classes)
    measured = metrics_for(classes) if metrics is None else metrics
    values = measure(measured, logits, labels)
    if bool(_broken(logits).any()):
        values = dict.fromkeys(values, math.nan)
    return Evaluation(values, tuple(tuple(row) for row in confusion.tolist()))


def check_finite(logits: Tensor, images: str) -> None:
    """Raises RunError where a network's outputs for these images, such as `test`, are not finite."""
    broken = int(_broken(logits).sum())
    if broken:
        raise RunError(
            f"the network's outputs for {broken:,} of {len(logits):,} {images} images are not finite, and no class can "
            "be read from them; train with a lower scheduler.max_lr, or with train.precision=fp32"
        )


def _broken(logits: Tensor) -> Tensor:
    """Which images have a NaN or an infinity among their logits, `[N], bool`; minus infinity only rules a class out."""
    return ~logits.logsumexp(1).isfinite()


def wilson_interval(correct: int, count: int, z: float = _Z) -> tuple[float, float]:
    """The ends of the 95 % interval of an accuracy, as fractions.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference (JASA 1927); recommended by
    Brown, Cai, DasGupta, Interval Estimation for a Binomial Proportion (Statistical Science 2001), section 3.1.1.

    Raises:
        ValueError: no image, or more correct ones than there are.
    """
    if not 0 <= correct <= count or count == 0:
        raise ValueError(f"correct={correct} of count={count}: at least one image is needed")
    share, z2 = correct / count, z * z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    # At the bounds the formula's rounding may leave them by a last digit.
    return 0.0 if correct == 0 else middle - half, 1.0 if correct == count else middle + half
