"""Every command that is recorded, read by a shell in the same folder, composes the config that it was recorded for."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from resnet_exp.__main__ import main
from resnet_exp.config.conf import CONF
from resnet_exp.config.config import Config
from resnet_exp.config.overrides import HydraArguments, command_of
from resnet_exp.interfaces import RunError
from resnet_exp.run_dir.digest import digest_of
from resnet_exp.sweeps.ledger import Ledger

T = ("experiment=quickstart", "report=none", "tracker=none")
MINE = """
defaults:
  - config
  - override optimizer: adam
  - override data: digits
  - override tracker: none
  - _self_
optimizer: {betas: [0.8, 0.99]}
train: {epochs: 7}
"""
Runs = list[tuple[Config, str]]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Runs]:
    """Gives a command line to the program, whose runs end at once; returns their configs and recorded commands."""
    (tmp_path / "D" / "experiment" / "grp").mkdir(parents=True)
    (tmp_path / "D" / "mine.yaml").write_text(MINE)
    (tmp_path / "D" / "experiment" / "grp" / "one.yaml").write_text("# @package _global_\ntrain: {epochs: 9}\n")
    sweep = "# @package _global_\ndefaults: [default, {override /optimizer: adam}]\ntrain: {epochs: 8}\n"
    (tmp_path / "D" / "sweep").mkdir()
    (tmp_path / "D" / "sweep" / "wide.yaml").write_text(sweep)
    (tmp_path / "my plugins" / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "my plugins" / "conf" / "experiment" / "two.yaml").write_text("# @package _global_\nseed: 6\n")
    (tmp_path / "copy").symlink_to(CONF)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "D").symlink_to(tmp_path / "D")  # a folder that looks like a key
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    runs: Runs = []

    def run(config: Config, command: str, *_: object) -> None:
        runs.append((config, command))
        if config.sweep.job is not None or len(_):
            raise RunError("this run ends at once")

    monkeypatch.setattr("resnet_exp.runs.run.run", run)

    def give(*arguments: str) -> Runs:
        runs.clear()
        monkeypatch.setattr(sys, "argv", ["resnet-exp", *arguments])
        with suppress(SystemExit):
            main()
        return list(runs)

    return give


def typed_by_a_shell(command: str) -> list[str]:
    python, flag, module, *arguments = shlex.split(command)
    assert (python, flag, module) == ("python", "-m", "resnet_exp")
    return arguments


@pytest.mark.parametrize(
    "arguments",
    [
        (*T, "seed=5"),
        ("--config-dir", "D", "--config-name", "mine", "seed=5"),
        ("--config-dir", "sweep/D", "--config-name", "mine", "seed=5"),
        ("-cd", "D", "-cn", "mine.yaml", "optimizer.betas=[0.7,0.9]"),
        ("--config-dir=D", "seed=5", "--config-name=mine"),
        ("--config-dir", "D", "experiment=grp/one", *T[1:]),
        ("--config-path", "COPY", *T),
        ("hydra.searchpath=[file://D]", "experiment=grp/one", *T[1:]),
        ("plugins=my plugins", "experiment=two", "data=digits", *T[1:]),
        (*T, "+hydra.job.env_set.SOME=thing"),
        (*T, "name=null", "train.clip_grad_norm=null"),
        ("data=digits", "model=torchvision", "model.name=resnet18", "+model.kwargs={a: 'b c', d: [1,2]}", *T[1:]),
        *(("data=image_folder", f"data.root={root}", *T[1:]) for root in (
            "a b", "/x/数据", "é ( ) # ~ & ; '", "~/photos", "1e5", "007", "2026-11-28", "1_000", "a=b", "$HOME",
            "%PATH%", r"back\slash", '"quo\\"ted"', "'a,b'", "-m", "photos(1)", "a!b`c`",
        )),
        (*T, "output_dir=1_000", "name=1e5"),
        ("--config-dir", "D", "sweep=wide", "hydra.mode=RUN", "data=digits", *T[1:]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_command_of_a_run_composes_its_config(invoke: Callable[..., Runs], arguments: tuple[str, ...]) -> None:
    arguments = tuple(str(Path("copy").absolute()) if text == "COPY" else text for text in arguments)
    ((config, command),) = invoke(*arguments)
    ((again, same),) = invoke(*typed_by_a_shell(command))
    assert config_hash(again) == config_hash(config)
    assert same == command
    assert "SOME" not in " ".join(arguments) or "+hydra.job.env_set.SOME=thing" in command


def config_hash(config: Config) -> str:
    """Of all that a run composes, but for its place in a sweep."""
    return digest_of({key: value for key, value in config.tree.items() if key != "sweep"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config-dir", "D", "--config-name", "mine", "scheduler.peak_epoch=2,3"),
        (*T, "hydra/sweeper=basic", "train.label_smoothing=0,0.1"),
        (*T, "hydra/sweeper=study", "sweep.max_failures=2", "train.label_smoothing=interval(0,0.5)"),
        ("--config-dir", "D", "sweep=wide", "data=digits", *T[1:], "seed=1,2"),
        ("hydra.searchpath=[file://D]", *T[1:], "data=digits", "experiment=grp/one,quickstart"),
        (*T, "output_dir=x/数 据,~/é"),
        (*T, "name='a','b'", "sweep.seeds=[3,4]"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_commands_of_a_sweep_compose_its_jobs_and_itself(
    invoke: Callable[..., Runs], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    runs = invoke("--multirun", *arguments)
    (root,) = (path for path in (tmp_path / "multirun").iterdir() if path.is_dir())
    jobs, facts = Ledger(root).jobs(), json.loads((root / "sweep.json").read_text())
    hashes = [config_hash(invoke(*typed_by_a_shell(job.command))[0][0]) for job in jobs]
    assert len(set(hashes)) == len(jobs) > 1
    for config, command in runs:
        ((alone, _),) = invoke(*typed_by_a_shell(command))
        assert config_hash(alone) == config_hash(config) or not config.is_set("report")
        assert (alone.seed, alone.plugins, alone.train) == (config.seed, config.plugins, config.train)
    for path in root.glob("jobs/*"):
        path.unlink()
    again = invoke(*typed_by_a_shell(facts["command"]))
    assert [config_hash(config) for config, _ in again] == [config_hash(config) for config, _ in runs]


def test_what_only_shows_or_launches_is_no_part_of_a_jobs_command() -> None:
    """A sweep that the user has named stays: it may set keys of the jobs. Ours, which is seen here, do not."""
    of_hydra = HydraArguments(
        flags=("--config-name", "mine"),
        overrides=("hydra/launcher=joblib", "hydra.sweeper.n_trials=3", "hydra.searchpath=[x]"),
    )
    recorded = "python -m resnet_exp --config-name mine 'hydra.searchpath=[x]'"
    assert command_of(["sweep=peak_epoch", "sweep.job=3", "seed=1"], of_hydra) == f"{recorded} seed=1"
    assert command_of(["sweep=own", "seed=1"], of_hydra) == f"{recorded} hydra.mode=RUN sweep=own seed=1"
    for path in (CONF / "sweep").glob("*.yaml"):
        assert {*yaml.safe_load(path.read_text())} <= {"defaults", "hydra", "sweep"}


def test_a_secret_in_the_environment_of_the_jobs_is_struck_out() -> None:
    secrets = ("+hydra.job.env_set.AWS_SECRET_ACCESS_KEY=hush", "+hydra.job.env_set={MY_TOKEN: hush, A: b}")
    of_hydra = HydraArguments(overrides=secrets)
    assert "hush" not in command_of(["seed=1"], of_hydra)
    assert "A: b" in command_of(["seed=1"], of_hydra)
