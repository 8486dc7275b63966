"""A network's weights as `model.safetensors` holds them: plain tensors, what is tied once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from resnet_exp.interfaces import ConfigError, first_line

_FILE = "model.safetensors"


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the network's state by name, in host memory; of tied ones the first name alone.

    Raises:
        ConfigError: the state has something that a file of plain tensors cannot hold.
    """
    _check_ties(model)
    state = model.state_dict()
    first = _ties(state)
    return {name: _alone(name, value) for name, value in state.items() if first[name] == name}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Puts weights of `weights_of` into a network of the same settings, whose tensors are tied in the same way.

    Raises:
        RuntimeError: they are those of another network.
    """
    first = _ties(model.state_dict())
    tied = {name: weights[one] for name, one in first.items() if name not in weights and one in weights}
    model.load_state_dict({**weights, **tied})


def check_shapes(of: str, make: Callable[[], nn.Module], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ConfigError unless a network has tensors of these shapes; it is made without memory, for nothing.

    A network whose settings say that it is larger is not made to its end.

    Args:
        of: begins the message.
        make: makes the network.
        shapes: by name, as a file has them.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), _at_most(len(shapes)):
            state = make().state_dict()
    except ConfigError as error:
        raise ConfigError(f"{of}: {error}") from error
    except Exception as error:
        if "meta" in str(error):  # one that reads a value while it is made, as regnets do; compared when it is loaded
            return
        raise ConfigError(f"{of}: its network cannot be made ({first_line(error)})") from error
    if more := sorted(shapes.keys() - state.keys()):
        raise ConfigError(f"{of}: its weights do not fit its model, which has no {more[0]}")
    first = _ties(state)
    for name, value in state.items():
        found = shapes.get(name, shapes.get(first[name]))
        if isinstance(value, Tensor) and found != tuple(value.shape):
            raise ConfigError(f"{of}: its weights do not fit its model ({name} is {found}, not {tuple(value.shape)})")


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """A block in which networks have so many parameters at most; those that are tied count each time.

    Raises:
        ConfigError: one has more.
    """
    left = 10 * count + 10  # ties are few; a hostile depth is far beyond

    def counted(module: nn.Module, name: str, value: nn.Parameter | None) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ConfigError("its network has many more weights than its file")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def check_finite_weights(of: str, model: nn.Module) -> None:
    """Raises ConfigError where a weight is NaN or infinite: all that the network says would be."""
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise ConfigError(
                f"{of}: {name} has values that are NaN or infinite; it was damaged, or never trained well"
            )


def _ties(state: Mapping[str, object]) -> dict[str, str]:
    """For each name the first one that has the very same tensor."""
    first: dict[object, str] = {}
    return {name: first.setdefault(_place(name, value), name) for name, value in state.items()}


def _place(name: str, value: object) -> object:
    """What equal tensors have in common: where they lie and how they are read."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.numel() == 0:
        return name
    return value.device, value.data_ptr(), value.shape, value.stride(), value.dtype


def _alone(name: str, value: object) -> Tensor:
    """The tensor in host memory, contiguous, in a memory of its own."""
    if not isinstance(value, Tensor):
        module = name.rpartition(".")[0] or "the network"
        raise ConfigError(
            f"model: {module} keeps a {type(value).__name__} in its state (get_extra_state), which {_FILE} cannot "
            "hold; keep it as a tensor, with register_buffer"
        )
    if value.layout != torch.strided:
        raise ConfigError(f"model: {name} is a sparse tensor, which {_FILE} cannot hold; keep it dense")
    try:
        save({name: torch.zeros(0, dtype=value.dtype)})
    except KeyError as error:
        raise ConfigError(
            f"model: {name} is of {value.dtype}, which {_FILE} cannot hold; keep it as another type, such as "
            "torch.float32, or a complex one as two real ones (torch.view_as_real)"
        ) from error
    held = value.detach().cpu().contiguous()
    return held if held.untyped_storage().nbytes() == held.nbytes else held.clone()


def _check_ties(model: nn.Module) -> None:
    """Raises ConfigError where two parameters share their memory: they are tied on the CPU, and not on a GPU."""
    names: dict[int, tuple[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.layout != torch.strided or parameter.numel() == 0:
            continue
        other, known = names.setdefault(parameter.data_ptr(), (name, parameter))
        if known is not parameter:
            raise ConfigError(
                f"model: {name} and {other} are two parameters in one memory, and each would be updated by the "
                "optimizer; tie them by making them one: a.weight = b.weight, without .data"
            )
