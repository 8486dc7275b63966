"""Public bug reports about the values of sweeps and what sweeps are ranked by: what holds here instead."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from resnet_exp.config.command_line import check
from resnet_exp.config.overrides import parsed, sweep_overrides, with_point
from resnet_exp.interfaces import ConfigError
from resnet_exp.sweeps.check import check_sweep, check_values, find_sweeper
from resnet_exp.sweeps.objective import direction_of
from resnet_exp.sweeps.planner import Planner
from tests.planned import composed_sweep

TINY = ("experiment=quickstart", "scheduler.max_lr=0.05", "report=none", "tracker=none", "device=cpu")

sweep = partial(composed_sweep, *TINY)


def checked(*arguments: str) -> Planner:
    """The planner of a sweep that has been checked."""
    with sweep(*arguments) as (config, loader):
        sweeper = find_sweeper(config)
        check_sweep(config, sweeper)
        if sweeper.__name__ == "OptunaSweeper":
            check_values(config, sweeper, loader)
        return Planner(config, loader, list(config.hydra.overrides.task))


def test_a_direction_that_is_set_is_the_one_that_ranks() -> None:
    """hydra-ecosystem/hydra#2047: the sweep minimized although the config asked for the maximum."""
    with sweep("hydra/sweeper=optuna", "hydra.sweeper.direction=[maximize]") as (config, _):
        assert direction_of(config) == "maximize"
    with pytest.raises(ConfigError, match="minimize would choose the worst"):
        checked("hydra/sweeper=optuna", "seed=1,2")  # its default


def test_several_directions_for_one_objective_are_refused() -> None:
    """timeseriesAI/tsai#920: a list of directions was not taken for the several objectives that were meant."""
    with pytest.raises(ConfigError, match="a run has one objective, so one direction is needed"):
        checked("hydra/sweeper=optuna", "hydra.sweeper.direction=[maximize,minimize]", "seed=1,2")


def test_mappings_of_one_key_are_not_dropped() -> None:
    """hydra-ecosystem/hydra#3106: of `+a={x:1},{x:2} +a={y:10},{y:20}` only the last pair was run, half the jobs."""
    with pytest.raises(ConfigError, match=r"set the same key, and mappings add up"):
        sweep_overrides({}, ["+a={x:1},{x:2}", "+a={y:10},{y:20}"])
    overrides = sweep_overrides({}, ["+a={x:1}", "+a={y:10},{y:20}"])
    assert with_point(overrides, {"a": "{y:20}"}) == ["+a={x:1}", "+a={y:20}"]
    assert sweep_overrides({}, ["+a={x:1}", "+a={y:10}", "b=1,2"])[:2] == ["+a={x:1}", "+a={y:10}"]


def test_a_key_that_is_forced_can_be_swept_over() -> None:
    """hydra-ecosystem/hydra#1052: parameters that only some choices have; `++key=` sets them for every job."""
    planner = checked("++train.label_smoothing=0,0.1", "++seed=3")
    assert list(planner.space) == ["train.label_smoothing"]
    assert planner.plan(0, {"train.label_smoothing": "0.1"}).config.train.label_smoothing == 0.1


def test_a_launcher_that_an_experiment_chooses_too_late_is_refused(tmp_path: Path) -> None:
    """hydra-ecosystem/hydra#2946 and #3231: the sweep ran with another launcher than the swept experiment named."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: digits\n  - override /hydra/launcher: joblib\n"
    )
    planner = checked(f"hydra.searchpath=[{tmp_path}]", "experiment=quickstart,mine")
    with pytest.raises(ConfigError, match="'hydra/launcher' must be selected before the sweep starts"):
        planner.plan(1, {"experiment": "mine"})


def test_sweeps_are_not_swept_over() -> None:
    """hydra-ecosystem/hydra#2807: of each of several sweeps only one point was run."""
    with pytest.raises(ConfigError, match="sweep=peak_epoch,default: it is set once for the whole sweep"):
        checked("sweep=peak_epoch,default", "seed=1,2")


def test_settings_of_hydra_are_not_swept_over() -> None:
    """hydra-ecosystem/hydra#2381: values that change Hydra's own config have undefined effects in a sweep."""
    with pytest.raises(ConfigError, match="hold for the whole sweep and cannot be swept over"):
        parsed("hydra/launcher=basic,joblib")


def test_no_option_of_a_group_is_not_written_null() -> None:
    """ashleve/lightning-hydra-template#629: a group cannot be set to null, none or an empty text."""
    with pytest.raises(ConfigError, match=r"experiment=null: for none of them write experiment=\[\]"):
        check(["experiment=null,quickstart"])
    with pytest.raises(ConfigError, match="optimizer=null: an option is needed; known are adam"):
        check(["optimizer=null"])
    check(["--multirun", "experiment=[],quickstart", "data=digits", "tracker=none"])


def test_options_in_quotes_are_the_options() -> None:
    """Valentyn1997/CausalTransformer#3: options that look like numbers have to be quoted, in a sweep each of them."""
    check(["--multirun", "optimizer='sgd','adam'", "tracker=none"])
    planner = checked("optimizer='sgd','adam'")
    assert planner.plan(0, {"optimizer": "'sgd'"}).config.short_names["optimizer"] == "sgd"


def test_a_study_without_trials_is_refused() -> None:
    """optuna/optuna#2867: a study in which no trial completed ends with a ValueError instead of a reason."""
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.n_trials=0: a whole number of at least 1 is needed"):
        checked("hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=0", "seed=1,2")


def test_a_folder_of_each_job_is_not_promised() -> None:
    """hydra-ecosystem/hydra#1344: what `hydra.sweep.subdir` meant for the jobs depended on the launcher."""
    with pytest.raises(ConfigError, match=r"hydra\.sweep\.subdir=x would be ignored in a sweep"):
        checked("hydra.sweep.subdir=x", "seed=1,2")
