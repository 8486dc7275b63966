"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from resnet_exp.interfaces import ConfigError
from resnet_exp.ranges import Fraction, NotNegative


def sgd(
    momentum: Fraction = 0.9, nesterov: bool = True, weight_decay: NotNegative = 5e-4
) -> Callable[[nn.Module], torch.optim.SGD]:
    """A factory of SGD optimizers over all parameters of a model.

    Args:
        momentum: the share of the last update that is kept.
        nesterov: Nesterov's form, which needs a momentum above 0.
        weight_decay: the L2 penalty's factor; the reference networks' 5e-4.

    Raises:
        ConfigError: Nesterov without momentum.
    """
    if nesterov and momentum == 0:
        raise ConfigError("optimizer.nesterov=true needs optimizer.momentum above 0; set optimizer.nesterov=false")

    def make(model: nn.Module) -> torch.optim.SGD:
        # fused: one kernel for all parameters, and the only form that can skip an update without asking the host.
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.0, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=True
        )
        if momentum:
            # torch allocates these in the first step and leaves them uninitialised if that step is skipped. From zero
            # the first step is the same: 0.9 * 0 + gradient.
            for parameter in model.parameters():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer

    return make
