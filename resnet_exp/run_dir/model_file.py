"""`model.safetensors`: reads a trained network's weights, and what is saved with them to use it.

The file may be anybody's. What it says of itself is bounded and held against the network before a weight is read.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le, Lt
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from resnet_exp.config import build
from resnet_exp.config.config import Config, checked_plugin, module_of
from resnet_exp.config.ranges import admitted, shown_settings
from resnet_exp.data.bank import Normalisation
from resnet_exp.data.memory import memory_told
from resnet_exp.interfaces import ConfigError, DatasetInfo
from resnet_exp.run_dir.contents import check_recorded
from resnet_exp.run_dir.files import Damaged, sha256_of
from resnet_exp.run_dir.weights import check_finite_weights, check_shapes, load_weights

_MODEL = "model.safetensors"
_MOST_HEADER = 16 << 20  # bytes: a hundred thousand tensors, or classes
_MOST_PIXELS = 4096  # of a side
_OF_TRAINING = (
    "augmentation",
    "optimizer",
    "scheduler",
    "range_test",
)  # not needed to use a network


@dataclass(frozen=True)
class ModelFile:
    """The facts in a `model.safetensors`; the weights are read by `load_into` alone."""

    path: Path
    shapes: dict[str, tuple[int, ...]]  # of each tensor, by name
    plugin: dict[str, Any]  # the model's settings, with its `_target_`
    class_names: tuple[str, ...]
    in_channels: int
    image_size: int  # pixels
    normalisation: Normalisation
    ema: float | None  # the decay, where the weights are the moving average of a run's

    @property
    def note(self) -> str | None:
        """What must be known of the weights, beside whose they are; None where there is nothing."""
        return None if self.ema is None else f"EMA of the weights, train.ema={self.ema}"

    @property
    def shown(self) -> str:
        """The path, with that."""
        return str(self.path) + (f" ({self.note})" if self.note else "")

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of the file."""
        return sha256_of(self.path)[:16]

    @property
    def info(self) -> DatasetInfo:
        """The data that the network was trained for; the file does not say how many images, so these counts are 0."""
        return DatasetInfo(self.path.parent.name, self.class_names, self.image_size, self.in_channels, 0, 0, 0)

    def load_into(self, model: nn.Module) -> nn.Module:
        """The network with the trained weights, in eval mode.

        Raises:
            ConfigError: the weights are those of another network, or no numbers.
        """
        try:
            load_weights(model, load_file(self.path))
        except RuntimeError as error:
            reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
            raise ConfigError(f"checkpoint={self.path}: its weights do not fit its model ({reason})") from error
        check_finite_weights(f"checkpoint={self.path}", model)
        return model.eval()


def read_model_file(checkpoint: str) -> ModelFile:
    """The facts of the trained network in a run directory, or in a `model.safetensors`.

    Raises:
        ConfigError: there is no such file, resnet_exp did not write it, or it is not as its run recorded it.
    """
    given = Path(checkpoint).expanduser().absolute()
    path = given / _MODEL if given.is_dir() else given
    if not path.is_file():
        found = "the run has not finished" if (given / "journal.jsonl").exists() else "there is no such file"
        raise ConfigError(f"checkpoint={given}: {found}; a run directory, or its {_MODEL}, is needed")
    _check_size(path)
    try:
        check_recorded(path)
    except Damaged as error:
        raise ConfigError(f"checkpoint={given}: {error}") from error
    try:
        # safetensors holds numbers and texts alone: reading somebody else's file runs no code, as a pickle would.
        with safe_open(path, "pt") as file:
            values = json.loads((file.metadata() or {})["resnet_exp"])
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return _model_file(path, shapes, values)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"checkpoint={path}: this is not a {_MODEL} of resnet_exp ({type(error).__name__}: {error})"
        ) from error


def _check_size(path: Path) -> None:
    """Raises ConfigError for a file that is larger than the memory, or has a header of more than any network has."""
    size, memory = path.stat().st_size, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise ConfigError(f"checkpoint={path}: its {size:,} bytes are more than this machine's memory, {memory:,}")
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > min(size, _MOST_HEADER):
        raise ConfigError(
            f"checkpoint={path}: this is not a {_MODEL} of resnet_exp (its header would have {header:,} bytes)"
        )


def _model_file(path: Path, shapes: dict[str, tuple[int, ...]], values: Any) -> ModelFile:
    """The facts, each of the type and in the range that training gives it.

    Raises:
        ConfigError: one is of another, such as an image of a million pixels.
    """
    pixel = Annotated[float, Ge(0), Le(255)]
    channels, height, width = admitted("input_shape", values["input_shape"], tuple[int, int, int])
    plugin, names = values["model"], values["class_names"]
    kinds = {"mean": (list[pixel], values["mean"]), "std": (list[Annotated[float, Gt(0), Le(255)]], values["std"])}
    mean, std = (tuple(admitted(name, value, kind)) for name, (kind, value) in kinds.items())
    if channels not in (1, 3) or not 1 <= height <= _MOST_PIXELS or width != height:
        raise ValueError(f"input_shape={values['input_shape']}: 1 or 3 channels and square images are needed")
    if not len(mean) == len(std) == channels:
        raise ValueError(f"a mean and a std for each of {channels} channels are needed")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names: a list of texts is needed")
    if not isinstance(plugin, dict):
        raise ValueError("model: the settings of a network are needed")
    ema = admitted("ema", values.get("ema"), Annotated[float, Gt(0), Lt(1)] | None)
    return ModelFile(path, shapes, dict(plugin), tuple(names), channels, height, Normalisation(mean, std), ema)


def with_model_of(config: Config, model_file: ModelFile) -> Config:
    """The config with the checkpoint's model, so that a command with a checkpoint need not name the model.

    Raises:
        ConfigError: the command line names another model, or the file names one that no config may name.
    """
    if config.is_set("model") and config.plugins["model"] != model_file.plugin:
        raise ConfigError(
            f"checkpoint={model_file.path} is of another model ({_as_text(model_file.plugin)}) than the command line's "
            f"({_as_text(config.plugins['model'])}); leave model out: it is saved in the checkpoint"
        )
    # Checked like a setting of the user's: the file may come from somebody else, and its `_target_` will be called.
    plugin = checked_plugin("model", model_file.plugin, config.plugin_modules)
    names = {**config.short_names, "model": module_of(model_file.plugin)}
    tree = {key: value for key, value in config.tree.items() if key not in _OF_TRAINING}
    return replace(
        config,
        plugins={**config.plugins, "model": plugin},
        short_names=names,
        tree={**tree, "model": model_file.plugin, "checkpoint": str(model_file.path)},
    )


def network(config: Config, model_file: ModelFile, device: torch.device) -> nn.Module:
    """The trained network on the device, in eval mode."""
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    check_network(config, model_file)
    with memory_told("loading the network", "free memory on the device, or take device=cpu"):
        model = model_file.load_into(build.model(config, model_file.info))
        return model.to(device).to(memory_format=layout)


def check_network(config: Config, model_file: ModelFile) -> None:
    """Raises ConfigError where the network of the settings has other weights than the file: neither is read or made."""
    check_shapes(f"checkpoint={model_file.path}", lambda: build.model(config, model_file.info), model_file.shapes)


def check_classes(model_file: ModelFile, num_classes: int, class_names: tuple[str, ...] = ()) -> None:
    """Raises ConfigError unless the data have the checkpoint's classes; names are compared if they are given."""
    known = model_file.class_names
    if num_classes != len(known):
        raise ConfigError(
            f"checkpoint={model_file.path} is of {len(known)} classes, and the data have {num_classes}; "
            f"give data with these classes: {_some(known)}"
        )
    if class_names and class_names != known:
        others = [name for name in class_names if name not in known]
        raise ConfigError(
            f"checkpoint={model_file.path} has the classes {_some(known)}, and the data's are "
            f"{'others: ' + _some(others) if others else 'in another order: ' + _some(class_names)}"
        )


def check_images(model_file: ModelFile, image_size: int, in_channels: int | None = None) -> None:
    """Raises ConfigError unless the images have the checkpoint's size and channels; None: channels not known yet."""
    side = model_file.image_size
    if image_size != side:
        raise ConfigError(
            f"data.image_size={image_size}: checkpoint={model_file.path} was trained on {side} pixels; "
            f"set data.image_size={side} where the data set has it (image_folder, digits)"
        )
    if in_channels not in (None, model_file.in_channels):
        kinds = {1: "grey", 3: "colour"}
        raise ConfigError(
            f"checkpoint={model_file.path} takes {kinds.get(model_file.in_channels)} images, and the data are "
            f"{kinds.get(in_channels or 0)}; data=image_folder takes data.channels={model_file.in_channels}"
        )


def _as_text(plugin: dict[str, Any]) -> str:
    return " ".join([str(plugin.get("_target_")).rpartition(".")[2], *shown_settings(plugin)])


def _some(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
