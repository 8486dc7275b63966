"""What a sweep is refused for before anything is written, and the one name that a swept key has everywhere."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from resnet_exp.config.conf import CONF
from resnet_exp.config.overrides import parsed, values_of
from resnet_exp.interfaces import ConfigError
from resnet_exp.sweeps.callback import SweepCallback
from resnet_exp.sweeps.check import check_launcher_settings, check_sweep, check_values, find_sweeper
from resnet_exp.sweeps.grid import GridSweeper
from resnet_exp.sweeps.ledger import Ledger
from resnet_exp.sweeps.objective import direction_of
from resnet_exp.sweeps.planner import Planner
from resnet_exp.sweeps.proposals import distributions, ends
from resnet_exp.sweeps.sweeper import PlanningSweeper
from resnet_exp.sweeps.swept_values import check_swept
from tests.planned import composed_sweep

TINY = (
    "experiment=quickstart", "train.epochs=1", "scheduler.peak_epoch=1", "data.limit_train=60", "model.width=4",
    "scheduler.max_lr=0.05", "report=none", "tracker=none", "device=cpu",
)  # fmt: skip
OPTUNA = ("hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_jobs=1")
BASIC, STUDY = "hydra/sweeper=basic", "hydra/sweeper=study"
SWEPT = "train.batch_size=16,32"

composed = partial(composed_sweep, *TINY)


def planned(*arguments: str) -> list[dict[str, str]]:
    """The points of a sweep's jobs, after all checks; of a study its ends, of a stock sweeper none."""
    with composed(*arguments) as (config, loader):
        sweeper = find_sweeper(config)
        check_sweep(config, sweeper)
        if not issubclass(sweeper, PlanningSweeper):
            check_values(config, sweeper, loader)
            return []
        planner = Planner(config, loader, list(config.hydra.overrides.task))
        points = list(GridSweeper().points(planner.space) if sweeper is GridSweeper else _ends(planner))
        for number, point in enumerate(points):
            planner.plan(number, point)
        return points


def _ends(planner: Planner) -> Iterator[dict[str, str]]:
    drawn = {key: list(map(str, ends(each))) for key, each in distributions(planner.space).items()}
    firsts = {key: values[0] for key, values in drawn.items()}
    yield from ({**firsts, key: value} for key, values in drawn.items() for value in values)


def refusal(*arguments: str) -> str:
    """What a sweep is refused with."""
    with pytest.raises(ConfigError) as caught:
        planned(*arguments)
    said = str(caught.value)
    assert "\n" not in said
    return said


# What jobs are ranked by


@pytest.mark.parametrize(
    ("value", "direction"),
    [("maximize", "maximize"), ("[maximize]", "maximize"), ("minimize", "minimize"), ("[minimize]", "minimize")],
)
def test_a_direction_is_the_same_in_every_form(value: str, direction: str) -> None:
    for sweeper in ("optuna", "study"):
        with composed(f"hydra/sweeper={sweeper}", f"hydra.sweeper.direction={value}") as (config, _):
            assert direction_of(config) == direction
    assert direction_of(OmegaConf.create({"hydra": {"sweeper": {}}})) == "maximize", "the basic sweeper has none"


def test_the_default_of_the_stock_sweeper_is_an_enum() -> None:
    with composed("hydra/sweeper=optuna") as (config, _):
        assert direction_of(config) == "minimize"


@pytest.mark.parametrize("value", ["[maximize,maximize]", "[]", "MAXIMIZE", "null", "1", "[up]"])
def test_what_is_no_direction_is_refused(value: str) -> None:
    said = refusal("hydra/sweeper=optuna", f"hydra.sweeper.direction={value}", SWEPT)
    assert said.startswith("hydra.sweeper.direction=") and "maximize" in said


@pytest.mark.parametrize("value", ["minimize", "[minimize]"])
def test_an_accuracy_is_not_minimized_but_a_range_test_s_lr_may_be(value: str) -> None:
    direction = f"hydra.sweeper.direction={value}"
    assert "would choose the worst" in refusal("hydra/sweeper=optuna", direction, SWEPT)
    planned("hydra/sweeper=optuna", direction, "task=range_test", "scheduler.max_lr=find", SWEPT)


@pytest.mark.parametrize("sweeper", [("hydra/sweeper=grid",), (STUDY,), (BASIC,), OPTUNA])
def test_jobs_without_an_objective_are_refused_by_every_sweeper(sweeper) -> None:
    said = "data.validation=none leaves a sweep nothing to choose by"
    assert said in refusal(*sweeper, "data.validation=holdout,none")


@pytest.mark.parametrize(
    ("swept", "said"),
    [
        (("data.validation=test,holdout",), "objective is the best validation accuracy, theirs the test accuracy"),
        (("task=train,range_test", "scheduler.max_lr=find"), "a maximum LR, theirs the best validation accuracy"),
    ],
)  # fmt: skip
def test_jobs_that_cannot_be_ranked_together_are_refused(swept: tuple[str, ...], said: str) -> None:
    assert said in refusal(*swept)
    assert said in refusal(BASIC, *swept)


def test_an_experiment_that_cannot_be_ranked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    head = "# @package _global_\ndefaults:\n  - override /data: digits\n"
    for name, validation in {"held": "holdout", "tested": "test", "blind": "none"}.items():
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"{head}data:\n  validation: {validation}\n")
    search = f"hydra.searchpath=[{tmp_path}]"
    assert "cannot be ranked with the other jobs" in refusal(search, "experiment=held,tested")
    assert "nothing to choose by" in refusal(search, "experiment=held,blind")
    assert "nothing to choose by" in refusal(search, BASIC, "experiment=held,blind")


def test_other_images_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    planned("data.limit_train=60,80")
    assert not capsys.readouterr().err, "fewer images measure the same"
    planned("data=digits,cifar10")
    assert "different images (digits; cifar10 data)" in capsys.readouterr().err


# Seeds


@pytest.mark.parametrize(("sweeper", "seed"), [((STUDY,), "seed=1,2"), ((BASIC,), "++seed=1,2")])
def test_a_swept_seed_beside_the_seeds_of_the_sweep_is_refused(sweeper, seed: str) -> None:
    assert f"{seed} would be ignored: with sweep.seeds=[0]" in refusal(*sweeper, seed, "sweep.seeds=[0]")


@pytest.mark.parametrize("given", [("seed=5", SWEPT), ("hydra.sweeper.params={seed:5,train.batch_size:'16,32'}",)])
def test_a_seed_that_would_be_ignored_is_refused(given) -> None:
    assert "seed=5 would be ignored" in refusal(*given, "sweep.seeds=[0,1]")


def test_a_seed_that_has_an_effect_is_taken() -> None:
    assert len(planned(STUDY, "seed=5", SWEPT, "sweep.seeds=[0,1]")) == 2, "a study draws its proposals with it"
    assert planned("seed=1,2") == [{"seed": "1"}, {"seed": "2"}]


# Values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("range(3,1)", "there are no values in it"),
        ("range(1,3,0)", "a step other than 0"),
        ("range(0,0.5,0)", "a step other than 0"),
        ("range(0,inf)", "finite numbers"),
        ("glob(*)", "no option of train.label_smoothing matches"),
        ("tag(log,range(1,3))", "the tag log would be ignored"),
        ("tag(mine,choice(0,0.1))", "the tag mine would be ignored"),
        ("choice()", "empty choice"),
        ("0,choice(1,2)", "stand for a key's whole value"),
        ("0,range(1,3)", "stand for a key's whole value"),
        ("[choice(0,0.1),1]", "stand for a key's whole value"),
        ("{a: interval(0,1)}", "stand for a key's whole value"),
    ],
)  # fmt: skip
def test_values_that_are_none_are_refused_with_their_key(values: str, said: str) -> None:
    with initialize_config_dir(str(CONF)), pytest.raises(ConfigError) as caught:
        check_swept(parsed(f"train.label_smoothing={values}", GlobalHydra.instance().config_loader()))
    assert str(caught.value).startswith(f"train.label_smoothing={values}: ") and said in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("interval(2,1)", "from a number up to a larger one, not from 2 to 1"),
        ("interval(0,0)", "not from 0 to 0"),
        ("int(interval(0.2,0.9))", "not from 0 to 0"),
        ("tag(log,interval(0,1))", "starts above 0, not at 0"),
        ("tag(log,interval(-1,1))", "starts above 0, not at -1"),
        ("tag(log,int(interval(0,9)))", "starts above 0, not at 0"),
        ("tag(mine,interval(0,1))", "the tag mine would be ignored"),
        ("interval(0,inf)", "finite numbers"),
        ("interval(nan,1)", "finite numbers"),
    ],
)
def test_an_interval_that_cannot_be_drawn_from_is_refused(values: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_swept(parsed(f"train.label_smoothing={values}"))


@pytest.mark.parametrize("sweeper", [("hydra/sweeper=grid",), (STUDY,), (BASIC,), OPTUNA])
def test_every_sweeper_checks_its_values(sweeper) -> None:
    assert "there are no values in it" in refusal(*sweeper, "train.batch_size=range(3,1)")


def test_a_study_chooses_among_the_options_that_a_glob_stands_for() -> None:
    points = planned(STUDY, "optimizer=glob(*,exclude=adam*)")
    assert [point["optimizer"] for point in points] == ["rmsprop", "sgd"]


@pytest.mark.parametrize(
    "values", ["sort(32,16)", "sort(range(16,18),reverse=true)", "shuffle(16,32)", "int('16','32')", "choice(16,32)",
               "16,16", "range(32,8,-8)", "range(18,16,-1)"],
)  # fmt: skip
def test_hydras_functions_give_a_study_the_values_that_they_give_a_grid(values: str) -> None:
    override = parsed(f"train.batch_size={values}")
    check_swept(override)
    listed = {int(value) for value in values_of(override) or ()}
    found = distributions({"train.batch_size": override})["train.batch_size"]
    assert {min(listed), max(listed)} == {min(map(int, ends(found))), max(map(int, ends(found)))}


# Settings of Hydra's, and of the whole sweep


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sweep=peak_epoch,default", SWEPT), "sweep=peak_epoch,default: it is set once for the whole sweep"),
        (("sweep.seeds=[0],[1]", SWEPT), "sweep.seeds=[0],[1]: it is set once"),
        (("hydra.sweeper.params={sweep.seeds:[0],seed:'1,2'}",), "sweep.seeds=[0] in hydra.sweeper.params: it is set"),
        (("hydra.sweep.subdir=x", SWEPT), "hydra.sweep.subdir=x would be ignored"),
        (("hydra.job.num=3", SWEPT), "hydra.job.num=3 would be ignored"),
        (("hydra.sweep.dir=/dev/null/x", SWEPT), "hydra.sweep.dir=/dev/null/x: /dev/null is no folder"),
        (("hydra.sweep.dir=${nowhere}", SWEPT), "hydra.sweep.dir: a folder is needed"),
        (("+hydra.sweeper.n_trials=3", SWEPT), "hydra/sweeper=grid got an unexpected keyword argument 'n_trials'"),
        ((STUDY, "~hydra.sweeper.sampler", SWEPT), "hydra/sweeper=study missing a required argument: 'sampler'"),
        (("hydra.sweeper.params=[seed]", SWEPT), "hydra.sweeper.params=['seed']: values by key are needed"),
        ((*OPTUNA, "hydra.sweeper.storage=sqlite:////dev/null/x.db", SWEPT), "x.db: Optuna cannot open it"),
        (("seed=range(0,1000000000)",), "seed=range(0,1000000000): a grid takes 10,000 jobs at most"),
        (("seed=range(0,1" + 400 * "0" + ")",), "finite numbers are needed"),
        (("hydra.sweeper=null", SWEPT), "hydra.sweeper=None: choose one with hydra/sweeper=..."),
        (("seed=range(0,1000)", "train.batch_size=range(2,100)"), "seed train.batch_size: 98,000 jobs are too many"),
        ((BASIC, "hydra.sweeper.max_batch_size=0", SWEPT), "hydra.sweeper.max_batch_size=0: a whole number"),
        ((BASIC, "~scheduler.min_lr", SWEPT), "~scheduler.min_lr: hydra/sweeper=basic takes nothing out"),
        ((BASIC, "train.label_smoothing=interval(0,1)"), "hydra/sweeper=basic lists no interval"),
        ((*OPTUNA, "hydra.sweeper.n_trials=0", SWEPT), "hydra.sweeper.n_trials=0: a whole number of at least 1"),
        ((*OPTUNA[:2], "hydra.sweeper.n_jobs=0", SWEPT), "hydra.sweeper.n_jobs=0: a whole number of at least 1"),
        ((*OPTUNA, "hydra.sweeper.max_failure_rate=2", SWEPT), "max_failure_rate=2.0: a number from 0 to 1"),
        ((*OPTUNA, "hydra/sweeper/sampler=motpe", SWEPT), "hydra.sweeper.sampler: "),
        ((*OPTUNA, "hydra/sweeper/sampler=grid", "train.label_smoothing=interval(0,1)"), "values that can be listed"),
        ((*OPTUNA, "optimizer=glob(*)"), "optimizer=glob(*): hydra/sweeper=optuna knows no glob"),
    ],
)  # fmt: skip
def test_what_would_break_or_be_ignored_is_refused(arguments, said: str) -> None:
    assert said in refusal(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hydra.launcher._target_=os.system",), "hydra.launcher._target_=os.system: no such launcher is installed"),
        (("+hydra.launcher.n_jobs=2",), "hydra/launcher=basic got an unexpected keyword argument 'n_jobs'"),
    ],
)
def test_a_launcher_that_cannot_be_made_is_refused(arguments, said: str) -> None:
    with composed(*arguments) as (config, _), pytest.raises(ConfigError, match=re.escape(said)):
        check_launcher_settings(config)


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "submitit_slurm", "ray"])
def test_our_launchers_take_their_settings(launcher: str) -> None:
    pytest.importorskip(
        f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher" if launcher != "basic" else "hydra"
    )
    with composed(f"hydra/launcher={launcher}") as (config, _):
        check_launcher_settings(config)


def test_hydras_own_settings_are_not_swept_over() -> None:
    for text in ("hydra/launcher=basic,joblib", "hydra.sweeper.n_trials=range(1,3)"):
        with pytest.raises(ConfigError, match="hold for the whole sweep and cannot be swept over"):
            parsed(text)


def test_a_launcher_inside_a_swept_experiment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /data: digits\n  - override /hydra/launcher: joblib\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    said = refusal(f"hydra.searchpath=[{tmp_path}]", "experiment=quickstart,mine")
    assert "experiment=mine: 'hydra/launcher' must be selected before the sweep starts" in said


# One name for a swept key


@pytest.mark.parametrize("prefix", ["", "++"])
def test_a_swept_key_has_one_name_whatever_its_prefix(prefix: str) -> None:
    points = planned(f"{prefix}train.label_smoothing=0,0.1", f"{prefix}seed=1")
    assert points == [{"train.label_smoothing": "0"}, {"train.label_smoothing": "0.1"}]


@pytest.mark.parametrize("key", ["model.kwargs.aux_logits", "model.kwargs"])
def test_a_key_that_is_added_has_its_name_without_the_plus(key: str) -> None:
    values = "{a: 1},{a: 2}" if key == "model.kwargs" else "1,2"
    with composed("~model.width", "model=torchvision") as (config, loader):
        assert list(Planner(config, loader, [f"+{key}={values}"]).space) == [key]


@pytest.mark.parametrize("prefix", ["", "++"])
def test_of_a_key_that_is_given_twice_the_last_counts(prefix: str) -> None:
    first, last = "train.label_smoothing=0,0.1", f"{prefix}train.label_smoothing="
    assert "nothing is swept over" in refusal(first, f"{last}0.2")
    assert planned(first, f"{last}0.2,0.3") == [{"train.label_smoothing": "0.2"}, {"train.label_smoothing": "0.3"}]
    assert len(planned("train.label_smoothing=0.2", f"{last}0,0.1")) == 2


@pytest.mark.parametrize("sweeper", [(BASIC,), OPTUNA])
def test_stock_sweepers_that_would_run_other_values_than_they_say_are_refused(sweeper) -> None:
    key = "train.label_smoothing"
    said = refusal(*sweeper, f"{key}=0,0.1", f"++{key}=0.2,0.3")
    assert said.startswith(f"{key}=0,0.1 and ++{key}=0.2,0.3: this sweeper would not take both")
    planned(*sweeper, f"{key}=0,0.1", f"{key}=0.2,0.3")
    if sweeper is OPTUNA:  # Optuna's lets fixed values count
        assert "would not take both" in refusal(*sweeper, f"{key}=0.2", f"{key}=0,0.1")
    else:
        planned(*sweeper, f"{key}=0.2", f"{key}=0,0.1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "sweeper",
    [("hydra/sweeper=grid",), (STUDY, "hydra.sweeper.n_trials=3"), (BASIC,),
     (*OPTUNA, "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.seed=0")],
)  # fmt: skip
def test_a_forced_key_has_its_name_in_all_that_a_sweep_writes(sweeper, tmp_path: Path) -> None:
    key = "train.label_smoothing"
    arguments = [*TINY, "data.limit_train=300", "--multirun", *sweeper, f"++{key}=0,0.1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "resnet_exp", *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    (root,) = (path for path in (tmp_path / "multirun").iterdir() if path.is_dir())
    jobs = Ledger(root).jobs()
    assert {job.label for job in jobs} == {"label_smoothing=0", "label_smoothing=0.1"}
    assert all(list(job.point) == [key] and f"++{key}={job.point[key]}" in job.command for job in jobs)
    assert json.loads((root / "sweep.json").read_text())["space"] == {key: "0,0.1"}
    journal = (root / "journal.jsonl").read_text()
    assert f'"sweep.{key}"' in journal and f'"{key}"' not in journal, "what is swept over is no fixed parameter"
    header, *_ = csv.reader((root / "report" / "runs.csv").open(newline=""))
    assert key in header and not any("+" in column for column in header)
    assert (root / "report" / f"over_{key}.svg").exists()
    best = yaml.safe_load((root / "best.yaml").read_text())
    assert f"label_smoothing={best['train']['label_smoothing']:g}" in done.stdout.partition("jobs finished")[2]


def test_a_job_leaves_no_config_in_the_memory_of_its_sweep() -> None:
    from hydra.core.utils import JobReturn

    returned = JobReturn(cfg=OmegaConf.create({"seed": 0}), hydra_cfg=OmegaConf.create({"hydra": {}}))
    returned.return_value = 0.5
    SweepCallback().on_job_end(OmegaConf.create({}), job_return=returned)
    assert (returned.cfg, returned.hydra_cfg, returned._return_value) == (None, None, 0.5)
