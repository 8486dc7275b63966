"""Which jobs a sweep runs: those of its command that it has not run yet, whatever their order and names were before."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from resnet_exp.config.conf import CONF
from resnet_exp.interfaces import ConfigError
from resnet_exp.run_dir.directory import open_run_directory
from resnet_exp.run_dir.journal import Journal, last_status
from resnet_exp.run_dir.lock import try_lock
from resnet_exp.sweeps.ledger import PROCESS_VARIABLE, SWEEP_VARIABLE, Job, Ledger
from tests.planned import BASE, grid, keys, picture_folder, planner, study

# What a job is


def test_the_order_of_keys_and_values_makes_no_other_jobs() -> None:
    swapped = keys("train.label_smoothing=0,0.1", "optimizer=sgd,adam")
    assert sorted(keys("optimizer=sgd,adam", "train.label_smoothing=0,0.1")) == sorted(swapped)
    assert keys("optimizer=adam,sgd") == keys("optimizer=sgd,adam")[::-1]


def test_a_shuffled_range_has_the_same_jobs_each_time() -> None:
    found = {frozenset(keys("train.label_smoothing=shuffle(range(0,0.5,0.1))")) for _ in range(2)}
    assert len(found) == 1


def test_what_changes_no_result_makes_no_other_jobs() -> None:
    other = ("tracker=csv", "output_dir=elsewhere", "device=cpu", "name=other", "rerun=true", "report=none")
    assert keys("seed=1,2", *other) == keys("seed=1,2")
    assert keys("seed=1,2", "train.batch_size=32") != keys("seed=1,2")


def test_a_point_that_is_given_twice_is_two_jobs() -> None:
    planned = grid("scheduler.peak_epoch=2,1,2")
    assert [one.job.repeat for one in planned] == [1, 1, 2]
    assert len({one.job.key for one in planned}) == 3


def test_the_moving_average_is_swept_as_any_key_is() -> None:
    planned = grid("train.ema=null,0.99,0.999")
    assert [one.job.label for one in planned] == ["ema=null", "ema=0.99", "ema=0.999"]
    assert len({one.job.key for one in planned}) == 3


def test_a_glob_that_gained_an_option_keeps_its_other_jobs(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    before = keys("optimizer=glob(*)", conf=conf)
    shutil.copy(conf / "optimizer" / "sgd.yaml", conf / "optimizer" / "another.yaml")
    after = keys("optimizer=glob(*)", conf=conf)
    assert len(after) == len(before) + 1
    assert set(before) < set(after)


def test_images_that_changed_under_a_swept_root_make_another_job(tmp_path: Path) -> None:
    roots = [picture_folder(tmp_path / name, 16) for name in ("one", "two")]
    swept = ("data=image_folder", f"data.root={roots[0]},{roots[1]}", "data.image_size=16", "data.limit_train=null")
    before = keys(*swept)
    picture_folder(roots[1], 24)
    after = keys(*swept)
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)


def test_a_swept_root_without_images_is_refused_before_anything_runs(tmp_path: Path) -> None:
    root = picture_folder(tmp_path / "one", 16)
    with pytest.raises(ConfigError, match=r"job 1, data.root=.*missing: .*there is no such folder"):
        keys("data=image_folder", f"data.root={root},{tmp_path}/missing", "data.limit_train=null")


def test_a_sweep_that_other_code_has_begun_is_another_sweep(tmp_path: Path) -> None:
    """So a ledger that another version wrote, in a form of its own, is never read."""
    from resnet_exp.sweeps.plan import facts_of, root_of

    with planner("seed=1,2") as plans:
        roots = {root_of(tmp_path, None, facts_of(plans._config, code, "data")) for code in ("one", "one", "two")}
    assert len(roots) == 2


# Studies


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_study_that_was_killed_has_the_trials_of_one_that_was_not(tmp_path: Path, n_jobs: int) -> None:
    whole, _ = study(tmp_path / "whole", n_jobs=n_jobs)
    study(tmp_path / "killed", n_jobs=n_jobs, dies_after=3)
    killed, ran = study(tmp_path / "killed", n_jobs=n_jobs)
    assert [one.values for one in killed] == [one.values for one in whole]
    assert [one.number for one in killed] == list(range(6))
    assert len(ran) == 3


def test_a_shuffled_study_takes_its_own_command_again(tmp_path: Path) -> None:
    shuffled = ("optimizer=shuffle(sgd,adam,adamw)", "scheduler.peak_epoch=shuffle(range(1,4))", "train.epochs=4")
    study(tmp_path, *shuffled, dies_after=3)
    for _ in range(3):
        trials, _ = study(tmp_path, *shuffled)
    assert [one.status for one in trials] == ["finished"] * 6


def test_trials_whose_option_was_edited_are_replaced_and_come_back_with_it(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    before, _ = study(tmp_path, conf=conf)
    sgd = [one for one in before if one.values["optimizer"] == "sgd"]
    others = [one.key for one in before if one.values["optimizer"] != "sgd"]
    assert sgd and others
    text = (conf / "optimizer" / "sgd.yaml").read_text()
    (conf / "optimizer" / "sgd.yaml").write_text(text.replace("momentum: 0.9", "momentum: 0.8"))
    edited, ran = study(tmp_path, conf=conf)
    assert len(edited) == 6 and len(ran) == len(sgd)
    assert {one.key for one in edited} >= {*others}
    assert not {one.key for one in edited} & {one.key for one in sgd}
    (conf / "optimizer" / "sgd.yaml").write_text(text)
    back, ran = study(tmp_path, conf=conf)
    assert {one.key for one in back} >= {one.key for one in before} and not ran


def test_a_trial_whose_result_is_gone_is_run_again_by_itself(tmp_path: Path) -> None:
    before, _ = study(tmp_path, n_jobs=2)
    shutil.rmtree(before[2].runs[0].root)
    after, ran = study(tmp_path, n_jobs=2)
    assert ran == [before[2].label]
    assert [one.values for one in after] == [one.values for one in before]
    assert [one.status for one in after] == ["finished"] * 6


# Whole sweeps, in this process


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Gives a command in a folder of its own."""
    from resnet_exp.__main__ import main

    for variable in (SWEEP_VARIABLE, PROCESS_VARIABLE):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def command(*arguments: str, without: str = "") -> Said:
        GlobalHydra.instance().clear()
        tiny = ("train.epochs=1", "scheduler.peak_epoch=1", "data.limit_train=100", "model.width=2", "report=none")
        changed = {without.partition("=")[0], *(text.partition("=")[0] for text in arguments)}
        given = [text for text in (*BASE, *tiny) if text.partition("=")[0] not in changed]
        monkeypatch.setattr(sys, "argv", ["resnet_exp", "--multirun", *given, *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Said(code, *capfd.readouterr())

    yield command
    GlobalHydra.instance().clear()
    for number, handler in before.items():
        signal.signal(number, handler)


def ledgers(folder: Path) -> list[Ledger]:
    return [Ledger(path) for path in sorted((folder / "multirun").iterdir())]


def runs(folder: Path) -> dict[str, int]:
    """Each run directory and when its network was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("outputs/*/model.safetensors")}


@pytest.mark.slow
def test_keys_that_are_swapped_half_way_run_what_is_left(go: Callable[..., Said], tmp_path: Path, monkeypatch) -> None:
    from resnet_exp.sweeps import job

    left, run_job = [2], job._run_seeds

    def interrupted(*given: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return run_job(*given)

    monkeypatch.setattr(job, "_run_seeds", interrupted)
    assert go("name=x", "optimizer=sgd,adam", "train.label_smoothing=0,0.1").code == 130
    before = runs(tmp_path)
    assert len(before) == 2
    left[0] = 99
    done = go("name=x", "train.label_smoothing=0,0.1", "optimizer=sgd,adam")
    assert done.code == 0 and "4 of 4 jobs finished" in done.out
    after = runs(tmp_path)
    assert len(after) == 4 and before.items() <= after.items()
    assert left[0] == 97
    (ledger,) = ledgers(tmp_path)
    assert [one.label for one in ledger.jobs()] == [
        f"label_smoothing={value} optimizer={name}" for value in ("0", "0.1") for name in ("sgd", "adam")
    ]


@pytest.mark.slow
def test_outputs_that_are_gone_are_made_again_alone(go: Callable[..., Said], tmp_path: Path) -> None:
    swept = ("scheduler.max_lr=0.05,0.06,0.07",)
    assert go(*swept).code == 0
    (ledger,) = ledgers(tmp_path)
    before, (_, gone, _) = runs(tmp_path), ledger.jobs()
    shutil.rmtree(gone.runs[0].root)
    shown = go(*swept, "sweep.dry_run=true")
    assert shown.out.count("done: ") == 2 and shown.out.count("to be run") == 1
    done = go(*swept)
    assert done.code == 0 and "3 of 3 jobs finished" in done.out and "Traceback" not in done.err
    after = runs(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {gone.runs[0].name}


def test_a_moved_project_goes_on_and_writes_nothing_to_the_old_place(
    go: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    monkeypatch.chdir(old)
    assert go("scheduler.max_lr=0.05,0.06").code == 0
    before = runs(old)
    monkeypatch.chdir(tmp_path)
    old.rename(new)
    monkeypatch.chdir(new)
    done = go("scheduler.max_lr=0.05,0.06")
    assert done.code == 0 and "2 of 2 jobs finished" in done.out and "Traceback" not in done.err
    assert runs(new) == before and "epoch  train loss" not in done.out
    assert not old.exists()
    assert str(old) not in done.out + done.err


def test_equal_points_are_two_jobs_and_one_run(go: Callable[..., Said], tmp_path: Path) -> None:
    done = go("scheduler.max_lr=0.05,5e-2")
    assert done.code == 0 and "2 of 2 jobs finished" in done.out
    (ledger,) = ledgers(tmp_path)
    assert [[run.reused for run in one.runs] for one in ledger.jobs()] == [[False], [True]]
    assert len(runs(tmp_path)) == 1
    assert "against" not in done.out, "a run is not compared with itself"


@pytest.mark.slow
def test_a_dry_run_and_the_run_agree_on_what_is_left(go: Callable[..., Said], tmp_path: Path) -> None:
    swept = ("scheduler.max_lr=0.05,0.06", "rerun=true")
    assert go(*swept).code == 0
    assert "everything is done" in go(*swept, "sweep.dry_run=true").out
    assert go(*swept).code == 0
    assert len(runs(tmp_path)) == 2, "the same command goes on with the sweep"
    assert "everything is done" in go(*swept, "sweep.dry_run=true", "output_dir=elsewhere").out
    larger = ("scheduler.max_lr=0.05,0.06,0.07", "rerun=true")
    assert "3 runs are left" in go(*larger, "sweep.dry_run=true").out
    assert go(*larger).code == 0
    assert len(runs(tmp_path)) == 5


def test_stock_sweepers_do_not_take_an_old_result_for_a_new_one(go: Callable[..., Said], tmp_path: Path) -> None:
    roots = [picture_folder(tmp_path / name, 16) for name in ("one", "two")]
    swept = (
        "hydra/sweeper=basic", "data=image_folder", f"data.root={roots[0]},{roots[1]}", "data.image_size=16",
        "data.limit_train=null", "data.validation=test", "train.batch_size=2", "data.workers=1",
        "scheduler.max_lr=0.01", "name=x", "augmentation=none",
    )  # fmt: skip
    assert go(*swept).code == 0
    (ledger,) = ledgers(tmp_path)
    before = ledger.jobs()
    assert [one.status for one in before] == ["finished"] * 2
    picture_folder(roots[1], 24)
    done = go(*swept)
    assert done.code == 0 and "2 of 2 jobs finished" in done.out
    after = ledger.jobs()
    assert (after[0].key == before[0].key, after[1].key == before[1].key) == (True, False)
    assert after[1].runs[0].root != before[1].runs[0].root
    assert len(ledger.every()) == 3
    with (ledger.root / "leaderboard.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2


# Runs that two need at once


def held_run(project: Path) -> tuple[Path, Path, IO[str]]:
    """A run that another process works on, or so it seems; with it a copy of its finished directory, and its lock."""
    (ledger,) = ledgers(project)
    root = Path(ledger.jobs()[0].runs[0].root)
    finished = root.rename(project / "finished")
    shutil.rmtree(project / "multirun")
    root.mkdir()
    lock = try_lock(root / ".lock")
    assert lock is not None
    return root, finished, lock


def when_it_waits(project: Path, act: Callable[[], Any]) -> threading.Thread:
    """Does something once the first job of the sweep is at work, and has had time to come to the lock."""

    def watch() -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            roots = list(project.glob("multirun/*"))
            if roots and any(one.status == "running" for one in Ledger(roots[0]).jobs()):
                break
            time.sleep(0.05)
        time.sleep(0.7)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_job_takes_the_result_of_who_works_on_the_same_run(go: Callable[..., Said], tmp_path: Path) -> None:
    assert go("scheduler.max_lr=0.05,0.06").code == 0
    root, finished, lock = held_run(tmp_path)

    def other_finishes() -> None:
        for path in finished.iterdir():
            path.rename(root / path.name)
        lock.close()

    thread = when_it_waits(tmp_path, other_finishes)
    done = go("scheduler.max_lr=0.05,0.06")
    thread.join()
    assert done.code == 0 and done.out.count("waits for another process") == 1
    (ledger,) = ledgers(tmp_path)
    assert [[run.reused for run in one.runs] for one in ledger.jobs()] == [[True], [True]]


def test_a_job_does_the_run_itself_when_who_works_on_it_dies(go: Callable[..., Said], tmp_path: Path) -> None:
    assert go("scheduler.max_lr=0.05,0.06").code == 0
    root, _, lock = held_run(tmp_path)
    thread = when_it_waits(tmp_path, lock.close)
    done = go("scheduler.max_lr=0.05,0.06")
    thread.join()
    assert done.code == 0 and done.out.count("waits for another process") == 1
    (ledger,) = ledgers(tmp_path)
    assert [[run.reused for run in one.runs] for one in ledger.jobs()] == [[False], [True]]
    assert (root / "result.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_job_that_waits_is_interrupted_at_once(go: Callable[..., Said], tmp_path: Path, number: int) -> None:
    assert go("scheduler.max_lr=0.05,0.06").code == 0
    _, _, lock = held_run(tmp_path)
    with lock:
        thread = when_it_waits(tmp_path, lambda: os.kill(os.getpid(), number))
        done = go("scheduler.max_lr=0.05,0.06")
        thread.join()
    assert done.code == 128 + number
    (ledger,) = ledgers(tmp_path)
    assert [one.status for one in ledger.jobs()] == ["interrupted", "planned"]


def test_who_waited_passes_over_what_has_finished_meanwhile_if_it_is_to_run_again(tmp_path: Path) -> None:
    waits, opened = threading.Event(), []

    def second() -> None:
        with open_run_directory(str(tmp_path), "x", "1", True, "code", lambda root: waits.set()) as directory:
            opened.append((directory.name, directory.is_new))

    with open_run_directory(str(tmp_path), "x", "1", True, "code") as first:
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(5)
        with Journal(first.paths.journal) as journal:
            journal.event("environment", code_digest="code")
            journal.status("FINISHED")
    thread.join()
    assert opened == [("x-1-2", True)]


def test_a_run_that_goes_on_elsewhere_is_not_marked_as_failed(tmp_path: Path) -> None:
    from resnet_exp.sweeps.closing import _end_runs
    from resnet_exp.sweeps.ledger import SeedRun

    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.status("RUNNING")
    lost = Job(0, {"seed": "0"}, "command", "lost", runs=(SeedRun(0, str(tmp_path), "running"),))
    config: Any = OmegaConf.create(
        {"tracker": {"_target_": "resnet_exp.tracking.none.NoTracker"}, "plugins": None, "sweep": {"seeds": None}}
    )
    with try_lock(tmp_path / ".lock") or pytest.fail("nobody holds it"):
        _end_runs(lost, config)
        assert last_status(tmp_path / "journal.jsonl") == "RUNNING"
    _end_runs(lost, config)
    assert last_status(tmp_path / "journal.jsonl") == "FAILED"


def test_a_winner_without_its_network_is_told_and_ends_the_parent(go: Callable[..., Said], tmp_path: Path) -> None:
    assert go("seed=1,2").code == 0
    for path in tmp_path.glob("outputs/*/model.safetensors"):
        path.unlink()
    done = go("seed=1,2", without="report=none")  # for whose winner a report is drawn
    assert done.code == 1
    assert "the report of the best run cannot be drawn" in done.out and "Traceback" not in done.err
    assert last_status(ledgers(tmp_path)[0].paths.journal) == "FAILED"
