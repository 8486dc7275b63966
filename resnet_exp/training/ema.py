"""`Ema`: an exponential moving average of a network's weights; and `holding`, a network that has other weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """An exponential moving average of a network's parameters and floating-point buffers; others are copied.

    It is on the device, and so is all that it depends on: the number of updates, and whether a step was one. For
    `torch.optim.swa_utils` the host would have to know both: `AveragedModel` counts there, and its decay is a number.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """The network's weights as they are now.

        Args:
            model: on its device.
            decay: the share of itself that the average keeps at an update, once it has seen enough of them.
        """
        self._decay = decay
        self.weights = {name: _kept(value) for name, value in model.state_dict().items()}
        self._averaged = [name for name, value in self.weights.items() if _is_averaged(value)]
        self._copied = [name for name in self.weights if name not in self._averaged]

    @torch.no_grad()
    def update(self, model: nn.Module, updates: Tensor, skip: Tensor) -> None:
        """Moves towards the network's weights after update t by 1 - min(decay, (1 + t) / (10 + t)) of the way.

        So the average of a short run does not consist of the initial weights. The host does not wait for the device.

        Source: TensorFlow, tf.train.ExponentialMovingAverage, argument num_updates.

        Args:
            model: the network.
            updates: t, the number of updates that it has had, `[]`.
            skip: whether the last step was none of them, `[], bool`: then nothing moves.
        """
        now = model.state_dict()  # each time: a module may replace its buffers
        count = updates.double()
        decay = ((1 + count) / (10 + count)).clamp(max=self._decay)
        # In float32, as the weights are: by a number of another type torch would multiply them one by one.
        share = torch.where(skip, 0.0, 1 - decay).float()
        own = [self.weights[name] for name in self._averaged]
        way = torch._foreach_sub([now[name].to(self.weights[name].dtype) for name in self._averaged], own)
        torch._foreach_mul_(way, share)
        torch._foreach_add_(own, way)
        for name in self._copied:
            self.weights[name].copy_(torch.where(skip, self.weights[name], now[name]))

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Goes on from weights that were saved.

        Raises:
            ValueError: they are those of another network.
        """
        saved, own = ({name: value.shape for name, value in one.items()} for one in (weights, self.weights))
        if saved != own:
            raise ValueError("the EMA is of another network")
        for name, value in self.weights.items():
            value.copy_(weights[name])


@contextmanager
def holding(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """A block in which the network has these weights; then it has its own again, bit for bit."""
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    try:
        yield model
    finally:
        model.load_state_dict(own)


def _is_averaged(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _kept(value: Tensor) -> Tensor:
    """A copy in float32 at least: a small step of the way would be rounded to none in half precision."""
    dtype = torch.promote_types(value.dtype, torch.float32) if _is_averaged(value) else value.dtype
    return value.to(dtype, copy=True)
