"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_exp.config.ranges import Fraction, NotNegative
from resnet_exp.interfaces import ConfigError, OptimizerFactory
from resnet_exp.optimizers.parameter_groups import check_excluded, decay_groups

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import SGD


def sgd(
    momentum: Fraction = 0.9,
    nesterov: bool = True,
    weight_decay: NotNegative = 5e-4,
    decay_norms_and_biases: bool = True,
) -> OptimizerFactory:
    """A factory of SGD optimizers over all parameters of a model.

    Args:
        momentum: the share of the last update that enters the next; a schedule may cycle it.
        nesterov: Nesterov's form, which needs a momentum above 0.
        weight_decay: the L2 penalty's factor; the reference networks' 5e-4.
        decay_norms_and_biases: false excludes norm layers and biases from the weight decay; true as in the reference
            notebooks.

    Raises:
        ConfigError: Nesterov without momentum; norms and biases are excluded from a weight decay of 0.
    """
    if nesterov and momentum == 0:
        raise ConfigError("optimizer.nesterov=true needs optimizer.momentum above 0; set optimizer.nesterov=false")
    check_excluded(weight_decay, decay_norms_and_biases)

    def make(model: nn.Module) -> SGD:
        import torch

        # fused: one kernel for all parameters, and the only one that can skip an update without waiting for the host.
        groups = decay_groups(model, weight_decay, decay_norms_and_biases)
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=nesterov, fused=True)
        if momentum:
            # torch allocates the buffers in the first step, uninitialised if that step is skipped (fp16). Starting
            # from zero gives the same first step: momentum * 0 + gradient.
            for parameter in model.parameters():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer

    return make
