"""RMSprop: momentum over gradients scaled by a running mean of their squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_exp.config.ranges import Factor, Fraction, NotNegative
from resnet_exp.interfaces import OptimizerFactory
from resnet_exp.optimizers.parameter_groups import check_excluded, decay_groups

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import RMSprop


def rmsprop(
    alpha: Fraction = 0.9,
    eps: Factor = 0.0316,
    momentum: Fraction = 0.9,
    weight_decay: NotNegative = 1e-5,
    decay_norms_and_biases: bool = True,
) -> OptimizerFactory:
    """A factory of RMSprop optimizers over all parameters of a model.

    torch has no fused kernel for it: in fp16 the host waits for the device at every step, to know whether to skip it.

    Args:
        alpha: decay rate of the running mean of the gradient's square.
        eps: added to the square root of that mean; with 0 a gradient of 0 would give 0 / 0.
        momentum: the share of the last update that enters the next; a schedule may cycle it.
        weight_decay: the L2 penalty's factor, added to the gradient and scaled with it.
        decay_norms_and_biases: false excludes norm layers and biases from the weight decay.

    Raises:
        ConfigError: norms and biases are excluded from a weight decay of 0.

    Source: Tieleman, Hinton: Neural Networks for Machine Learning (Coursera, 2012), lecture 6.5. The defaults are those
    with which torchvision trained MobileNetV3 (references/classification); torch's: 0.99, 1e-8 and 0.
    """
    check_excluded(weight_decay, decay_norms_and_biases)

    def make(model: nn.Module) -> RMSprop:
        import torch

        implementation = _implementation(next(model.parameters()).is_cuda)
        groups = decay_groups(model, weight_decay, decay_norms_and_biases)
        optimizer = torch.optim.RMSprop(groups, lr=0.0, alpha=alpha, eps=eps, momentum=momentum, **implementation)

        def keep_implementation(_: Any, state: dict[str, Any]) -> dict[str, Any]:
            return {**state, "param_groups": [{**group, **implementation} for group in state["param_groups"]]}

        # Loading a state overwrites these flags with those of the device that it was saved on.
        optimizer.register_load_state_dict_pre_hook(keep_implementation)
        return optimizer

    return make


def _implementation(on_cuda: bool) -> dict[str, bool]:
    """torch's flags for how a step is computed: on CUDA only `capturable` reads an LR tensor without the host."""
    return {"foreach": on_cuda, "capturable": on_cuda}
