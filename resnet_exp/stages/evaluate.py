"""A network measured on a labelled split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """The mean loss over images, what was predicted right, and where the rest went."""

    loss: float
    correct: int
    count: int
    confusion: tuple[tuple[int, ...], ...]  # row: the true class; column: the predicted one

    @property
    def accuracy(self) -> float:
        """A fraction, 0..1."""
        return self.correct / self.count

    @property
    def per_class(self) -> tuple[tuple[int, int], ...]:
        """(correct, count) of each class, in label order."""
        return tuple((row[label], sum(row)) for label, row in enumerate(self.confusion))


def predict(logits: Tensor) -> Tensor:
    """The probabilities `[N, num_classes], float32` of logits: their softmax."""
    return logits.float().softmax(1)


def evaluate(logits: Tensor, labels: Tensor) -> Evaluation:
    """The evaluation of logits `[N, num_classes], float32` against labels `[N], int64`; waits for the device."""
    classes = logits.shape[1]
    confusion = torch.bincount(labels * classes + logits.argmax(1), minlength=classes**2).reshape(classes, classes)
    rows = confusion.tolist()
    return Evaluation(
        loss=float(F.cross_entropy(logits, labels, reduction="sum").double() / len(labels)),
        correct=sum(row[label] for label, row in enumerate(rows)),
        count=len(labels),
        confusion=tuple(tuple(row) for row in rows),
    )
