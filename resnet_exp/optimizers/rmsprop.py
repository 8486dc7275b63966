"""RMSprop: momentum over gradients scaled by a running mean of their squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_exp.config.ranges import Factor, Fraction, NotNegative
from resnet_exp.interfaces import OptimizerFactory
from resnet_exp.optimizers.parameter_groups import check_spared, decay_groups

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
        alpha: how much of the running mean of the gradient's square is kept.
        eps: added to the root of that mean; 0 would divide 0 by 0 where a gradient vanishes.
        momentum: the share of the last update that is kept; a schedule may cycle it.
        weight_decay: the L2 penalty's factor, added to the gradient and scaled with it.
        decay_norms_and_biases: false spares them the weight decay.

    Raises:
        ConfigError: norms and biases spared a weight decay of 0.

    Source: Tieleman, Hinton: Neural Networks for Machine Learning (Coursera, 2012), lecture 6.5. The defaults are those
    with which torchvision trained MobileNetV3 (references/classification); torch's: 0.99, 1e-8 and 0.
    """
    check_spared(weight_decay, decay_norms_and_biases)

    def make(model: nn.Module) -> RMSprop:
        import torch

        form = _form(next(model.parameters()).is_cuda)
        groups = decay_groups(model, weight_decay, decay_norms_and_biases)
        optimizer = torch.optim.RMSprop(groups, lr=0.0, alpha=alpha, eps=eps, momentum=momentum, **form)

        def keep_form(_: Any, state: dict[str, Any]) -> dict[str, Any]:
            return {**state, "param_groups": [{**group, **form} for group in state["param_groups"]]}

        # torch takes the form from the state that it loads; that may come from the other device.
        optimizer.register_load_state_dict_pre_hook(keep_form)
        return optimizer

    return make


def _form(on_cuda: bool) -> dict[str, bool]:
    """How torch computes a step. On CUDA only a capturable one leaves an LR that is a tensor on the device."""
    return {"foreach": on_cuda, "capturable": on_cuda}
