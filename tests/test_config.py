"""The config becomes typed values, or an error that names the key, the value and what is allowed; and its signature."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from resnet_exp.config.conf import CONF
from resnet_exp.config.config import Config, as_recorded, flat, typed
from resnet_exp.config.overrides import HydraArguments
from resnet_exp.config.redact import VARIABLE, redacted_command, without_secrets
from resnet_exp.interfaces import ConfigError
from resnet_exp.run_dir.signature import range_test_signature, signature

MACHINE = {
    **dict.fromkeys(("device", "precision", "threads", "cuda", "cudnn", "code_digest", "git_commit"), "x"),
    "packages": dict.fromkeys(("torch", "torchvision", "numpy", "scipy", "pillow", "scikit-learn", "mlflow"), "1"),
}


@cache  # composing takes a tenth of a second; nobody changes what it returns
def config_of(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF)):
        return typed(compose("config", overrides=list(overrides)), overrides)


def error_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config_of(*overrides)
    return str(caught.value)


def sign(*overrides: str, data: str = "digits-1") -> str:
    config = config_of(*overrides)
    return signature(config, data, {"auto": "fp32"}.get(config.train.precision, config.train.precision))


def test_the_defaults_are_typed() -> None:
    config = config_of()
    assert (config.task, config.name, config.seed, config.rerun) == ("train", None, 0, False)
    assert (config.train.epochs, config.train.batch_size, config.train.clip_grad_norm) == (24, 512, None)
    assert (config.split.validation, config.split.holdout, config.split.limit_train) == ("holdout", None, None)
    assert config.plugins["tracker"]["experiment"] == "resnet_exp"
    assert config.plugins["model"] == {"_target_": "resnet_exp.models.custom_resnet.CustomResNet", "width": 64}


def test_numbers_are_read_as_people_write_them() -> None:
    config = config_of("train.checkpoint_interval=5", "train.clip_grad_norm=1", "range_test.start_lr=1e-6", "name=7")
    assert config.train.checkpoint_interval == 5.0
    assert isinstance(config.train.checkpoint_interval, float)
    assert config.train.clip_grad_norm == 1.0
    assert config.range_test.start_lr == 1e-6
    assert config.name == "7"


def test_a_plugin_gets_only_its_own_arguments() -> None:
    config = config_of("data=digits", "data.limit_train=100")
    assert config.plugins["data"] == {"_target_": "resnet_exp.data.digits.Digits", "image_size": 32}
    assert config.split.limit_train == 100


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("train.epochs=0", "from 1 to 100000"),
        ("train.epochs=-1", "from 1 to 100000"),
        ("train.epochs=abc", "whole number"),
        ("train.epochs=nan", "whole number"),
        ("train.epochs=2.5", "whole number"),
        ("train.epochs=inf", "whole number"),
        ("train.epochs=true", "whole number"),
        ("train.epochs=null", "whole number"),
        ("train.batch_size=0", "at least 1"),
        ("train.batch_size=[1]", "whole number"),
        ("train.precision=foo", "auto, fp32, bf16, fp16"),
        ("train.precision=null", "auto, fp32, bf16, fp16"),
        ("train.channels_last=maybe", "true or false"),
        ("train.deterministic=maybe", "true or false"),
        ("train.label_smoothing=1", "from 0 to below 1"),
        ("train.label_smoothing=-0.1", "from 0 to below 1"),
        ("train.label_smoothing=nan", "from 0 to below 1"),
        ("train.clip_grad_norm=0", "above 0"),
        ("train.clip_grad_norm=-1", "above 0"),
        ("train.clip_grad_norm=inf", "finite"),
        ("train.clip_grad_norm=nan", "finite"),
        ("train.grad_accum_steps=0", "at least 1"),
        ("train.grad_accum_steps=513", "from 1 to train.batch_size=512"),
        ("train.checkpoint_interval=-1", "at least 0"),
        ("train.checkpoint_interval=nan", "at least 0"),
        ("train.checkpoint_interval=inf", "at least 0"),
        ("range_test.start_lr=0", "above 0"),
        ("range_test.start_lr=-1", "above 0"),
        ("range_test.start_lr=nan", "finite"),
        ("range_test.start_lr=inf", "finite"),
        ("range_test.end_lr=1e-06", "above 1e-05"),
        ("range_test.end_lr=1e-05", "above 1e-05"),
        ("range_test.end_lr=inf", "finite"),
        ("range_test.num_steps=5", "at least 20"),
        ("range_test.repeats=0", "at least 1"),
        ("data.validation=foo", "holdout, none, test"),
        ("data.holdout=0", "at least 1"),
        ("data.holdout=0.1", "whole number"),
        ("data.limit_train=0", "at least 1"),
        ("task=foo", "train, range_test"),
        ("device=foo", "auto, cpu, cuda"),
        ("device=cuda:1", "auto, cpu, cuda"),
        ("seed=null", "whole number"),
        ("seed=0.5", "whole number"),
        ("rerun=maybe", "true or false"),
        ("output_dir=null", "text"),
        ("name=a/b", "letters, digits"),
        ("name=../up", "letters, digits"),
        ("name='a b'", "letters, digits"),
        ("name=''", "letters, digits"),
        (f"name={'x' * 81}", "80 at most"),
        ("tracker.uri=[a]", "text"),
        ("tracker.experiment=null", "text"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(override: str, allowed: str) -> None:
    key, _, value = override.partition("=")
    message = error_of(override)
    assert message.startswith(f"{key}=")
    assert value.strip("'").lower() in message.lower()
    assert allowed in message


def test_a_range_tests_bounds_are_held_against_each_other() -> None:
    message = error_of("range_test.start_lr=5", "range_test.end_lr=1")
    assert message.startswith("range_test.end_lr=1")
    assert "above 5" in message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("data=image_folder",), "data.root has no default and must be given: data.root=..."),
        (("+foo=1",), "foo is no key; known are task, name, seed"),
        (("+train.foo=1",), "train.foo is no key; known are epochs, batch_size"),
        (("+tracker.foo=1",), "tracker.foo is no key"),
        (("+range_test.foo=1",), "range_test.foo is no key"),
        (("+optimizer.lr=0.1",), "set scheduler.max_lr"),
        (("~model",), "choose one with model="),
        (("~train",), "choose one with train="),
        (("~train.epochs",), "train"),
        (("train.batch_size=${nowhere}",), "nowhere"),
        (("data.holdout=10", "data.validation=none"), "data.holdout=10 would be ignored"),
        (("data.holdout=10", "data.validation=test"), "data.holdout=10 would be ignored"),
        (("range_test.repeats=2", "scheduler.max_lr=0.1"), "range_test.repeats=2 would be ignored"),
    ],
)
def test_what_is_missing_unknown_or_ignored_is_refused(overrides: tuple[str, ...], words: str) -> None:
    assert words in error_of(*overrides)


def test_range_test_settings_are_welcome_where_a_range_test_runs() -> None:
    assert config_of("range_test.repeats=2").range_test.repeats == 2
    assert config_of("task=range_test", "range_test.repeats=2").needs_range_test


def test_a_range_test_alone_refuses_a_given_max_lr() -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.max_lr=0\.1 would be ignored: task=range_test finds it"):
        config_of("task=range_test", "scheduler.max_lr=0.1")


def test_what_comes_after_a_range_test_does_not_sign_one() -> None:
    assert sign("task=range_test") == sign("task=range_test", "train.epochs=30", "scheduler.peak_epoch=2")
    assert sign("task=range_test") != sign("task=range_test", "train.batch_size=64")


@pytest.mark.parametrize("fact", ["device", "precision", "threads", "cuda", "cudnn", "code_digest"])
def test_a_range_test_is_the_same_only_where_its_curves_are(fact: str) -> None:
    assert range_sign(machine={**MACHINE, fact: "y"}) != range_sign()


def test_a_commit_or_a_package_that_makes_no_pixels_leaves_a_range_test_the_same() -> None:
    assert range_sign(machine={**MACHINE, "git_commit": "y"}) == range_sign()
    packages = {**MACHINE["packages"], "mlflow": "2"}
    assert range_sign(machine={**MACHINE, "packages": packages}) == range_sign()
    assert range_sign(machine={**MACHINE, "packages": {**packages, "pillow": "2"}}) != range_sign()


def test_the_run_directory_is_named_after_the_choices_or_by_name() -> None:
    assert config_of("data=digits").title == "digits-custom_resnet-onecycle"
    assert config_of("name=mine").title == "mine"
    assert config_of("name=mine", "task=range_test").title == "mine-range_test"


def test_checking_a_config_costs_no_import_of_torch() -> None:
    heavy = "('torch', 'mlflow', 'numpy', 'hydra')"
    code = f"import sys, resnet_exp.config.config; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# A key is on one side or the other. One that is new fails `test_every_key_is_known_to_the_signature` until somebody has
# thought about it: would another value give another result?
WITHOUT_EFFECT = {
    "name": "mine",
    "device": "cpu",
    "output_dir": "elsewhere",
    "rerun": "true",
    "plugins": "[]",  # what they hold shows in the groups' choices
    "train.checkpoint_interval": "5",
    "tracker.uri": "sqlite:///other.db",
    "tracker.experiment": "other",
    "tracker._target_": "resnet_exp.tracking.other.Other",
    "sweep.seeds": "[1,2]",  # each is the seed of a run
    "sweep.dry_run": "true",
    "sweep.max_failures": "1",
    "sweep.pruner": "median",
    "sweep.job": "3",
    "report.curves": "false",
    "report.schedule": "false",
    "report.range_test": "false",
    "report.classes": "false",
    "report.misclassified": "0",
    "report.gradcam": "0",
    "report.gradcam_method": "layercam",
    "report.gradcam_layers": "['5']",
    "report.examples": "0",
    "report.augmentation": "0",
    "report.summary": "false",
    "report.receptive_field": "0",
    "report.html": "false",
    "report.extra": "[resnet_exp.report.parts.classes.draw_confusion]",
    "data.root": "elsewhere",  # the data stand in the signature by their identity
    "data.download": "false",
    "data._target_": "resnet_exp.data.other.Other",  # as above
}
# A training refuses what is for other tasks.
# With another key only; metrics of your own need a folder, and a rule has settings: these have tests of their own.
NOT_SET_ALONE = {"checkpoint", "images", "predictions", "run_dir", "metrics", "range_test.rule"}
WITH_EFFECT = {
    "task": "range_test",
    "seed": "1",
    "data.validation": "none",
    "data.holdout": "100",
    "data.limit_train": "100",
    "model._target_": "resnet_exp.models.other.Other",
    "model.width": "32",
    "augmentation._target_": "resnet_exp.augmentation.other.Other",
    "augmentation.padding": "2",
    "augmentation.flip": "false",
    "augmentation.cutout": "4",
    "optimizer._target_": "resnet_exp.optimizers.other.other",
    "optimizer.momentum": "0.8",
    "optimizer.nesterov": "false",
    "optimizer.weight_decay": "0",
    "optimizer.decay_norms_and_biases": "false",
    "scheduler._target_": "resnet_exp.schedulers.other.Other",
    "scheduler.max_lr": "0.1",
    "scheduler.min_lr": "0.01",
    "scheduler.find_factor": "3",
    "scheduler.final_lr": "1",
    "scheduler.peak_epoch": "6",
    "scheduler.anneal": "linear",
    "scheduler.cycle_momentum": "true",
    "range_test.start_lr": "1e-6",
    "range_test.end_lr": "1",
    "range_test.num_steps": "50",
    "range_test.repeats": "1",
    "train.epochs": "25",
    "train.batch_size": "128",
    "train.precision": "bf16",
    "train.channels_last": "false",
    "train.label_smoothing": "0.1",
    "train.clip_grad_norm": "1",
    "train.grad_accum_steps": "2",
    "train.deterministic": "true",
    "train.ema": "0.999",
}


def test_every_key_is_known_to_the_signature() -> None:
    keys = set(flat(config_of().tree)) - NOT_SET_ALONE
    assert keys == WITHOUT_EFFECT.keys() | WITH_EFFECT.keys()
    assert not WITHOUT_EFFECT.keys() & WITH_EFFECT.keys()


def test_metrics_of_ones_own_make_another_run_and_the_same_range_test() -> None:
    """A finished run that lacks a metric is not the run that measures it."""
    own = "plugins=tests/plugins", "metrics=[scale.Scale]"  # what it is is looked at later
    assert sign(*own) != sign()
    assert sign(*own, "task=range_test") == sign("task=range_test")
    assert range_sign(*own) == range_sign()


def test_another_rule_for_max_lr_makes_another_run_and_another_range_test() -> None:
    mini = "range_test=miniatures"
    assert len({sign(), sign(mini), sign(mini, "range_test.first_lr=0.1"), sign(mini, "range_test.num_steps=20")}) == 4
    assert range_sign(mini) != range_sign()
    assert range_sign(mini, "scheduler.peak_epoch=7", "train.epochs=30") == range_sign(mini)


def test_a_recorded_config_of_before_there_was_a_rule_has_the_first_one() -> None:
    with initialize_config_dir(str(CONF)):
        tree = compose("config", overrides=["data=digits"])
        OmegaConf.set_struct(tree, False)
        del tree["range_test"]["rule"]
    assert typed(tree).range_test.rule == "minimum"
    assert signature(typed(tree), "images", "fp32") == signature(config_of("data=digits"), "images", "fp32")


def test_the_moving_average_makes_another_run_and_the_same_range_test() -> None:
    """A range test has none; runs of before there was one have the signatures that they had."""
    assert len({sign(), sign("train.ema=0.99"), sign("train.ema=0.999")}) == 3
    assert sign("train.ema=null") == sign()
    assert sign("train.ema=0.99", "task=range_test") == sign("task=range_test")


@pytest.mark.parametrize("value", ["0", "1", "1.5", "-1", "nan", "inf", "true", "0.9x"])
def test_a_decay_that_is_none_is_refused_with_its_range(value: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^train\.ema={value}: a finite number above 0 to below 1, or null is needed"
    ):
        config_of(f"train.ema={value}")


@pytest.mark.parametrize("task", ["evaluate", "predict"])
def test_a_decay_is_refused_where_nothing_is_trained(task: str) -> None:
    """A training's command may be repeated with task=range_test: there it is for the training, as all of `train` is."""
    with pytest.raises(ConfigError, match=rf"train\.ema=0\.9 would be ignored: task={task} does not read it"):
        config_of(f"task={task}", "checkpoint=x", *(["images=y"] if task == "predict" else []), "train.ema=0.9")
    assert config_of("task=range_test", "train.ema=0.9").train.ema == 0.9


def test_a_recorded_config_of_before_there_was_an_average_has_none() -> None:
    with initialize_config_dir(str(CONF)):
        tree = compose("config", overrides=["data=digits"])
        OmegaConf.set_struct(tree, False)
        del tree["train"]["ema"]
    assert typed(tree).train.ema is None


def test_the_tracker_does_not_change_the_signature() -> None:
    for option in (CONF / "tracker").glob("*.yaml"):
        assert sign(f"tracker={option.stem}") == sign()


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_what_cannot_change_the_result_does_not_change_the_signature(key: str) -> None:
    assert sign(f"{key}={WITHOUT_EFFECT[key]}") == sign()


@pytest.mark.parametrize("key", WITH_EFFECT)
def test_what_can_change_the_result_changes_the_signature(key: str) -> None:
    assert sign(f"{key}={WITH_EFFECT[key]}") != sign()


def test_signatures_of_different_values_differ_among_each_other() -> None:
    signatures = [sign(f"{key}={value}") for key, value in WITH_EFFECT.items()]
    assert len(set(signatures)) == len(signatures)


def test_a_signature_is_short_and_always_the_same() -> None:
    """A golden value: another one would orphan every unfinished run directory. Raise SIGNATURE_VERSION if meant."""
    assert sign() == "37d72fe3f0b5"


def test_data_stand_in_the_signature_by_what_they_are_not_where(tmp_path: Any) -> None:
    here, there = (("data=image_folder", f"data.root={tmp_path}/{name}") for name in ("here", "there"))
    assert sign(*here) == sign(*there)
    assert sign(*here, data="digits-1") != sign(*here, data="digits-2")


def test_range_test_settings_count_only_where_one_runs() -> None:
    """Without a range test its settings are refused on the command line; an experiment's yaml may still hold them."""
    with initialize_config_dir(str(CONF)):
        trees = [compose("config", overrides=[f"range_test.repeats={n}", "scheduler.max_lr=0.1"]) for n in (1, 2)]
    one, two = (signature(typed(tree), "d", "fp32") for tree in trees)
    assert one == two


def range_sign(*overrides: str, data: str = "d", machine: dict[str, Any] = MACHINE) -> str:
    return range_test_signature(config_of(*overrides), data, machine)


@pytest.mark.parametrize(
    "override",
    ["scheduler.peak_epoch=3", "scheduler.anneal=linear", "scheduler.min_lr=0.001", "train.epochs=30",
     "task=range_test", "name=other", "tracker=none", "output_dir=x", "train.checkpoint_interval=0", "rerun=true",
     "train.ema=0.99"],
)  # fmt: skip
def test_a_range_test_is_shared_by_runs_that_differ_in_what_comes_after_it(override: str) -> None:
    assert range_sign(override) == range_sign()


@pytest.mark.parametrize(
    "override",
    ["seed=1", "model.width=32", "optimizer.momentum=0.8", "augmentation.cutout=0", "train.batch_size=128",
     "train.label_smoothing=0.1", "range_test.repeats=1", "data.holdout=100", "data.limit_train=1000"],
)  # fmt: skip
def test_a_range_test_is_not_shared_where_its_curves_would_differ(override: str) -> None:
    assert range_sign(override) != range_sign()


def test_a_range_test_is_not_shared_between_data_or_machines() -> None:
    assert range_sign(data="other") != range_sign()
    assert range_sign(machine=MACHINE | {"precision": "bf16"}) != range_sign()


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql+psycopg://user:SECRET@host/db",
        "postgresql://user:SEC@RET@host/db",
        "mysql+pymysql://user:SECRET@host:3306/db?charset=utf8",
        "https://user:SECRET@host",
        "https://SECRET@host/mlflow",
        "postgresql+psycopg://host/db?user=me&password=SECRET",
    ],
)
def test_a_password_is_used_but_never_recorded(uri: str) -> None:
    config = config_of(f"tracker.uri='{uri}'")
    assert config.plugins["tracker"]["uri"] == uri
    assert "SEC" not in str(config.tree)
    assert "RET" not in str(config.tree)
    assert "host" in config.tree["tracker"]["uri"]


def test_a_recorded_tracker_is_a_fact_and_the_commands_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = config_of("tracker.uri=sqlite:///runs.db").tree
    assert as_recorded(recorded, config_of()).plugins["tracker"].keys() == {"_target_"}
    given = config_of("tracker.uri='http://me:SECRET@host'")
    assert as_recorded(recorded, given).plugins["tracker"]["uri"] == "http://me:SECRET@host"
    assert as_recorded(given.tree, config_of()).plugins["tracker"].keys() == {"_target_"}, "no password is needed"
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(ConfigError, match=r"^tracker\.uri=http://me:\*\*\*@host: .*give tracker\.uri=.*tracker=none"):
        typed(OmegaConf.create(given.tree))


def test_recorded_folders_of_images_elsewhere_are_named_again_and_nothing_is_downloaded() -> None:
    def recorded(**data: object) -> dict[str, Any]:
        tree = config_of().tree
        return {**tree, "data": {**tree["data"], **data}}

    assert as_recorded(recorded(root="some/data"), config_of()).plugins["data"]["download"] is False
    for root in ("/etc", "../data", "~/data"):
        with pytest.raises(ConfigError, match=rf"^data\.root={root}: .*outside the working directory.*add .*{root}"):
            as_recorded(recorded(root=root), config_of())
        again = as_recorded(recorded(root=root), config_of("task=report", "run_dir=x", f"data.root='{root}'"))
        assert again.plugins["data"]["root"] == root


def test_decoded_images_elsewhere_are_made_anew_where_they_are_by_default() -> None:
    """The command cannot name that folder again: its own data set may have no such setting."""
    for given, read in (("/etc", None), ("../cache", None), ("some/cache", "some/cache")):
        recorded = config_of("data=image_folder", "data.root=pictures", f"data.cache={given}").tree
        assert as_recorded(recorded, config_of("task=report", "run_dir=x")).plugins["data"]["cache"] == read


def test_a_yaml_names_no_plugins_unless_the_command_line_does(tmp_path: Path) -> None:
    for name in ("mine", "b c"):
        (tmp_path / name).mkdir()
    mine, other = f"{tmp_path}/mine", f"{tmp_path}/b c"
    tree = config_of("tracker=none", "data=digits").tree

    def folders(value: Any, *overrides: str) -> tuple[Path, ...]:
        return typed(OmegaConf.create({**tree, "plugins": value}), overrides).plugin_folders

    for spelt in (f"plugins={mine}", f"+plugins={mine}", f"++plugins=[{mine}]", f"plugins=[{mine},'{other}']"):
        assert folders(mine, spelt, "experiment=quickstart") == (Path(mine),)
    for value, overrides in (
        (mine, ()), ([mine], ("seed=1",)), ([mine, other], (f"plugins={mine}",)), (mine, (f"name={mine}",)),
        (mine, ("~plugins",)), ([mine, other], (f"plugins=extend_list({mine})",)), (mine, (f"plugins.0={mine}",)),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"a yaml names this folder.*add '?plugins="):
            folders(value, *overrides)


@pytest.mark.parametrize(
    ("section", "given"),
    [
        ({"kind": "mlflow", "uri": "sqlite:///a.db", "experiment": "mine"},
         "tracker=mlflow tracker.uri=sqlite:///a.db tracker.experiment=mine"),
        ({"kind": "none"}, "tracker=none"),
    ],
)  # fmt: skip
def test_how_trackers_were_recorded_before_is_refused_with_what_to_give(section: dict[str, Any], given: str) -> None:
    recorded = {**config_of().tree, "tracker": section}
    with pytest.raises(ConfigError, match=f"an earlier version recorded the tracker so; give {given}$"):
        typed(OmegaConf.create(recorded))
    again = as_recorded(recorded, config_of(*given.split()))
    assert again.plugins["tracker"] == config_of(*given.split()).plugins["tracker"]


def test_a_number_signs_alike_however_it_is_written() -> None:
    assert sign("scheduler.max_lr=1") == sign("scheduler.max_lr=1.0") == sign("scheduler.max_lr=1e0")


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ('tracker.password="hunter2!"', "'tracker.password=***'"),
        ("tracker.token=abc def", "'tracker.token=***'"),
        ("+tracker.auth.secret_key=abc", "'+tracker.auth.secret_key=***'"),
        ("+tracker.auth={password: abc, user: me}", "'+tracker.auth={password: ***, user: me}'"),
        ("tracker.uri=http://me:abc@host", "'tracker.uri=http://me:***@host'"),
        ("model.width=3", "model.width=3"),
    ],
)
def test_a_command_that_is_recorded_has_no_secrets(override: str, shown: str) -> None:
    """Hydra demands quotes around some characters: these are no way past."""
    assert redacted_command([override]) == f"python -m resnet_exp {shown}"


def test_secrets_are_struck_out_however_deep_they_are() -> None:
    settings = {"auth": {"password": "x", "user": "me", "more": [{"access_key": "y"}]}, "token": None}
    assert without_secrets(settings) == {
        "auth": {"password": "***", "user": "me", "more": [{"access_key": "***"}]}, "token": None,
    }  # fmt: skip


def test_a_config_of_before_metrics_and_figures_of_ones_own_still_loads() -> None:
    tree = config_of().tree
    old = {key: value for key, value in tree.items() if key != "metrics"}
    old["report"] = {key: value for key, value in tree["report"].items() if key != "extra"}
    found = typed(OmegaConf.create(old))
    assert found.metrics == found.report.extra == []


def test_a_text_is_no_number_of_a_yaml() -> None:
    """How `1e5` was written is lost by then; on a command line it is put in quotes before Hydra reads it."""
    with initialize_config_dir(str(CONF)):
        cfg = compose("config", overrides=["data=digits", "name=1e5"])
        with pytest.raises(ConfigError, match=r"^name=100000\.0: a text, or null is needed; a text that looks like"):
            typed(cfg)


def test_the_users_folder_is_meant_by_a_tilde() -> None:
    with initialize_config_dir(str(CONF)):
        cfg = compose("config", overrides=["data=digits", 'output_dir="~/runs"'])
    assert typed(cfg).output_dir == str(Path("~/runs").expanduser())


def test_an_own_primary_config_says_which_images_are_measured() -> None:
    with initialize_config_dir(str(CONF)):
        cfg = compose("config", overrides=["data=digits", "task=evaluate", "checkpoint=x"])
    overrides = ("task=evaluate", "checkpoint=x")
    assert typed(cfg, overrides, hydra=HydraArguments(flags=("--config-name", "mine"))).task == "evaluate"
    with pytest.raises(ConfigError, match="needs data"):
        typed(cfg, overrides)
