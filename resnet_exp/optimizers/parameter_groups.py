"""An optimizer's parameter groups: which parameters get weight decay, and how their momentum is read and set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_exp.interfaces import ConfigError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def check_excluded(weight_decay: float, decay_norms_and_biases: bool) -> None:
    """Raises ConfigError if norms and biases are excluded from a weight decay of 0, which would change nothing."""
    if weight_decay == 0 and not decay_norms_and_biases:
        raise ConfigError(
            "optimizer.decay_norms_and_biases=false would be ignored: optimizer.weight_decay=0 decays nothing; set a "
            "weight_decay above 0 or leave decay_norms_and_biases=true"
        )


def decay_groups(model: nn.Module, weight_decay: float, decay_norms_and_biases: bool) -> list[dict[str, Any]]:
    """All parameters of a model: in one group that decays, or in two, the second without weight decay.

    In the second are the parameters of normalisation layers, those with `bias` in their name (`in_proj_bias` and
    `relative_position_bias_table` of transformers too), and those with one axis or none: layer scales, PReLU's slopes.
    Class tokens and position embeddings of a ViT are none of these and decay; so do layer scales of three axes
    (torchvision's ConvNeXt).

    Source: He et al., Bag of Tricks for Image Classification with Convolutional Neural Networks (2018), section 3.1,
    "no bias decay".
    """
    if decay_norms_and_biases:
        return [{"params": list(model.parameters()), "weight_decay": weight_decay}]
    excluded = _norms_and_biases(model)
    decayed = [parameter for parameter in model.parameters() if id(parameter) not in excluded]
    groups = [(decayed, weight_decay), (list(excluded.values()), 0.0)]
    return [{"params": parameters, "weight_decay": decay} for parameters, decay in groups if parameters]


def check_momentum_is_there(optimizer: Optimizer) -> None:
    """Raises ConfigError if the optimizer has no momentum that a schedule could cycle."""
    if not all(momentum_of(group) for group in optimizer.param_groups):
        raise ConfigError(
            f"scheduler.cycle_momentum=true needs a momentum, and this {type(optimizer).__name__} has none; set "
            "scheduler.cycle_momentum=false or choose an optimizer with a momentum (or betas[0]) above 0"
        )


def set_momentum(group: dict[str, Any], momentum: float) -> None:
    """Sets the group's momentum; in the Adam family that is beta1, as torch's OneCycleLR has it."""
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum


def momentum_of(group: dict[str, Any]) -> float:
    """The momentum that `set_momentum` sets; 0 if the group has none."""
    return group["betas"][0] if "betas" in group else group.get("momentum", 0.0)


def _norms_and_biases(model: nn.Module) -> dict[int, nn.Parameter]:
    """Those parameters by id; a parameter that two modules share is there once."""
    # torch is imported here alone: the optimizers' settings are checked without it.
    from torch import nn

    several_axes = (nn.LayerNorm, nn.RMSNorm)  # other norms' weights have one axis, and are excluded by that
    of_norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, several_axes)
        for parameter in module.parameters(recurse=False)
    }
    return {
        id(parameter): parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim <= 1 or "bias" in name.rpartition(".")[2] or id(parameter) in of_norms
    }
