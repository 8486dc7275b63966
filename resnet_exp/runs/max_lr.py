"""What a schedule makes of the LR that the range test suggests."""

from __future__ import annotations

import torch
from torch import nn

from resnet_exp.config import build
from resnet_exp.config.config import Config
from resnet_exp.interfaces import DatasetInfo
from resnet_exp.training.device import untouched_randomness
from resnet_exp.training.lr_range import RangeTest


def max_lr_of(config: Config, plugins: build.Plugins, info: DatasetInfo, found: RangeTest | None) -> float | None:
    """The given max_lr, or the scheduler's multiple of the LR that the range test suggests; None where it failed."""
    if found is None:
        return plugins.scheduler.max_lr
    suggestion = found.verdict.suggestion
    return None if suggestion is None else _find_factor(config, plugins, info) * suggestion


def _find_factor(config: Config, plugins: build.Plugins, info: DatasetInfo) -> float:
    """The given factor, or the measured one.

    SGD bears a multiple of the suggestion on networks with batch normalisation; Adam, and a network without it, are
    lost (results/README.md). That fits with weights whose scale does not matter: they grow until the LR suits them.

    Source: van Laarhoven, L2 Regularization versus Batch and Weight Normalization (2017), section 2.
    """
    scheduler = plugins.scheduler
    if scheduler.find_factor is not None:
        return scheduler.find_factor
    with untouched_randomness():
        model = build.model(config, info)
    normalised = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())
    is_sgd = isinstance(plugins.optimizer(model), torch.optim.SGD)
    return scheduler.measured_factor if normalised and is_sgd else 1.0
