"""What is checked is what Hydra will compose: the user's own primary config, its folders, nested groups and choices."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_exp.config.command_line import check
from resnet_exp.config.conf import CONF
from resnet_exp.interfaces import ConfigError

FILES = {
    "mine.yaml": "defaults: [config, {override optimizer: adam}, _self_]\n",
    "whole.yaml": "defaults: [config, _self_]\nhydra: {searchpath: [file://more]}\n",
    "bare.yaml": "defaults: [{model: resnet18}]\n",
    "moves.yaml": "defaults: [config, _self_]\nhydra: {job: {chdir: true}}\n",
    "broken.yaml": "a: [\n",
    "experiment/grp/one.yaml": "# @package _global_\ndefaults: [{override /optimizer: rmsprop}]\n",
    "experiment/数.yaml": "# @package _global_\nseed: 3\n",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with configs in D, an experiment in `more`, and one of a plug-in folder."""
    files = {f"D/{name}": text for name, text in FILES.items()}
    files |= {
        f"{name}.yaml": "# @package _global_\nseed: 4\n" for name in ("more/experiment/far", "own/conf/experiment/two")
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config-dir", "D", "--config-name", "mine", "optimizer.betas=[0.7,0.9]"),
        ("-cd", "D", "-cn", "mine", "optimizer=sgd", "optimizer.momentum=0.8"),
        ("--config-dir=D", "--config-name=mine", "-m", "optimizer.eps=1e-8,1e-7"),
        ("--config-dir", "D", "experiment=grp/one", "optimizer.alpha=0.9"),
        ("--config-dir", "D", "+experiment/grp@_global_=one", "seed=1"),
        ("--config-dir", "D", "-m", "experiment=grp/one,quickstart"),
        ("--config-dir", "D", "--config-name", "whole", "plugins=own", "experiment=two"),
        ("--config-dir", "D", "--config-name", "whole", "experiment=far"),
        ("--config-path", str(CONF), "optimizer.momentum=0.8"),
        ("hydra.searchpath=[file://D]", "experiment=grp/one", "optimizer.alpha=0.9"),
        ("-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=1", "seed=1,2"),
        ("optimizer=adam", "optimizer.betas[0]=0.8"),
        ("--config-dir", "D", "--cfg", "job", "experiment=grp/one"),
    ],
    ids=" ".join,
)
def test_what_hydra_composes_is_not_refused(arguments: tuple[str, ...]) -> None:
    assert check(arguments) == list(arguments)


def test_a_choice_outside_ascii_is_read(folder: Path) -> None:
    assert check(["--config-dir", "D", "experiment=数"])[2:] == ['experiment="数"']


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--config-name", "mine", "optimizer.beta=1"), "optimizer.beta is no key; did you mean optimizer.betas?"),
        (("--config-name", "mine", "optimizer.momentum=1"), "optimizer.momentum is no key"),
        (("--config-name", "mine", "-m", "optimizer=sgd,adam", "optimizer.nesterov=true"), "with optimizer=adam"),
        (("experiment=grp/oen",), "experiment=grp/oen is no option of experiment; did you mean grp/one?"),
        (("experiment=gpr/one",), "experiment=gpr/one is no option of experiment; "),
        (("--config-name", "min"), "--config-name min: there is no min.yaml in "),
        (("--config-name", "min"), "; did you mean mine?"),
        (("--config-name", "broken"), "broken.yaml cannot be read"),
        (("--config-name", "bare", "optimizer=adam"), "optimizer=adam: bare.yaml does not choose among the options"),
        (("--config-name", "bare"), "and begin the defaults of bare.yaml with `- config`"),
        (("--config-name", "moves"), "hydra.job.chdir=true would move the run"),
        (("hydra.swepeer=1",), "hydra.swepeer is no key; did you mean hydra.sweeper?"),
        (("hydra/sweeper=grd",), "hydra/sweeper=grd is no option of hydra/sweeper; did you mean grid?"),
        (("+model=resnet18",), "+model: the group exists already"),
        (("--multirun", "--cfg", "job", "seed=1,2"), "--multirun and --cfg cannot be given together"),
        (("experiment=null",), "experiment=null: for none of them write experiment=[]"),
    ],
    ids=str,
)  # fmt: skip
def test_what_hydra_cannot_compose_is_told_with_the_nearest_name(arguments: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(["--config-dir", "D", *arguments])
    assert told in str(caught.value)


@pytest.mark.parametrize("flag", ["--config-dir", "--config-path"])
def test_a_folder_that_is_not_there_is_told(flag: str) -> None:
    with pytest.raises(ConfigError, match=f"^{flag} nowhere: "):
        check([flag, "nowhere"])


@pytest.mark.parametrize("name", ["config.yaml", "optimizer/sgd.yaml", "experiment/quickstart.yaml"])
def test_a_yaml_of_the_users_that_hydra_passes_over_is_told(name: str, folder: Path) -> None:
    """Hydra looks into our folder first, whatever is named; a copy that says the same hides nothing."""
    (folder / "D" / name).parent.mkdir(exist_ok=True)
    (folder / "D" / name).write_bytes((CONF / name).read_bytes())
    check(["--config-dir", "D", "experiment=quickstart"])
    (folder / "D" / name).write_text("seed: 3\n")
    for flags in (["--config-dir", "D"], ["hydra.searchpath=[file://D]"]):
        with pytest.raises(ConfigError, match=rf"D/{name} would be ignored: Hydra takes .*{name}, of the same name"):
            check([*flags, "experiment=quickstart"])
