"""Odd networks of a user's own, from the command's config to the last use of what was saved."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors.torch import load_file

from resnet_exp.config.conf import CONF
from resnet_exp.config.config import Config, typed
from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.runs import run as way
from resnet_exp.runs.evaluate import evaluate_checkpoint
from resnet_exp.runs.predict import predict_images
from resnet_exp.runs.redraw import redraw
from resnet_exp.runs.run import run

TRAINING = (
    "data=digits", "data.image_size=8", "data.limit_train=200", "augmentation=none", "train.epochs=2",
    "train.batch_size=50", "train.checkpoint_interval=0", "scheduler.max_lr=0.05", "scheduler.peak_epoch=1",
    "tracker=none", "report=none",
)  # fmt: skip
MODULE = "odd_networks_of_a_test"
CODE = """
import torch
from torch import nn


class Base(nn.Module):
    def __init__(self, num_classes: int, in_channels: int, image_size: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 10, 3, padding=1)
        self.fc = nn.Linear(10, 10)
        self.last = nn.Linear(10, num_classes)

    def forward(self, images):
        return self.last(self.fc(self.conv(images).relu().mean((2, 3))).relu())


class Tied(Base):
    def __init__(self, **how):
        super().__init__(**how)
        self.last.weight = self.fc.weight
        self.again = self.conv


class Lazy(Base):
    def __init__(self, **how):
        super().__init__(**how)
        self.fc, self.norm = nn.LazyLinear(10), nn.LazyBatchNorm1d()

    def forward(self, images):
        return self.last(self.norm(self.fc(self.conv(images).relu().flatten(1))).relu())


class Normed(Base):
    def __init__(self, **how):
        super().__init__(**how)
        self.norm = nn.BatchNorm1d(10)

    def forward(self, images):
        return self.last(self.norm(self.conv(images).mean((2, 3))))


class Grouped(Normed):
    def __init__(self, **how):
        super().__init__(**how)
        self.norm = nn.GroupNorm(2, 10)


class Stateful(Base):
    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


class Unsaved(Base):
    def __init__(self, **how):
        super().__init__(**how)
        self.shift = torch.randn(10)

    def forward(self, images):
        return super().forward(images) + self.shift


class Huge(Base):
    def forward(self, images):
        logits = super().forward(images)
        return logits if images.is_meta else logits + torch.empty(2**58).sum()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of plug-ins with these networks."""
    own = tmp_path_factory.mktemp("own")
    (own / "conf" / "model").mkdir(parents=True)
    (own / f"{MODULE}.py").write_text(CODE)
    for name in ("Tied", "Lazy", "Normed", "Grouped", "Stateful", "Unsaved", "Huge"):
        (own / "conf" / "model" / f"{name.lower()}.yaml").write_text(f"# Odd.\n_target_: {MODULE}.{name}\n")
    yield own
    sys.modules.pop(MODULE, None)
    sys.path[:] = [path for path in sys.path if path != str(own)]


@pytest.fixture
def config_of(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    monkeypatch.chdir(tmp_path)

    def make(*overrides: str) -> Config:
        plugins = (f"plugins={folder}", f"hydra.searchpath=[{folder / 'conf'}]", *overrides)
        with initialize_config_dir(str(CONF)):
            return typed(compose("config", overrides=list(plugins)), (plugins[0], *overrides))

    return make


def logits(paths: RunPaths) -> np.ndarray:
    return np.load(paths.predictions)["logits"]


@pytest.mark.parametrize("name", ["tied", "lazy"])
def test_what_was_trained_is_what_is_evaluated_asked_and_drawn(
    name: str, config_of: Callable[..., Config], tmp_path: Path
) -> None:
    run(config_of(*TRAINING, f"model={name}", "output_dir=runs"), "")
    (root,) = Path("runs").absolute().glob("*-*")
    trained = RunPaths(root)
    if name == "tied":
        assert not {"last.weight", "again.weight"} & set(load_file(trained.model)), "saved once"
    evaluate_checkpoint(
        config_of("task=evaluate", f"checkpoint={root}", "data=digits", "data.image_size=8", "tracker=none",
                  "report=none", "output_dir=evaluations", "train.batch_size=50"), "",
    )  # fmt: skip
    (evaluated,) = Path("evaluations").absolute().glob("*-*")
    np.testing.assert_array_equal(logits(RunPaths(evaluated)), logits(trained))
    Path("photos").mkdir()
    Image.fromarray(np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)).save("photos/ramp.png")
    table = predict_images(config_of("task=predict", f"checkpoint={root}", "images=photos"))
    assert [row["file"] for row in csv.DictReader(table.open())] == ["ramp.png"]
    redraw(config_of("task=report", f"run_dir={root}", "report.gradcam=0", "report.receptive_field=0"))
    assert (trained.report / "report.html").exists()


def test_a_run_with_tied_weights_goes_on_as_if_it_had_not_stopped(config_of: Callable[..., Config]) -> None:
    def outcome(folder: str) -> tuple[RunPaths, np.ndarray]:
        (root,) = Path(folder).absolute().glob("*-*")
        return RunPaths(root), logits(RunPaths(root))

    whole = config_of(*TRAINING, "model=tied", "output_dir=whole")
    run(whole, "")
    broken = config_of(*TRAINING, "model=tied", "output_dir=broken")
    save = Checkpoints.save
    with pytest.MonkeyPatch.context() as patch:

        def stop(self: Checkpoints, epoch: int, step: int, state: dict) -> bool:
            save(self, epoch, step, state)
            raise KeyboardInterrupt

        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            run(broken, "")
    run(broken, "")
    np.testing.assert_array_equal(outcome("broken")[1], outcome("whole")[1])
    assert outcome("broken")[0].model.read_bytes() == outcome("whole")[0].model.read_bytes()


@pytest.mark.parametrize(("overrides", "words"), [
    (["model=stateful"], r"the network keeps a dict in its state \(get_extra_state\)"),
    (["model=unsaved"], "saved and loaded it gives other logits"),
    (["model=normed", "train.grad_accum_steps=50"],
     r"train\.grad_accum_steps=50 leaves a part of one image of a batch of 50: .* take train\.grad_accum_steps=25"),
    (["model=normed", "data.limit_train=183", "data.validation=none", "train.batch_size=45",
      "train.grad_accum_steps=3"],
     r"train\.grad_accum_steps=3 leaves a part of one image of a batch of 3: .* take train\.grad_accum_steps=1"),
])  # fmt: skip
def test_what_would_fail_in_or_after_the_training_begins_no_run(
    overrides: list[str], words: str, config_of: Callable[..., Config]
) -> None:
    with pytest.raises(ConfigError, match=words):
        run(config_of(*TRAINING, *overrides, "output_dir=runs"), "")
    assert not Path("runs").exists()


def test_parts_of_one_image_train_a_network_that_normalises_each_alone(config_of: Callable[..., Config]) -> None:
    run(config_of(*TRAINING, "model=grouped", "train.grad_accum_steps=50", "output_dir=runs"), "")
    assert list(Path("runs").glob("*/result.json"))


def test_a_model_that_no_memory_holds_is_told_in_words(config_of: Callable[..., Config]) -> None:
    with pytest.raises(RunError, match=r"out of memory while .*train\.grad_accum_steps"):
        run(config_of(*TRAINING, "model=huge", "output_dir=runs"), "")


def test_a_network_is_tried_once_in_a_process(
    config_of: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the channels that are expected, and with those of the images where these turn out to have others."""
    tried: list[int] = []
    monkeypatch.setattr(way, "_tried", set())
    monkeypatch.setattr(way, "try_network", lambda make, optimizer, info, *how: tried.append(info.in_channels))
    config = config_of(*TRAINING, "model=normed", "train.epochs=1", "output_dir=runs")
    for seed in (1, 2):
        run(replace(config, seed=seed, tree={**config.tree, "seed": seed}), "")
    assert tried == [3, 1]
