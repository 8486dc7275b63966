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


OURS = ("--config-dir", "D", "experiment=bad")
HANDLER = "hydra: {job_logging: {handlers: {stderr: %s}}}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("plugins: own", "plugins=own: a yaml names this folder, and its code is run only where the command line"),
        ("plugins: [own, D]", "if you trust what is in it, add 'plugins=[own,D]'"),
        ("defaults: [{override /model: own}]\nplugins: own", "'model/own'; if it is your own, plugins=DIR "),
        ("hydra: {overrides: {task: [plugins=own]}}", "a yaml says that plugins=own was typed, and it was not"),
        ("hydra: {callbacks: {x: {_target_: logging.NullHandler}}}", "hydra.callbacks="),
        (HANDLER % "{class: logging.FileHandler, filename: x, mode: w}", "handlers.stderr.class=logging.FileHandler: "),
        (HANDLER % "{stream: ext://os.environ}", "handlers.stderr.stream=ext://os.environ: ext://sys.stdout or "),
        (HANDLER % "{level: LOUD}", "handlers.stderr.level=LOUD: DEBUG, INFO"),
        (HANDLER % "{formatter: long}", "handlers.stderr.formatter=long: there is no such formatter"),
        ("hydra: {job_logging: {root: {handlers: [x]}}}", "hydra.job_logging.root.handlers=['x']: one of them is not"),
        ("hydra: {job_logging: {formatters: {short: {style: '{'}}}}", "style % or $ is needed"),
        ("hydra: {hydra_logging: {filters: {x: {'()': os.system}}}}", "hydra.hydra_logging.filters.x: it is not"),
        ("hydra: {job: {env_set: {PATH: x}}}", "hydra.job.env_set.PATH: a yaml sets it"),
        ("hydra: {job: {env_copy: [HOME]}}", "hydra.job.env_copy=['HOME']: a yaml says it"),
        ("hydra: {job: {env_copy: [NO_SUCH_VARIABLE]}}", "NO_SUCH_VARIABLE"),
        ("defaults: [{override /hydra/launcher: submitit_local}]\nhydra: {launcher: {setup: [ls]}}",
         "hydra.launcher.setup=['ls']: a yaml says it, and a launcher acts on it"),
        ('defaults: [{override /hydra/launcher: submitit_slurm}]\nhydra: {launcher: {partition: "a\\nls"}}',
         "hydra.launcher.partition=a\nls: a yaml says it"),
        ("name: '${oc.env:HOME}'", "name=${oc.env:HOME}: a yaml reads more than other keys"),
        ("name: '${${task}.env:HOME}'", "a yaml reads more than other keys"),
    ],
    ids=lambda text: text[:70],
)  # fmt: skip
def test_a_yaml_sets_values_and_does_nothing_else(text: str, told: str, folder: Path) -> None:
    (folder / "D" / "experiment" / "bad.yaml").write_text(f"# @package _global_\n{text}\n")
    for more in ((), ("--help",)):
        with pytest.raises(ConfigError) as caught:
            check([*OURS, *more])
        assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("plugins: own", ("plugins=own",)),
        ("plugins: D", ("++plugins=[own]",)),
        ("hydra: {job: {env_set: {A: x}}}", ("++hydra.job.env_set.A=y",)),
        ("hydra: {job: {env_set: {A: x}}}", ("hydra.job.env_set={A: y}",)),
        ("defaults: [{override /hydra/launcher: submitit_local}]\nhydra: {launcher: {setup: [ls]}}",
         ("hydra.launcher.setup=[ls]",)),
        ("defaults: [{override /hydra/launcher: submitit_slurm}]\nhydra: {launcher: {partition: gpu, mem_gb: 9}}", ()),
        ("name: '${oc.env:HOME}'", ("name='${oc.env:HOME}'",)),
        ("name: '${task}-${now:%Y}'", ()),
        ("hydra: {job_logging: {root: {level: DEBUG}, formatters: {short: {format: '%(message)s'}}}}", ()),
        ("defaults: [{override /hydra/job_logging: none}]", ()),
        ("defaults: [{override /hydra/job_logging: stdout}]", ()),
    ],
    ids=lambda text: str(text)[:70],
)  # fmt: skip
def test_what_the_command_line_says_too_or_does_no_harm_is_not_refused(
    text: str, typed: tuple[str, ...], folder: Path
) -> None:
    (folder / "D" / "experiment" / "bad.yaml").write_text(f"# @package _global_\n{text}\n")
    check([*OURS, *typed])


def test_a_yaml_of_the_users_plugins_may_read_the_environment(folder: Path) -> None:
    text = "_target_: mine.Notes\ntoken: ${oc.env:MY_TOKEN}\n"
    for where in ("own/conf/tracker", "D/tracker"):
        (folder / where).mkdir(parents=True)
    (folder / "own" / "conf" / "tracker" / "notes.yaml").write_text(text)
    check(["plugins=own", "tracker=notes"])
    (folder / "D" / "tracker" / "others.yaml").write_text(text.replace("MY", "YOUR"))
    with pytest.raises(ConfigError, match=r"tracker\.token="):
        check(["--config-dir", "D", "plugins=own", "tracker=others"])


def test_a_key_is_no_other_ones_name(folder: Path) -> None:
    (folder / "D" / "mine.yaml").write_text(
        "defaults: [config, _self_]\nhydra: {aliases: {data.image_size: plugins}}\n"
    )
    with pytest.raises(ConfigError, match="a key that you type would set another one"):
        check(["--config-dir", "D", "--config-name", "mine", "data=digits", "data.image_size=16"])
