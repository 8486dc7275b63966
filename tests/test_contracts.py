"""What every yaml in conf/ and the plug-in behind it fulfil; the tests find the files, a new one needs no edit."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from resnet_exp.config import build
from resnet_exp.config.conf import CONF
from resnet_exp.config.config import GROUPS, RUN_ARGUMENTS, Config, typed
from resnet_exp.config.plugin_args import unchecked_arguments
from resnet_exp.data import randomness
from resnet_exp.interfaces import DatasetInfo, DataSize, LoadedData
from resnet_exp.run_dir.journal import last_status, metric_history
from resnet_exp.runs.run import run

YAMLS = sorted(path for path in CONF.glob("*/*.yaml") if path.parent.name != "hydra")
OPTIONS = [(path.parent.name, path.stem) for path in YAMLS if path.parent.name != "experiment"]
EXPERIMENTS = [path.stem for path in YAMLS if path.parent.name == "experiment"]
# What every data set's yaml holds beside its plug-in's arguments.
SHARED_DATA_KEYS = {"validation", "holdout", "limit_train"}
# Small enough for a run of every option, with as many epochs as any scheduler's defaults need.
SMALL = (
    "data=digits", "data.image_size=32", "data.limit_train=40", "train.epochs=20", "train.batch_size=30",
    "scheduler.max_lr=0.001", "tracker=none", "report=none",
)  # fmt: skip
COLOUR = DatasetInfo("colour", tuple("abcdefghij"), 32, 3, 100, 10, 10)
GREY = DatasetInfo("grey", ("x", "y", "z"), 32, 1, 100, 10, 10)


def options(group: str) -> list[str]:
    return [name for in_group, name in OPTIONS if in_group == group]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF)):
        return compose("config", overrides=list(overrides))


def with_option(group: str, name: str, folder: Path) -> Config:
    """The default config with one other option; `folder` stands for the values that only a user can give."""
    missing = [key for key, value in content(group, name).items() if value == "???"]
    return typed(composed(f"{group}={name}", *(f"{group}.{key}={folder}" for key in missing)))


def content(group: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a yaml's `???` may be: the folder of an image data set, as far as is looked at before the images."""
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    return tmp_path


def test_the_groups_hold_yamls() -> None:
    assert {group for group, _ in OPTIONS} >= {*GROUPS, "range_test", "train"}
    assert EXPERIMENTS


@pytest.mark.parametrize("path", [CONF / "config.yaml", *YAMLS], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_yaml_begins_by_saying_what_it_is(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    if first.startswith("# @package"):  # Hydra's own line must come first
        first = path.read_text().splitlines()[1]
    assert first.startswith("# ")
    assert len(first) > 12


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_an_option_composes_with_the_defaults(group: str, name: str, folder: Path) -> None:
    config = with_option(group, name, folder)
    values = content(group, name)
    for key, value in (values.get("sweep", {}) if group == "sweep" else values).items():  # sweeps set other groups too
        if value != "???" and "${" not in str(value):
            assert config.tree[group][key] == value


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, name in OPTIONS if group in GROUPS and group != "data"]
)
def test_an_option_runs(group: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way with it, one step an epoch, on 30 digits."""
    monkeypatch.chdir(tmp_path)  # a tracker may have its store in the working directory
    narrow = [
        f"model.width={width}"
        for width in (4,)
        if "width" in content("model", name if group == "model" else "custom_resnet")
    ]
    arguments = [*SMALL, f"output_dir={tmp_path}", f"{group}={name}", *narrow]
    assert run(typed(composed(*arguments), arguments), "") is not None
    (journal,) = tmp_path.glob("*/journal.jsonl")
    assert last_status(journal) == "FINISHED"
    losses = [loss for _, loss, _ in metric_history(journal)["loss/train"]]
    assert len(losses) == 20
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", options("model"))
def test_a_model_has_the_parameters_that_its_yaml_says(name: str, folder: Path) -> None:
    """For 10 classes of colour images of 32x32 pixels."""
    head = (CONF / "model" / f"{name}.yaml").read_text().partition("_target_")[0]
    said = re.search(r"([\d,]+) parameters", head)
    assert said, "the comment above a model's yaml says how many parameters it has"
    with torch.device("meta"):
        model = build.model(with_option("model", name, folder), COLOUR)
    assert sum(parameter.numel() for parameter in model.parameters()) == int(said.group(1).replace(",", ""))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_and_is_accepted(name: str) -> None:
    config = typed(composed(f"experiment={name}"))
    assert config.name == name, "the run directory of an experiment bears its name"
    build.plugins(config)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_its_command_and_what_to_expect(name: str) -> None:
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert f"python -m resnet_exp experiment={name}" in text
    assert "# Expect: " in text


@pytest.mark.parametrize(("group", "name"), [option for option in OPTIONS if option[0] in GROUPS])
def test_a_yaml_lists_exactly_the_arguments_of_its_plugin(group: str, name: str) -> None:
    settings = content(group, name)
    target = locate(settings.pop("_target_"))
    arguments = {
        key: argument
        for key, argument in inspect.signature(target).parameters.items()
        if key not in RUN_ARGUMENTS.get(group, ())
    }
    if group == "data":
        assert set(settings) >= SHARED_DATA_KEYS
        settings = {key: value for key, value in settings.items() if key not in SHARED_DATA_KEYS}
    assert set(settings) == set(arguments), "a key that is not there cannot be overridden without a +"
    inspect.signature(target).bind(**settings, **dict.fromkeys(RUN_ARGUMENTS.get(group, ()), 1))


@pytest.mark.parametrize("group", GROUPS)
def test_every_argument_of_a_plugin_says_what_it_takes(group: str) -> None:
    """By an annotation that the source shows: only then is a wrong value refused before torch is imported."""
    for target in {content(group, name)["_target_"] for name in options(group)}:
        assert unchecked_arguments(group, target, RUN_ARGUMENTS.get(group, ())) == []
        arguments = inspect.signature(locate(target)).parameters
        silent = [name for name, argument in arguments.items() if argument.annotation is inspect.Parameter.empty]
        assert not silent, f"{target}: no annotation"


@pytest.mark.parametrize("group", GROUPS)
def test_the_first_yaml_of_a_plugin_has_the_defaults_of_its_signature(group: str) -> None:
    """Of several yamls of one plug-in, at least one (the others are its variants) has the signature's values."""
    by_target: dict[str, list[dict[str, Any]]] = {}
    for name in options(group):
        settings = content(group, name)
        by_target.setdefault(settings.pop("_target_"), []).append(settings)
    for target, variants in by_target.items():
        defaults = {
            key: list(argument.default) if isinstance(argument.default, tuple) else argument.default
            for key, argument in inspect.signature(locate(target)).parameters.items()
            if argument.default is not inspect.Parameter.empty
        }
        differences = [{k: (v, s[k]) for k, v in defaults.items() if s[k] != v} for s in variants]
        assert {} in differences, f"{target}: (signature, yaml) = {min(differences, key=len)}"


def test_every_data_set_has_the_same_shared_keys() -> None:
    shared = [{key: content("data", name)[key] for key in SHARED_DATA_KEYS} for name in options("data")]
    assert all(keys == shared[0] for keys in shared)


@pytest.mark.parametrize("info", [COLOUR, GREY], ids=["10 classes, colour", "3 classes, grey"])
@pytest.mark.parametrize("name", options("model"))
def test_a_model_learns_from_any_data(name: str, info: DatasetInfo, folder: Path) -> None:
    config = with_option("model", name, folder)
    torch.manual_seed(1)
    model = build.model(config, info)
    images = torch.randn(4, info.in_channels, info.image_size, info.image_size)
    logits = model(images)
    assert logits.shape == (4, info.num_classes)
    assert logits.dtype == torch.float32
    assert (logits < 0).any(), "logits, not probabilities"
    torch.nn.functional.cross_entropy(logits, torch.arange(4) % info.num_classes).backward()
    grads = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    assert any(grad.abs().sum() > 0 for grad in grads.values())


@pytest.mark.parametrize("name", options("model"))
def test_a_model_comes_back_from_its_state_dict(name: str, folder: Path) -> None:
    config = with_option("model", name, folder)
    torch.manual_seed(1)
    model = build.model(config, GREY).eval()
    torch.manual_seed(2)
    other = build.model(config, GREY).eval()
    images = torch.randn(2, 1, 32, 32)
    assert not torch.equal(model(images), other(images))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(images), other(images))


@pytest.mark.parametrize("name", options("model"))
def test_a_model_depends_on_torchs_seed_alone(name: str, folder: Path) -> None:
    config = with_option("model", name, folder)
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build.model(config, GREY).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", options("model"))
def test_a_model_changes_no_activation_in_place(name: str, folder: Path) -> None:
    """Grad-CAM would read wrong maps."""
    model = build.model(with_option("model", name, folder), GREY)
    assert not [layer for layer in model.modules() if getattr(layer, "inplace", False)]


@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("name", options("augmentation"))
def test_an_augmentation_reads_inside_the_padded_image(name: str, size: int, folder: Path) -> None:
    augmentation = build.plugins(with_option("augmentation", name, folder)).augmentation
    keys = randomness.keys(torch.arange(500), 3)
    view = augmentation.sample(keys, size)
    for places in (view.rows, view.cols):
        assert places.shape == (500, size)
        assert places.dtype == torch.int64
        assert places.min() >= 0
        assert places.max() < size + 2 * augmentation.padding
    if view.erase is not None:
        assert view.erase.shape == (500, size, size)
        assert view.erase.dtype == torch.bool
        assert not view.erase.all(), "something is left to learn from"


@pytest.mark.parametrize("name", options("augmentation"))
def test_an_augmentation_gives_equal_views_for_equal_keys(name: str, folder: Path) -> None:
    """A view is its key's alone, whatever else is in the batch: a resumed run sees the same images."""
    augmentation = build.plugins(with_option("augmentation", name, folder)).augmentation
    keys = randomness.keys(torch.arange(64), 3)
    together, alone = augmentation.sample(keys, 32), augmentation.sample(keys[40:41], 32)
    assert torch.equal(together.rows[40:41], alone.rows)
    assert torch.equal(together.cols[40:41], alone.cols)
    assert (together.erase is None) == (alone.erase is None)
    if together.erase is not None and alone.erase is not None:
        assert torch.equal(together.erase[40:41], alone.erase)


@pytest.mark.parametrize(("epochs", "steps"), [(24, 1), (24, 98), (25, 3)])
@pytest.mark.parametrize("name", options("scheduler"))
def test_a_scheduler_plans_every_step(name: str, epochs: int, steps: int, folder: Path) -> None:
    scheduler = build.plugins(with_option("scheduler", name, folder)).scheduler
    schedule = scheduler.plan(0.3, epochs, steps)
    assert len(schedule.lrs) == epochs * steps
    assert all(math.isfinite(lr) and lr >= 0 for lr in schedule.lrs)
    assert max(schedule.lrs) == schedule.max_lr == 0.3
    assert schedule.lrs[0] == pytest.approx(scheduler.first_lr(0.3), rel=1e-12)
    assert schedule.momenta is None or len(schedule.momenta) == len(schedule.lrs)
    assert schedule == scheduler.plan(0.3, epochs, steps)


@pytest.mark.parametrize(("epochs", "steps"), [(24, 1), (24, 98), (25, 3)])
@pytest.mark.parametrize("name", options("scheduler"))
def test_a_schedule_never_rises_after_the_epoch_from_which_its_runs_can_be_compared(
    name: str, epochs: int, steps: int, folder: Path
) -> None:
    scheduler = build.plugins(with_option("scheduler", name, folder)).scheduler
    after = scheduler.comparable_after(epochs)
    assert isinstance(after, int) and 0 <= after <= epochs
    left = scheduler.plan(0.3, epochs, steps).lrs[after * steps :]
    assert all(later <= earlier for earlier, later in pairwise(left))


@pytest.mark.parametrize("name", options("optimizer"))
def test_an_optimizer_moves_the_weights_by_the_lr_it_is_given(name: str, folder: Path) -> None:
    make = build.plugins(with_option("optimizer", name, folder)).optimizer
    model = torch.nn.Linear(3, 2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = make(model)
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert owned == {id(parameter) for parameter in model.parameters()}
    model(torch.ones(4, 3)).square().sum().backward()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert all(map(torch.equal, before, model.parameters())), "without an LR nothing moves"
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    assert not any(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("name", options("optimizer"))
def test_an_optimizer_has_no_lr_of_its_own(name: str) -> None:
    """The schedule would overwrite it: a setting that is ignored is no setting."""
    assert "lr" not in content("optimizer", name)
    assert "lr" not in inspect.signature(locate(content("optimizer", name)["_target_"])).parameters


@pytest.mark.parametrize("name", options("data"))
def test_a_data_set_names_itself_without_being_read(name: str, folder: Path) -> None:
    for part, label in (("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")):
        (folder / part / label).mkdir(exist_ok=True)
        (folder / part / label / "1.png").touch()
    sources = [build.plugins(with_option("data", name, folder)).source for _ in range(2)]
    identity = sources[0].identity()
    assert identity == sources[1].identity()
    assert identity.startswith(name), "the options of a group are told apart"
    assert str(folder) not in identity
    size = sources[0].size()
    assert size.num_train >= size.num_classes >= 2


def test_digits_fulfil_the_contract_of_a_data_set(folder: Path) -> None:
    """The one data set that is always there; the others have tests of their own."""
    from resnet_exp.runs.console import Console

    loaded = build.plugins(with_option("data", "digits", folder)).source.load(Console().progress)
    assert isinstance(loaded, LoadedData)
    for split in (loaded.train, loaded.test):
        assert split.images.dtype == "uint8"
        assert split.images.shape == (len(split), 32, 32, 1)
        assert split.labels.dtype == "int64"
        assert set(split.labels) == set(range(len(loaded.class_names)))
    assert build.plugins(with_option("data", "digits", folder)).source.size() == DataSize(
        len(loaded.train), len(loaded.class_names)
    )


def locate(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)
