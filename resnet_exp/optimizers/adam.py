"""Adam: steps scaled by running means of the gradient and of its square; the weight decay is an L2 penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_exp.config.ranges import Factor, Fraction, NotNegative
from resnet_exp.interfaces import OptimizerFactory
from resnet_exp.optimizers.parameter_groups import check_excluded, decay_groups

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Adam


def adam(
    betas: tuple[Fraction, Fraction] = (0.9, 0.999),
    eps: Factor = 1e-8,
    weight_decay: NotNegative = 1e-4,
    decay_norms_and_biases: bool = True,
) -> OptimizerFactory:
    """A factory of Adam optimizers over all parameters of a model.

    Args:
        betas: decay rates of the running means of the gradient and of its square; a schedule that cycles the momentum
            sets the first.
        eps: added to the square root of the second mean; with 0 a gradient of 0 would give 0 / 0.
        weight_decay: the L2 penalty's factor. It is added to the gradient, as torch's Adam does, and scaled with it:
            where gradients are large, weights decay less; adamw's is independent of the gradient. The default: He et
            al., Deep Residual Learning for Image Recognition (2015), section 3.4.
        decay_norms_and_biases: false excludes norm layers and biases from the weight decay.

    Raises:
        ConfigError: norms and biases are excluded from a weight decay of 0.

    Source: Kingma, Ba: Adam: A Method for Stochastic Optimization (2014), algorithm 1, whose betas and eps these are.
    """
    check_excluded(weight_decay, decay_norms_and_biases)

    def make(model: nn.Module) -> Adam:
        import torch

        # fused: one kernel for all parameters, which reads the LR on the device and can skip an update there. Unlike
        # SGD's, the state that torch allocates in the first step is zero even if that step is skipped.
        groups = decay_groups(model, weight_decay, decay_norms_and_biases)
        return torch.optim.Adam(groups, lr=0.0, betas=(float(betas[0]), float(betas[1])), eps=eps, fused=True)

    return make
