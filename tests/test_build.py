"""A config can name plug-ins of its groups' packages, with their own arguments, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from resnet_exp.config import build
from resnet_exp.config.conf import CONF
from resnet_exp.config.config import GROUPS, Config, typed
from resnet_exp.interfaces import ConfigError, DatasetInfo
from resnet_exp.tracking.none import NoTracker

INFO = DatasetInfo("digits", ("a", "b", "c"), 32, 1, 100, 10, 10)

# Each would do something that no config should be able to do; what it is told to do would leave a file behind.
HOSTILE = [
    "os.system",
    "os.popen",
    "os.execv",
    "os.remove",
    "posix.system",
    "builtins.eval",
    "builtins.exec",
    "builtins.open",
    "builtins.__import__",
    "eval",
    "subprocess.Popen",
    "subprocess.run",
    "subprocess.check_output",
    "shutil.rmtree",
    "torch.load",
    "torch.hub.load",
    "pickle.loads",
    "importlib.import_module",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
    "functools.partial",
    "ctypes.CDLL",
    "socket.socket",
    "webbrowser.open",
    "logging.os.system",
    "numpy.load",
    "pathlib.Path.write_text",
    "resnet_exp.training.device.subprocess.run",
    "resnet_exp.interfaces.ConfigError",
    "resnet_exp.models.custom_resnet.torch.load",
    "resnet_exp.models.custom_resnet.torch.hub.load",
    "resnet_exp.models.custom_resnet.torch.os.system",
    "resnet_exp.models.custom_resnet.CustomResNet.load_state_dict",
    "resnet_exp.models..os.system",
    "resnet_exp.modelsandmore.os.system",
]
# What a plug-in's module has imported is not the group's own, though its name begins rightly.
BORROWED = [
    ("model", "resnet_exp.models.custom_resnet.ConfigError"),
    ("data", "resnet_exp.data.image_folder.Path"),
    ("data", "resnet_exp.data.decode_cache.suppress"),
]


@cache  # composing takes a tenth of a second; nobody changes what it returns
def config_of(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF)):
        return typed(compose("config", overrides=["data=digits", "tracker=none", *overrides]), overrides)


def with_target(config: Config, group: str, target: Any, **settings: Any) -> Config:
    """A config that was never checked: what `build` is given if the checks before it have a hole."""
    return replace(config, plugins={**config.plugins, group: {"_target_": target, **settings}})


def make_all(config: Config) -> None:
    build.check_schedule(config)
    build.plugins(config)
    build.model(config, INFO)


DEFAULT = config_of()


@pytest.mark.parametrize("target", HOSTILE)
def test_a_hostile_target_is_refused_before_anything_is_imported(target: str) -> None:
    with pytest.raises(ConfigError, match=r"^model\._target_=.*a name in resnet_exp\.models is needed"):
        config_of(f"model._target_='{target}'")


@pytest.mark.parametrize("target", HOSTILE)
def test_a_hostile_target_is_refused_where_it_would_be_called(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second wall: Hydra's whitelist, on a config that did not pass the first. Nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^model: .*(whitelist|Error locating target)"):
        build.model(with_target(DEFAULT, "model", target, command="touch executed"), INFO)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_refuses_what_lives_in_another(group: str) -> None:
    other = "model" if group != "model" else "scheduler"
    target = DEFAULT.plugins[other]["_target_"]
    with pytest.raises(ConfigError, match=rf"^{group}\._target_={target}"):
        config_of(f"{group}._target_={target}")
    with pytest.raises(ConfigError, match=f"^{group}"):
        make_all(with_target(DEFAULT, group, target))


@pytest.mark.parametrize(("group", "target"), BORROWED)
def test_what_a_plugins_module_has_imported_is_refused(group: str, target: str) -> None:
    with pytest.raises(ConfigError, match=f"^{group}"):
        make_all(config_of(f"{group}._target_={target}", *(["~data.image_size"] if group == "data" else [])))


@pytest.mark.parametrize("target", ["resnet_exp.data.decode_cache._prune", "resnet_exp.models.custom_resnet._conv_bn"])
def test_what_is_private_to_a_module_is_refused(target: str) -> None:
    group = "data" if ".data." in target else "model"
    with pytest.raises(ConfigError, match=rf"^{group}\._target_={target}"):
        config_of(f"{group}._target_={target}")


@pytest.mark.parametrize(
    "override",
    [
        "model.width={_target_: os.system, command: touch executed}",
        "model.width=[{_target_: os.system, command: touch executed}]",
        "model.width={a: {b: [{_target_: os.system, command: touch executed}]}}",
        "model.width={_target_: resnet_exp.models.custom_resnet.CustomResNet, num_classes: 2}",
        "data.image_size={_target_: resnet_exp.data.decode_cache._prune, folder: /}",
        "scheduler.max_lr={_target_: os.getpid}",
        "+model._partial_=true",
        "+model._args_=[1]",
        "+model._recursive_=false",
        "+model._convert_=none",
        "+model._execution_whitelist_=['os.*']",
        "model.width={_target_: os.getcwd, _execution_whitelist_: ['os.*']}",
    ],
)
def test_a_setting_is_a_plain_value_and_never_made_by_another_target(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = override.lstrip("+").partition("=")[0]
    with pytest.raises(ConfigError, match=f"^{key}: .* plain"):
        config_of(override)
    assert not list(tmp_path.iterdir())


def test_a_target_within_a_setting_is_not_called_even_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = {"_target_": "os.system", "command": "touch executed"}
    target = DEFAULT.plugins["model"]["_target_"]
    for width in (hostile, [hostile], {"a": hostile}):
        with pytest.raises(ConfigError, match=r"^model: Target 'os.system' cannot be authorized"):
            build.model(with_target(DEFAULT, "model", target, width=width), INFO)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "+model.with=3",
            "model.with is no key of resnet_exp.models.custom_resnet.CustomResNet; did you mean model.width?",
        ),
        ("+data.folder=x", "data.folder is no key"),
        ("+augmentation.rotate=3", "augmentation.rotate is no key"),
        ("+optimizer.beta=3", "optimizer.beta is no key"),
        ("+scheduler.gamma=3", "scheduler.gamma is no key"),
        ("+model.num_classes=7", "model.num_classes is no key"),  # the data say so; it would be ignored
    ],
)
def test_a_key_that_the_plugin_does_not_know_is_named_before_anything_is_made(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build.plugins(config_of(override))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "model.width=0",
        "model.width=1.5",
        "model.width=abc",
        "model.width=null",
        "data.image_size=7",
        "data.image_size=abc",
        "augmentation.padding=-1",
        "augmentation.padding=abc",
        "augmentation.flip=3",
        "augmentation.cutout=null",
        "optimizer.momentum=1",
        "optimizer.momentum=nan",
        "optimizer.momentum=abc",
        "optimizer.momentum=null",
        "optimizer.weight_decay=-1",
        "optimizer.weight_decay=abc",
        "scheduler.max_lr=0",
        "scheduler.max_lr=nan",
        "scheduler.max_lr=inf",
        "scheduler.max_lr=search",
        "scheduler.min_lr=-1",
        "scheduler.final_lr=2",
        "scheduler.final_lr=abc",
        "scheduler.peak_epoch=0",
        "scheduler.peak_epoch=2.5",
        "scheduler.peak_epoch=25",
        "scheduler.anneal=sin",
        "scheduler.cycle_momentum=3",
    ],
)
def test_a_value_that_the_plugin_cannot_use_is_a_config_error_of_its_group(override: str) -> None:
    key, _, value = override.partition("=")
    group = key.partition(".")[0]
    with pytest.raises(ConfigError) as caught:
        make_all(config_of(override))
    message = str(caught.value)
    assert message.startswith((f"{group}.", f"{group}:"))
    assert value in message


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", ["nothing.Nothing", "Nothing"])
def test_a_plugin_that_is_not_there_is_a_config_error(group: str, name: str) -> None:
    package = DEFAULT.plugins[group]["_target_"].rpartition(".")[0]
    target = f"{package.rpartition('.')[0] if '.' in name else package}.{name}"
    with pytest.raises(ConfigError, match=rf"^{group}\._target_={target}"):
        build.plugins(config_of(f"{group}._target_={target}"))


def test_a_plugin_may_not_demand_what_nobody_gives() -> None:
    with pytest.raises(ConfigError, match=r"^data\.root is missing"):
        config_of("data=image_folder", "data.root=x", "~data.root")


def test_what_the_config_names_is_made() -> None:
    config = config_of("model.width=2", "scheduler.max_lr=0.25")
    plugins = build.plugins(config)
    assert plugins.scheduler.max_lr == 0.25
    assert plugins.augmentation.padding == 4
    assert plugins.source.identity().startswith("digits-")
    assert isinstance(build.tracker(config), NoTracker)
    assert build.model(config, INFO)[0][0].out_channels == 2


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///runs.db",
        "postgresql+psycopg://host/db",
        "mysql+pymysql://host/db",
        "http://host:5000",
        "https://host",
    ],
)
def test_stores_that_mlflow_takes_are_accepted(uri: str) -> None:
    assert build.tracker(config_of("tracker=mlflow", f"tracker.uri='{uri}'")).uri == uri


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "mongodb://user:SECRET@host"])
def test_other_stores_are_refused_with_those_that_would_do(uri: str) -> None:
    config = config_of("tracker=mlflow", f"tracker.uri='{uri}'")
    for make in (build.tracker, build.plugins):
        with pytest.raises(ConfigError, match=r"^tracker\.uri=.*: sqlite:///FILE\.db, postgresql") as caught:
            make(config)
        assert "SECRET" not in str(caught.value)


def test_what_is_no_tracker_is_refused_before_it_is_called(tmp_path: Path) -> None:
    """A function of the trackers' package would open a store."""
    config = config_of(
        "tracker._target_=resnet_exp.tracking.mlflow_store.open_store",
        f"+tracker.uri=sqlite:///{tmp_path}/a.db",
        "+tracker.experiment=x",
    )
    with pytest.raises(ConfigError, match=r"^tracker\._target_=.*: no tracker, which is a class with open"):
        build.tracker(config)
    assert not list(tmp_path.iterdir())


def test_a_tracker_is_made_without_torch_or_its_own_library() -> None:
    code = (
        "import sys; from resnet_exp.config import build\n"
        "for name in ('mlflow.MlflowTracker', 'csv_files.CsvTracker', 'none.NoTracker'):\n"
        "    build.tracker_of({'_target_': f'resnet_exp.tracking.{name}'}, ())\n"
        "print([name for name in ('torch', 'mlflow', 'pandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
