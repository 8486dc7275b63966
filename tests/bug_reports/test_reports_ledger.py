"""Reports from other projects about sweeps that go on, their names and their paths: what each means here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from resnet_exp.config.conf import CONF
from resnet_exp.interfaces import ConfigError
from resnet_exp.run_dir.directory import open_run_directory
from resnet_exp.sweeps.ledger import Job, Ledger
from tests.planned import grid, keys, order_of_two, study, with_runs


def test_a_sweep_that_goes_on_does_not_count_its_jobs_anew() -> None:
    """hydra-ecosystem/hydra#3328: numbering starts at 0 again, so a job takes another one's directory.

    Here a job is what it composes; where the command has it does not matter.
    """
    first, then = keys("optimizer=sgd,adam", "seed=1,2"), keys("seed=2,3,1", "optimizer=adam,sgd")
    assert set(first) < set(then) and first != then[:4]


def test_a_value_that_is_given_several_times_is_several_jobs() -> None:
    """hydra-ecosystem/hydra#1969: the same value several times over, to repeat a run, is lost as one."""
    planned = grid("seed=1,1,1")
    assert [one.job.repeat for one in planned] == [1, 2, 3]


def test_a_study_counts_a_point_that_it_is_proposed_again(tmp_path: Path) -> None:
    """optuna/optuna#2021: samplers propose the same point many times; each is a trial of its own."""
    space = ("optimizer=choice(sgd,adam)", "scheduler.peak_epoch=choice(1,2)")
    trials, ran = study(tmp_path, *space, n_trials=5)
    assert len(trials) == len(ran) == len({one.key for one in trials}) == 5
    assert len({tuple(one.values.items()) for one in trials}) < 5
    assert study(tmp_path, *space, n_trials=5) == (trials, [])


def test_choices_in_another_order_are_the_same_study(tmp_path: Path) -> None:
    """optuna/optuna#2328: choices that differ from the study's are an error; here only where they do differ."""
    epoch = "scheduler.peak_epoch=choice(1,2)"
    before, _ = study(tmp_path / "one", "optimizer=choice(sgd,adam)", epoch, n_trials=3)
    again = study(tmp_path / "one", "optimizer=shuffle(adam,sgd)", epoch, n_trials=3)
    other, _ = study(tmp_path / "other", "optimizer=choice(adam,sgd)", epoch, n_trials=3)
    assert again == (before, [])
    assert [one.values for one in other] == [one.values for one in before]
    with pytest.raises(ConfigError, match="started with another search space"):
        study(tmp_path / "one", "optimizer=choice(sgd,adam,adamw)", epoch, n_trials=3)


def test_a_sweep_that_was_moved_finds_its_runs(tmp_path: Path) -> None:
    """ray-project/ray#28082: absolute paths are recorded, so an experiment that was moved cannot go on."""
    ledger = Ledger(tmp_path / "here" / "multirun" / "sweep")
    ledger.plan([ledger.write(with_runs(Job(0, {"seed": "1"}, "command"), tmp_path / "here", 0.5))])
    shutil.move(tmp_path / "here", tmp_path / "there")
    (one,) = Ledger(tmp_path / "there" / "multirun" / "sweep").jobs()
    assert one.status == "finished" and one.runs[0].root == str(tmp_path / "there" / "outputs" / "0-0")
    assert str(tmp_path) not in "".join(path.read_text() for path in tmp_path.rglob("jobs/*.json"))


def test_a_result_that_is_gone_is_made_again(tmp_path: Path) -> None:
    """ray-project/ray#40484: an experiment whose result files are missing fails with FileNotFoundError."""
    ledger = Ledger(tmp_path / "sweep")
    ledger.plan([ledger.write(with_runs(Job(n, {"seed": str(n)}, "command"), tmp_path, 0.5)) for n in range(2)])
    shutil.rmtree(ledger.jobs()[1].runs[0].root)
    assert [one.status for one in ledger.jobs()] == ["finished", "planned"]


def test_a_setting_that_was_edited_is_not_answered_from_before(tmp_path: Path) -> None:
    """resgroup/wind-up#52: a cached result is used although the configuration has changed."""
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    before, adam = keys("optimizer=sgd,adam", conf=conf), conf / "optimizer" / "adam.yaml"
    text = adam.read_text()
    assert "weight_decay: " in text
    adam.write_text(text.replace("weight_decay: ", "weight_decay: 1"))
    after = keys("optimizer=sgd,adam", conf=conf)
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)
    adam.write_text(text)
    assert keys("optimizer=sgd,adam", conf=conf) == before


def test_runs_that_two_start_at_once_do_not_overwrite_each_other(tmp_path: Path) -> None:
    """VMarsocci/pangaea-bench#104: runs that start at the same time share a directory and overwrite its files."""
    which = (str(tmp_path), "x", "1", False, "code")
    order = order_of_two(open_run_directory(*which), lambda on_wait: open_run_directory(*which, on_wait))
    assert order == ["first", "second"]


def test_names_of_jobs_say_how_they_differ(tmp_path: Path) -> None:
    """benchflow-ai/benchflow#720: names made of swept values can be equal, and one job takes another's place."""
    points = [{"model": name, "lr": lr} for name in ("foo/bar", "foo_bar") for lr in ("0.123456789", "0.123456788")]
    ledger = Ledger(tmp_path)
    ledger.plan([Job(n, point, "command") for n, point in enumerate(points)])
    assert len({one.label for one in ledger.jobs()}) == len({one.key for one in ledger.jobs()}) == 4
