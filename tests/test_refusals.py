"""What cannot work is refused in a second, with the key, the value and what to do; slips are recognised."""

from __future__ import annotations

import random
import string
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from resnet_exp.config import build
from resnet_exp.config.command_line import check
from resnet_exp.config.conf import CONF
from resnet_exp.config.config import flat, typed
from resnet_exp.interfaces import ConfigError

# Together they hold every kind of key: with each option of a group its own.
COMMANDS = (
    ("data=digits",),
    ("data=cifar100", "model=resnet18", "scheduler=cosine", "optimizer=adamw", "augmentation=crop_flip_cutmix"),
    ("data=digits", "model=torchvision", "scheduler=cyclic", "optimizer=rmsprop", "augmentation=crop_flip"),
    ("data=digits", "scheduler=multistep", "optimizer=adam", "augmentation=crop_flip_mixup"),
    ("experiment=quickstart",),
)


@cache
def leaves(command: tuple[str, ...]) -> dict[str, Any]:
    """Every key of the composed config, with its value."""
    with initialize_config_dir(str(CONF)):
        tree: Any = OmegaConf.to_container(compose("config", overrides=list(command)))
    return {key: value for key, value in flat(tree).items() if not key.endswith("_target_") and key != "experiment"}


def refusal(*arguments: str) -> str | None:
    """What the command line is told before torch is imported, or None where it goes on."""
    try:
        arguments = tuple(check(arguments))
        with initialize_config_dir(str(CONF)):
            config = typed(compose("config", overrides=list(arguments)), arguments)
        build.check_schedule(config)
        build.tracker(config)
    except ConfigError as error:
        return str(error)
    return None


def slip(word: str, rng: random.Random) -> str:
    """The word with one letter left out, put in, changed, or swapped with the next."""
    at = rng.randrange(len(word))
    letter = rng.choice(string.ascii_lowercase)
    return rng.choice(
        [
            word[:at] + word[at + 1 :],
            word[:at] + letter + word[at:],
            word[:at] + letter + word[at + 1 :],
            word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
        ]
    )


def typos(count: int) -> list[tuple[tuple[str, ...], str, str]]:
    """Commands, a key with one slip in its last part, and the key that was meant."""
    rng = random.Random(0)
    found: list[tuple[tuple[str, ...], str, str]] = []
    while len(found) < count:
        command = rng.choice(COMMANDS)
        key = rng.choice(sorted(leaves(command)))
        section, dot, last = key.rpartition(".")
        wrong = f"{section}{dot}{slip(last, rng)}"
        if wrong not in leaves(command) and not wrong.endswith(".") and wrong[0] not in "~+":
            found.append((command, wrong, key))
    return found


TYPOS = typos(200)
# For a value of each kind, what it cannot be; ranges are each argument's own, below.
NOT_A = {
    bool: ("3", "maybe", "null", "[true]", "nan"),
    int: ("-1", "2.5", "abc", "nan", "[]", "null", "inf", "true"),
    float: ("-1", "abc", "nan", "[]", "inf", "true"),
    str: ("[]", "{a: 1}", "true"),
    list: ("[]", "abc", "[a]", "-1", "nan"),
    type(None): ("{a: 1}", "true", "nan", "[]"),
}
# What one of the values above is welcome for: any whole number is a seed, `find` is no text, and so on.
WELCOME = {
    ("train.checkpoint_interval", "2.5"), ("seed", "-1"), ("name", "nan"), ("images", "nan"), ("checkpoint", "nan"),
    ("plugins", "[]"), ("metrics", "[]"), ("report.extra", "[]"),
}  # fmt: skip


def bad_values(count: int) -> list[tuple[tuple[str, ...], str]]:
    rng = random.Random(1)
    possible = [
        (command, f"{key}={value}")
        for command in COMMANDS
        for key, current in leaves(command).items()
        for value in NOT_A.get(type(current), ())
        if (key, value) not in WELCOME
    ]
    return rng.sample(possible, count)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train.epoch", "train.epochs"),
        ("model.wdith", "model.width"),
        ("modle.width", "model.width"),
        ("trian.epohcs", "train.epochs"),
        ("sceduler.peak_epoch", "scheduler.peak_epoch"),
        ("scheduler.peakepoch", "scheduler.peak_epoch"),
        ("Train.Epochs", "train.epochs"),
        ("sede", "seed"),
        ("epochs", "train.epochs"),
        ("batchsize", "train.batch_size"),
        ("train.width", "model.width"),
        ("training.epochs", "train.epochs"),
        ("report.grad_cam", "report.gradcam"),
        ("optimizer.weightdecay", "optimizer.weight_decay"),
        ("model.depth", None),
        ("model.dropout", None),
        ("scheduler.foo", None),
        ("data.foo", None),
        ("foo.bar", None),
        ("gpu", None),
    ],
)
def test_a_realistic_slip_is_understood_and_nothing_is_made_up(typed: str, meant: str | None) -> None:
    hint = f"did you mean {meant}?" if meant else "--help lists them"
    assert refusal(f"{typed}=1") == f"{typed} is no key; {hint}"


@pytest.mark.parametrize("key", ["lr", "scheduler.lr", "train.learning_rate"])
def test_who_looks_for_the_lr_finds_it(key: str) -> None:
    assert refusal(f"{key}=0.1") == f"{key} is no key; set scheduler.max_lr (a number, or find)"


@pytest.mark.slow
def test_every_slip_in_a_key_is_refused_and_nearly_always_understood() -> None:
    """200 keys with one letter wrong; also behind + and ++, where any schema would let them pass."""
    understood = 0
    for number, (command, wrong, meant) in enumerate(TYPOS):
        message = refusal(*command, f"{('', '+', '++')[number % 3]}{wrong}=1")
        assert message is not None, f"{wrong} for {meant} was taken"
        assert message.startswith(f"{wrong} is no key")
        understood += message.endswith(f"did you mean {meant}?")
    assert understood >= 0.95 * len(TYPOS)


@pytest.mark.slow
def test_every_bad_value_is_refused_with_its_key() -> None:
    for command, override in bad_values(100):
        message = refusal(*command, override)
        assert message is not None, f"{override} was taken"
        assert message.startswith(override.partition("=")[0].partition(".")[0]), message


@pytest.mark.parametrize("group", ["model", "augmentation", "scheduler", "optimizer", "data", "experiment", "tracker"])
def test_a_slip_in_an_options_name_is_understood(group: str) -> None:
    rng = random.Random(2)
    for option in sorted(path.stem for path in (CONF / group).glob("*.yaml")):
        wrong = next(word for word in iter(lambda: slip(option, rng), None) if word != option and word.isidentifier())  # noqa: B023
        if (CONF / group / f"{wrong}.yaml").exists():
            continue
        message = refusal(f"{group}={wrong}")
        assert message is not None
        assert message.startswith(f"{group}={wrong} is no option of {group}; ")
        assert "did you mean" in message or "known are" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scheduler.max_lr=-5",), "scheduler.max_lr=-5: find, or a finite number above 0 is needed"),
        (("scheduler.peak_epoch=0",), "scheduler.peak_epoch=0: a whole number of at least 1 is needed"),
        (("scheduler.peak_epoch=25",), "scheduler.peak_epoch=25: a whole number from 1 to train.epochs=24 is needed"),
        (("model.width=0",), "model.width=0: a whole number of at least 1 is needed"),
        (("scheduler.max_lr=0.1", "scheduler.min_lr=0.2"), "scheduler.min_lr=0.2: a number below max_lr=0.1"),
        (("scheduler=multistep", "scheduler.milestones=[]"), "scheduler.milestones=[]: a list"),
        (("optimizer.momentum=0",), "optimizer.nesterov=true needs optimizer.momentum above 0"),
        (
            ("optimizer.momentum=0", "optimizer.nesterov=false", "scheduler.cycle_momentum=true"),
            "scheduler.cycle_momentum=true needs a momentum to cycle",
        ),
        (
            ("optimizer=adam", "optimizer.betas=[0,0.999]", "scheduler.cycle_momentum=true"),
            "scheduler.cycle_momentum=true needs a momentum to cycle",
        ),
        (
            ("scheduler.max_lr=0.1", "scheduler.cycle_momentum=true", "optimizer.momentum=0.8"),
            "optimizer.momentum=0.8 would be ignored",
        ),
        (
            ("optimizer=adam", "scheduler.max_lr=0.1", "scheduler.cycle_momentum=true", "optimizer.betas=[0.5,0.99]"),
            "optimizer.betas=[0.5,0.99] would be ignored",
        ),
        (("scheduler.max_lr=0.1", "scheduler.find_factor=2"), "scheduler.find_factor=2 would be ignored"),
        (("scheduler.max_lr=0.1", "range_test=default"), "range_test=default would be ignored"),
        (("tracker=none", "+tracker.uri=sqlite:///x.db"), "tracker.uri would be ignored: the tracker that is chosen"),
        (("tracker=csv", "tracker.experiment=mine"), "tracker.experiment would be ignored: the tracker that is chosen"),
        (("tracker.uri=mongodb://host",), "tracker.uri=mongodb://host: sqlite:///FILE.db, postgresql"),
        (("images=photos",), "images=photos would be ignored: task=train does not read it"),
        (("task=predict", "checkpoint=x"), "task=predict needs images=...: an image, or a folder of images"),
        (("task=evaluate", "checkpoint=x", "train.epochs=3"), "train.epochs=3 would be ignored: task=evaluate"),
        (("task=evaluate", "checkpoint=x", "optimizer=adam"), "optimizer=adam would be ignored: task=evaluate"),
        (("task=evaluate", "checkpoint=x", "data.limit_train=9"), "data.limit_train=9 would be ignored"),
        (("task=predict", "checkpoint=x", "images=y", "data=digits"), "data=digits would be ignored: task=predict"),
        (("task=predict", "checkpoint=x", "images=y", "predictions=z.jpg"), "predictions=z.jpg: a file that ends in"),
        (("plugins=nowhere",), "plugins="),
        (("train.epochs",), "train.epochs: key=value is needed"),
        (("model=null",), "model=null: an option is needed; known are custom_resnet"),
        (("~seed",), "seed is missing; leave ~seed out"),
        (("~train.epochs",), "train.epochs is missing; leave ~train.epochs out"),
        (("plugins=",), "plugins=: a folder is needed"),
        (("train.label_smoothing=1" + "0" * 400,), "train.label_smoothing=1"),
        (("train.epochs=99999999999",), "train.epochs=99999999999: a whole number from 1 to 100000"),
        (
            ("scheduler=multistep", "scheduler.milestones=5"),
            "scheduler.milestones=5: a list of 1 or more, each a whole",
        ),
        (
            ("model=resnet18", "model.blocks=[1,1]"),
            "model.blocks=[1,1]: a list of 4, each a whole number of at least 1",
        ),
        (("task=evaluate", "checkpoint=x"), "task=evaluate needs data=...: the data set"),
        (("train.epochs=[",), "train.epochs=[: key=value is needed"),
        (("experiment=quickstart", "scheduler=constant"), "scheduler.peak_epoch is no key of resnet_exp.schedulers."),
        (("+model=resnet18",), "+model: the group exists already"),
        (("+train.epochs=3",), "+train.epochs: the key exists already"),
    ],
    ids=str,
)
def test_what_cannot_work_is_told_with_what_would(arguments: tuple[str, ...], message: str) -> None:
    told = refusal(*arguments)
    assert told is not None
    assert told.startswith(message)


def test_a_key_that_an_experiment_sets_is_told_so() -> None:
    arguments = ("experiment=quickstart", "scheduler=constant")
    with initialize_config_dir(str(CONF)), pytest.raises(ConfigError) as caught:
        typed(compose("config", overrides=list(arguments)), arguments, {"experiment": "quickstart"})
    assert str(caught.value).endswith("; experiment=quickstart sets it, and ~scheduler.peak_epoch takes it out")
    assert refusal(*arguments, "~scheduler.peak_epoch") is None


@pytest.mark.parametrize(
    "command", [*COMMANDS, ("++train.epochs=30",), ("hydra/launcher=basic",), ("hydra.verbose=true",)]
)
def test_what_can_work_is_not_refused(command: tuple[str, ...]) -> None:
    assert refusal(*(argument for argument in command if not argument.startswith("hydra"))) is None
    check(command)


def test_the_keys_of_a_sweep_are_checked_too() -> None:
    check(["--multirun", "scheduler.peak_epoch=2,5", "optimizer=sgd,adamw", "train.batch_size=choice(64,128)"])
    check(["-m", "scheduler=onecycle", "scheduler.peak_epoch=range(1,4)", "model=glob(resnet*)"])
    with pytest.raises(ConfigError, match=r"scheduler\.peak_epoch is no key with scheduler=cosine; every job"):
        check(["-m", "scheduler=onecycle,cosine", "scheduler.peak_epoch=2,5"])
    with pytest.raises(ConfigError, match="plugins cannot be swept over"):
        check(["-m", "plugins=a,b"])
    with pytest.raises(ConfigError, match=r"scheduler\.peak_epok is no key; did you mean scheduler\.peak_epoch\?"):
        check(["--multirun", "scheduler.peak_epok=2,5"])
    with pytest.raises(ConfigError, match=r"optimizer=rmsprp is no option of optimizer; did you mean rmsprop\?"):
        check(["--multirun", "optimizer=sgd,rmsprp"])


def test_what_is_not_ignored_is_welcome_with_a_cycled_momentum() -> None:
    given = ("scheduler.max_lr=0.1", "scheduler.cycle_momentum=true")
    assert refusal(*given, "optimizer=adam", "optimizer.betas=[0.9,0.99]") is None
    assert refusal("scheduler.cycle_momentum=true", "optimizer.momentum=0.8") is None, "the range test has it"


def test_what_only_shows_something_is_not_checked() -> None:
    for flag in ("--help", "--hydra-help", "--info=config"):
        check([flag, "no.such.key=1"])
        with pytest.raises(ConfigError, match="did you mean quickstart"):
            check([flag, "experiment=quikstart"])
    check(["-sc", "query=bash"])
    check(["--version"])


def test_an_open_mapping_takes_any_key() -> None:
    check(["model=torchvision", "+model.kwargs.dropout=0.1"])
    check(["model=torchvision", "+model.kwargs={dropout: 0.1}"])
    with pytest.raises(ConfigError, match=r"are added with \+model\.kwargs="):
        check(["model=torchvision", "model.kwargs={dropout: 0.1}"])
    with pytest.raises(ConfigError, match=r"model\.kwarg\.dropout is no key"):
        check(["model=torchvision", "+model.kwarg.dropout=0.1"])
