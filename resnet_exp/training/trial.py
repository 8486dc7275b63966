"""`try_network`: a step, and a saved and loaded copy, before a run starts; they would else fail after its training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnet_exp.config.schema import TrainConfig
from resnet_exp.data.bank import Batch
from resnet_exp.data.memory import first_words, is_out_of_memory
from resnet_exp.interfaces import ConfigError, DatasetInfo, OptimizerFactory, RunError, Schedule
from resnet_exp.run_dir.weights import load_weights, weights_of
from resnet_exp.training.device import Runtime, untouched_randomness
from resnet_exp.training.learner import Learner, NonFinite, infer

_LR = 1e-3
_SCHEDULE = Schedule(lrs=(_LR,), momenta=None, max_lr=_LR, min_lr=_LR)  # of the one step
# How far the logits of equal networks may be apart, relative to the largest: in float32 on the CPU they are equal but
# for the order of sums.
_EXACT, _ROUNDED = 1e-4, 2e-2
_NOT_DETERMINISTIC = " does not have a deterministic implementation"  # torch's own words, after the operation's name


def try_network(
    make: Callable[[], nn.Module],
    make_optimizer: OptimizerFactory,
    info: DatasetInfo,
    train: TrainConfig,
    runtime: Runtime,
    one_image: str | None = None,
) -> None:
    """Returns if the network can make a step, be saved, and be loaded as what it was.

    A second network gets the first one's saved weights. If its logits differ, the network keeps something outside its
    parameters and buffers: an evaluation of the saved network would be one of another network. In eval mode, an image's
    logits must not depend on the other images of its batch. Nothing is left behind; the random generators are restored.

    Args:
        make: makes the network, each time with other initial weights.
        make_optimizer: the run's.
        info: of the data, which need not be read yet.
        train: the run's settings.
        runtime: the run's device and precision.
        one_image: why the network gets a single image in some steps, if it does; begins the message if it cannot.

    Raises:
        ConfigError: it cannot; the message says which part of the network, and why.
    """
    try:
        with untouched_randomness(), warnings.catch_warnings(), _without_benchmark():
            warnings.simplefilter("ignore")  # the run's own network prints them again
            _try(make, make_optimizer, info, train, runtime, one_image)
    finally:
        if runtime.device.type == "cuda":
            torch.cuda.empty_cache()  # the images are given a share of the memory that is free


def _try(
    make: Callable[[], nn.Module],
    make_optimizer: OptimizerFactory,
    info: DatasetInfo,
    train: TrainConfig,
    runtime: Runtime,
    one_image: str | None,
) -> None:
    first = make()
    if one_image and any(isinstance(module, _BatchNorm) for module in first.modules()):
        raise ConfigError(one_image)
    _load(first, weights_of(first))  # what cannot be saved or loaded is told as that, before a step stumbles over it
    batch = _noise(1 if one_image else 2, info, runtime.device)
    try:
        learner = Learner(first, make_optimizer, _SCHEDULE, replace(train, grad_accum_steps=1), runtime, 0)
        learner.train([batch], 0, lambda n=1: None)
        learner.check()
    except NonFinite:
        pass  # of noise: the images may do better
    except (ConfigError, RunError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(_no_step(error, first, one_image)) from error
    second = make().to(runtime.device)
    if train.channels_last:
        second = second.to(memory_format=torch.channels_last)
    _load(second, weights_of(first))
    _compare(first, second, batch, runtime)
    _check_apart(first, info, runtime)


@contextmanager
def _without_benchmark() -> Iterator[None]:
    """A block in which cuDNN does not try out its algorithms, which would take longer than the block itself."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _noise(images: int, info: DatasetInfo, device: torch.device) -> Batch:
    side = info.image_size
    pixels = torch.randn(images, info.in_channels, side, side).contiguous(memory_format=torch.channels_last)
    return Batch(pixels.to(device), (torch.arange(images) % info.num_classes).to(device))


def _no_step(error: Exception, model: nn.Module, one_image: str | None) -> str:
    said = str(error)
    if _NOT_DETERMINISTIC not in said:
        return f"{one_image or 'model: a training step fails'} ({type(error).__name__}: {first_words(error)})"
    operation = said.partition(_NOT_DETERMINISTIC)[0].split()[-1]
    # `adaptive_avg_pool2d_backward_cuda` is of the class AdaptiveAvgPool2d; functions that are called have none.
    plain = operation.replace("_", "")
    layers = [name for name, module in model.named_modules() if name and type(module).__name__.lower() in plain]
    where = f" (in {', '.join(layers[:3])})" if layers else ""
    return (
        f"train.deterministic=true: the model needs {operation}{where}, for which torch has no deterministic "
        "implementation on this device; set train.deterministic=false or choose another model"
    )


def _load(model: nn.Module, weights: dict[str, Tensor]) -> None:
    try:
        load_weights(model, weights)
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:3])
        raise ConfigError(
            "model: what is saved of it cannot be loaded into a new one, so that it could not be used after the "
            f"training ({reason}); its parameters and buffers must be there once it is made, each with a memory of "
            "its own (no expand)"
        ) from error


def _compare(first: nn.Module, second: nn.Module, batch: Batch, runtime: Runtime) -> None:
    """Raises ConfigError unless networks of equal weights give equal logits, in eval and in train mode."""
    passes = {"": _evaluated, " in train mode": _trained}
    for where, logits_of in passes.items():
        own, loaded = (logits_of(model, batch, runtime) for model in (first, second))
        if not _are_equal(own, loaded, runtime):
            raise ConfigError(
                f"model: saved and loaded it gives other logits{where}: it keeps something that is not saved; make "
                "each tensor that is drawn at random, or changed while training, a parameter or a buffer "
                "(register_buffer, without persistent=False)"
            )


def _check_apart(model: nn.Module, info: DatasetInfo, runtime: Runtime) -> None:
    """Raises ConfigError where in eval mode too an image's logits depend on the other images of its batch."""
    first, second = _noise(2, info, runtime.device).images
    pairs = [torch.stack([first, other]) for other in (first, 4 * second + 1)]
    beside_itself, beside_another = (
        _evaluated(model, Batch(pair, torch.zeros(2, dtype=torch.int64, device=runtime.device)), runtime)[0]
        for pair in pairs
    )
    if not _are_equal(beside_itself, beside_another, runtime):
        raise ConfigError(
            "model: in eval mode too its logits for an image depend on the other images of the batch, so that an "
            "accuracy would depend on the order of the images; let normalisation layers keep running statistics "
            "(track_running_stats=True)"
        )


def _are_equal(one: Tensor, other: Tensor, runtime: Runtime) -> bool:
    exact = runtime.device.type == "cpu" and runtime.precision == "fp32"
    scale = float(one.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return torch.allclose(one, other, rtol=0, atol=(_EXACT if exact else _ROUNDED) * scale, equal_nan=True)


def _evaluated(model: nn.Module, batch: Batch, runtime: Runtime) -> Tensor:
    with untouched_randomness():
        return infer(model, [batch], runtime)[0]


@torch.no_grad()
def _trained(model: nn.Module, batch: Batch, runtime: Runtime) -> Tensor:
    with untouched_randomness(), runtime.autocast():
        logits: Tensor = model.train()(batch.images)
    return logits.float()
