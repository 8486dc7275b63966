"""`METRICS`, the metrics of a classifier: each is declared once here and shown wherever metrics are shown."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_exp.interfaces import ConfigError, Metric

_log = logging.getLogger(__name__)
_UNITS = ("fraction", "nats", "number")
_TAKEN = ("correct", "count")  # beside the metrics in result.json
_TOP = 5
_BINS = 15  # Source: Guo et al. (2017), section 5: M = 15


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy, in nats, as the mean over images."""
    return F.cross_entropy(logits, labels, reduction="sum").double() / len(labels)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The fraction of images whose largest logit is that of their class."""
    return (logits.argmax(1) == labels).sum().double() / len(labels)


def top5_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The fraction of images whose class is among the five largest logits."""
    return (logits.topk(_TOP).indices == labels[:, None]).any(1).sum().double() / len(labels)


def expected_calibration_error(logits: Tensor, labels: Tensor) -> Tensor:
    """The difference between confidence and accuracy in 15 bins of confidence, as the mean over images, 0..1.

    Source: Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks (ICML 2017), section 2, equation 3.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    # A bin is open below and closed above, so that a confidence of 1 falls into the last one.
    bins = ((confidence * _BINS).ceil().long() - 1).clamp(0, _BINS - 1)  # a NaN is cast to any number
    gaps = torch.zeros(_BINS, dtype=torch.float64, device=logits.device)
    gaps.index_add_(0, bins, confidence - (predicted == labels).double())
    return gaps.abs().sum() / len(labels)


# A new metric is a new entry: the table on the terminal, the journal, the tracker, the curves and result.json then show
# it. One outside the package is named by `metrics=[MODULE.NAME]`, with `plugins=DIR`.
METRICS = (
    Metric("loss", mean_loss, title="loss (nats per image)", unit="nats", higher_is_better=False, column="loss"),
    Metric("accuracy", accuracy, title="accuracy", unit="fraction", higher_is_better=True, column="acc"),
    Metric(
        "top5_accuracy", top5_accuracy, title="top-5 accuracy", unit="fraction", higher_is_better=True, column="top5",
        least_classes=11,  # of ten classes, half would be right by chance
    ),
    Metric(
        "ece", expected_calibration_error, title="calibration error (ECE)", unit="fraction", higher_is_better=False,
        each_epoch=False,
    ),
)  # fmt: skip


def metrics_for(
    num_classes: int, extra: Sequence[Metric] = (), device: torch.device | str = "cpu"
) -> tuple[Metric, ...]:
    """The metrics for `num_classes` classes; those that the user added are last.

    Raises:
        ConfigError: one that the user added is declared wrong, or fails on logits of this shape on this device.
    """
    for number, metric in enumerate(extra):
        _check_declared(metric, (*METRICS, *extra[:number]))
        _try(metric, num_classes, device)
    return tuple(metric for metric in (*METRICS, *extra) if num_classes >= metric.least_classes)


def _check_declared(metric: Metric, others: Sequence[Metric]) -> None:
    if metric.name in {*(other.name for other in others), *_TAKEN}:
        raise ConfigError(f"metrics: there is a metric {metric.name} already; give yours another name")
    if not re.fullmatch(r"[A-Za-z]\w*", metric.name):
        raise ConfigError(f"metrics: a name of letters, digits and _ is needed, not {metric.name!r}")
    if metric.unit not in _UNITS:
        raise ConfigError(f"metrics: {metric.name} has the unit {metric.unit!r}; one of {', '.join(_UNITS)} is needed")


def _try(metric: Metric, num_classes: int, device: torch.device | str) -> None:
    """Computes the metric once from made-up logits: a mistake shows before the training, not after an epoch."""
    labels = torch.arange(2 * num_classes, device=device) % num_classes
    try:
        _computed(metric, F.one_hot(labels, num_classes).float(), labels)
    except Exception as error:  # any mistake in the user's function
        raise ConfigError(
            f"metrics: {metric.name} cannot be measured of logits [N, {num_classes}] and labels [N] "
            f"({type(error).__name__}: {error})"
        ) from error


def measure(metrics: Sequence[Metric], logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The metrics by name, of logits `[N, num_classes], float32` and labels `[N], int64`; waits for the device once.

    One that the user added and that fails is NaN, with a warning: a metric is not worth a run.
    """
    values = [
        _computed(metric, logits, labels) if metric in METRICS else _safely(metric, logits, labels)
        for metric in metrics
    ]
    return dict(zip((metric.name for metric in metrics), torch.stack(values).tolist(), strict=True))


def _computed(metric: Metric, logits: Tensor, labels: Tensor) -> Tensor:
    return torch.as_tensor(metric.measure(logits, labels), dtype=torch.float64, device=logits.device).reshape(())


def _safely(metric: Metric, logits: Tensor, labels: Tensor) -> Tensor:
    try:
        # Copies: one that works in place would change the saved predictions, and the other metrics.
        return _computed(metric, logits.clone(), labels.clone())
    except Exception as error:  # any mistake in the user's function
        _log.warning("the metric %s is NaN: it failed (%s: %s)", metric.name, type(error).__name__, error)
        return torch.tensor(math.nan, dtype=torch.float64, device=logits.device)
