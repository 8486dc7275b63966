"""AdamW: Adam with a weight decay that is independent of the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_exp.config.ranges import Factor, Fraction, NotNegative
from resnet_exp.interfaces import OptimizerFactory
from resnet_exp.optimizers.parameter_groups import check_excluded, decay_groups

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import AdamW


def adamw(
    betas: tuple[Fraction, Fraction] = (0.9, 0.999),
    eps: Factor = 1e-8,
    weight_decay: NotNegative = 1e-2,
    decay_norms_and_biases: bool = True,
) -> OptimizerFactory:
    """A factory of AdamW optimizers over all parameters of a model.

    Args:
        betas: decay rates of the running means of the gradient and of its square; a schedule that cycles the momentum
            sets the first.
        eps: added to the square root of the second mean; with 0 a gradient of 0 would give 0 / 0.
        weight_decay: each step subtracts lr * weight_decay of every weight, whatever its gradient (decoupled; adam's is
            an L2 penalty). The default is torch's.
        decay_norms_and_biases: false excludes norm layers and biases from the weight decay.

    Raises:
        ConfigError: norms and biases are excluded from a weight decay of 0.

    Source: Loshchilov, Hutter: Decoupled Weight Decay Regularization (2017), algorithm 2; betas and eps are those of
    Kingma, Ba: Adam: A Method for Stochastic Optimization (2014), algorithm 1.
    """
    check_excluded(weight_decay, decay_norms_and_biases)

    def make(model: nn.Module) -> AdamW:
        import torch

        # fused: one kernel for all parameters, which reads the LR on the device and can skip an update there. Unlike
        # SGD's, the state that torch allocates in the first step is zero even if that step is skipped.
        groups = decay_groups(model, weight_decay, decay_norms_and_biases)
        return torch.optim.AdamW(groups, lr=0.0, betas=(float(betas[0]), float(betas[1])), eps=eps, fused=True)

    return make
