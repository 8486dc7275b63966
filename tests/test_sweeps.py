"""A sweep's ledger, leaderboard, plan, proposals and pruning; and whole sweeps as a user runs them."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.run_dir.files import write_json
from resnet_exp.run_dir.journal import Journal, last_status
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.run_dir.range_test_cache import cached_range_test
from resnet_exp.sweeps.best_config import write_best
from resnet_exp.sweeps.labels import short_values
from resnet_exp.sweeps.leaderboard import COLUMNS, best_of, compare_best, deviation, ranked, rows
from resnet_exp.sweeps.ledger import Job, Ledger, SeedRun
from tests.planned import order_of_two, with_runs

EPOCHS = 4


def job(number: int, objectives: dict[int, float] | None = None, status: str = "finished", **point: str) -> Job:
    runs = tuple(
        SeedRun(seed, f"/runs/{number}-{seed}", "finished", value, value - 0.01, 10.0)
        for seed, value in (objectives or {}).items()
    )
    return Job(number, point or {"scheduler.peak_epoch": str(number)}, f"run {number}", status, runs=runs)


# The ledger


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "multirun" / "sweep")
    written = ledger.write(with_runs(job(3, {0: 0.5, 1: 0.7}), tmp_path, values={"scheduler.peak_epoch": 3}))
    assert ledger.jobs() == [written]
    assert written.objective == pytest.approx(0.6)


def test_a_running_job_is_lost_when_nobody_holds_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    key = ledger.write(job(0, status="running")).key
    assert ledger.job(key).status == "lost"
    with ledger.held(key):
        assert ledger.job(key).status == "running"


def test_a_job_is_worked_on_by_one_at_a_time(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    order = order_of_two(ledger.held("0-1", pytest.fail), lambda on_wait: ledger.held("0-1", on_wait))
    assert order == ["first", "second"]


def test_jobs_that_nobody_planned_get_places_of_their_own(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    jobs = [Job(0, {"peak": str(peak)}, "command") for peak in range(8)]
    threads = [threading.Thread(target=ledger.enrol, args=[one]) for one in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    planned = ledger.jobs()
    assert [one.number for one in planned] == list(range(8))
    assert {one.key for one in planned} == {one.key for one in jobs}
    assert ledger.enrol(jobs[3]) == jobs[3].key
    assert ledger.jobs() == planned


def test_a_job_is_found_by_what_it_is_wherever_the_plan_has_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "sweep")
    points = ("sgd", "0"), ("sgd", "0.1"), ("adam", "0"), ("adam", "0.1")
    jobs = [Job(n, {"optimizer": a, "smoothing": b}, f"{a} {b}") for n, (a, b) in enumerate(points)]
    ledger.plan(jobs)
    ledger.write(with_runs(jobs[1], tmp_path, objective=0.7))
    swapped = [Job(n, {"smoothing": b, "optimizer": a}, f"{b} {a}") for n, (b, a) in enumerate(
        [("0", "sgd"), ("0", "adam"), ("0.1", "sgd"), ("0.1", "adam")]
    )]  # fmt: skip
    ledger.plan(swapped)
    assert [one.status for one in ledger.jobs()] == ["planned", "planned", "finished", "planned"]
    done = ledger.jobs()[2]
    assert (done.number, done.command, done.label) == (2, "0.1 sgd", "smoothing=0.1 optimizer=sgd")


def test_what_the_plan_has_no_more_counts_no_more_and_comes_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "sweep")
    now, before = (Job(0, {"optimizer": "sgd"}, "command", identity=text) for text in ("aa", "bb"))
    ledger.plan([before])
    done = ledger.write(with_runs(before, tmp_path, objective=0.9))
    ledger.plan([now])
    assert [one.status for one in ledger.jobs()] == ["planned"]
    assert {one.key for one in ledger.every()} == {now.key, before.key}
    ledger.plan([before])
    assert ledger.jobs() == [done]


def test_failures_of_jobs_that_are_planned_no_more_stop_no_sweep(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.plan([job(0), job(1)])
    ledger.write(job(0, status="failed"))
    assert ledger.has_failed_enough(1)
    ledger.plan([job(1)])
    assert not ledger.has_failed_enough(1)


def test_a_stock_sweeper_s_job_that_failed_in_an_earlier_command_does_not_stop_the_next(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(job(0, status="failed"))
    ledger.plan([])
    ledger.enrol(job(0, status="planned"))
    assert [one.status for one in ledger.jobs()] == ["planned"]
    assert not ledger.has_failed_enough(1)


def test_equal_jobs_are_told_apart(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "sweep")
    first, second = (Job(n, {"lr": "0.1"}, "command", identity="ee", repeat=n + 1) for n in range(2))
    ledger.plan([first, second])
    ledger.write(with_runs(second, tmp_path, objective=0.5))
    assert [one.status for one in ledger.jobs()] == ["planned", "finished"]


def test_a_finished_job_is_to_be_run_again_once_a_result_is_gone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "multirun" / "sweep")
    both = [ledger.write(with_runs(job(n, {0: 0.5, 1: 0.7}), tmp_path)) for n in range(2)]
    ledger.plan(both)
    (Path(both[1].runs[0].root) / "result.json").unlink()
    kept, lost = ledger.jobs()
    assert kept == both[0]
    assert (lost.status, lost.objective, [run.seed for run in lost.runs]) == ("planned", None, [1])


def test_a_project_that_was_moved_has_its_results(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    ledger = Ledger(before / "multirun" / "sweep")
    ledger.plan([ledger.write(with_runs(job(0, {0: 0.5}), before))])
    before.rename(after)
    (moved,) = Ledger(after / "multirun" / "sweep").jobs()
    assert moved.status == "finished"
    assert [run.root for run in moved.runs] == [str(after / "outputs" / "0-0")]


def test_run_directories_are_found_where_the_folder_of_sweeps_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "multirun").symlink_to("elsewhere/deep")
    ledger = Ledger(tmp_path / "multirun" / "sweep")
    ledger.plan([ledger.write(with_runs(job(0, {0: 0.5}), tmp_path))])
    assert [one.status for one in ledger.jobs()] == ["finished"]


def test_labels_say_what_differs_and_no_more_than_can_be_read() -> None:
    assert job(0, **{"scheduler.peak_epoch": "5", "optimizer": "sgd"}).label == "peak_epoch=5 optimizer=sgd"
    assert job(0, **{"scheduler.find_factor": "2.3302082707730083"}).label == "find_factor=2.33"
    assert job(0, **{"model.width": "8", "other.width": "4"}).label == "model.width=8 other.width=4"


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (["123456789", "123456790"], ["123456789", "123456790"]),
        (["0.123456789", "0.123456788", "0.5000000001"], ["0.123456789", "0.123456788", "0.5"]),
        (["2.3302082707730083", "2.3304"], ["2.33", "2.3304"]),
        (["0.0500000000", "0.05"], ["0.0500000000", "0.05"]),
        (["1.23456", "1.234559999", "1.2346001111"], ["1.23456", "1.234559999", "1.2346"]),
        (["0.1", "0.10000000000000002"], ["0.1", "0.10000000000000002"]),
        (["a" * 200 + "b", "a" * 200 + "c"], ["a" * 200 + "b", "a" * 200 + "c"]),
        (["null", "1e-05", "0.1234567890"], ["null", "1e-05", "0.1235"]),
        (["'nan'", "'1e5'", '"a b"'], ["nan", "1e5", "a b"]),
        (["'1'", "1", "'2'"], ["'1'", "1", "2"]),  # a text and a number
    ],
)  # fmt: skip
def test_values_that_differ_have_labels_that_differ(tmp_path: Path, values: list[str], shown: list[str]) -> None:
    ledger = Ledger(tmp_path)
    ledger.plan([Job(n, {"key": value}, "command") for n, value in enumerate(values)])
    assert [one.label for one in ledger.jobs()] == [f"key={text}" for text in shown]
    assert [ledger.run_label(one.key, 0, None) for one in ledger.jobs()] == [one.label for one in ledger.jobs()]


def test_no_two_of_many_close_numbers_look_alike() -> None:
    draw = random.Random(0)
    close = [repr(0.1 + draw.choice((1e-3, 1e-6, 1e-9, 1e-16)) * draw.randrange(50)) for _ in range(300)]
    values = {*close, *(f"{float(text):.6g}" for text in close), *(f"{float(text):.9e}" for text in close)}
    assert len(set(short_values(values).values())) == len(values)


def test_the_stamp_changes_with_every_write(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(job(0, status="planned"))
    before = ledger.stamp()
    assert ledger.stamp() == before
    ledger.write(job(0, {0: 0.5}))
    assert ledger.stamp() != before


# The leaderboard


def test_the_best_stands_first_and_what_has_not_finished_last() -> None:
    jobs = [job(0, {0: 0.5}), job(1, status="failed"), job(2, {0: 0.9}), job(3, status="planned"), job(4, {0: 0.9})]
    assert [one.number for one in ranked(jobs)] == [2, 4, 0, 1, 3]
    assert [one.number for one in ranked(jobs, "minimize")] == [0, 2, 4, 1, 3]
    assert best_of(jobs).number == 2
    assert best_of([job(1, status="failed")]) is None


def test_a_row_has_every_column() -> None:
    (row,) = rows([job(2, {0: 0.5, 1: 0.7})])
    told = dict(zip(COLUMNS, row, strict=True))
    assert told["objective"] == pytest.approx(0.6)
    assert told["std"] == pytest.approx(math.sqrt(0.02))
    assert (told["n"], told["seconds"], told["status"], told["command"]) == (2, 20.0, "finished", "run 2")


def test_one_seed_has_no_deviation() -> None:
    assert deviation(job(0, {0: 0.5})) is None


def test_the_best_is_compared_with_the_second_seed_by_seed() -> None:
    """Seeds that move both points alike do not hide what lies between them. Student's t is 4.303."""
    best, second = job(0, {0: 0.50, 1: 0.70, 2: 0.90}), job(1, {0: 0.48, 1: 0.68, 2: 0.87})
    compared = compare_best([second, best])
    assert (compared.best.number, compared.n) == (0, 3)
    half = 4.302652729911275 * compared.std / math.sqrt(3)
    assert compared.low == pytest.approx(compared.difference - half)
    assert compared.beyond_noise
    unpaired = job(1, {0: 0.87, 1: 0.48, 2: 0.68})
    assert not compare_best([unpaired, best]).beyond_noise


def test_one_seed_can_tell_nothing_of_noise() -> None:
    compared = compare_best([job(0, {0: 0.5}), job(1, {0: 0.4})])
    assert compared.beyond_noise is None
    assert "may be noise" in compared.sentence()


def test_two_seeds_that_agree_by_chance_prove_nothing() -> None:
    """Seen: two seeds of 1,000 images each, both 0.6 % apart. All points together tell how much seeds scatter."""
    best, second = job(3, {0: 0.622, 1: 0.632}), job(4, {0: 0.616, 1: 0.626})
    alone = compare_best([best, second])
    assert alone.beyond_noise is None and "2 seeds that all differ by the same" in alone.sentence()
    among = compare_best([best, second, job(2, {0: 0.601, 1: 0.613}), job(1, {0: 0.616, 1: 0.572})])
    assert among.beyond_noise is False


def test_a_point_that_was_repeated_is_no_second_point() -> None:
    again = replace(job(5, {0: 0.5}), point=job(0).point)
    assert compare_best([job(0, {0: 0.5}), again]) is None


# Range tests are made once


def test_who_needs_the_same_range_test_waits_for_it(tmp_path: Path) -> None:
    waited, found = threading.Event(), []

    def second() -> None:
        with cached_range_test(str(tmp_path), "key", waited.set) as cached:
            found.append(cached.value)

    with cached_range_test(str(tmp_path), "key", pytest.fail) as cached:
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(5)
        assert cached.value is None and not found
        cached.store({"suggestion": 0.1})
    thread.join()
    assert found == [{"suggestion": 0.1}]


def test_another_range_test_does_not_wait(tmp_path: Path) -> None:
    with (
        cached_range_test(str(tmp_path), "one", pytest.fail),
        cached_range_test(str(tmp_path), "other", pytest.fail) as cached,
    ):
        assert cached.value is None


# The plan


def test_what_is_kept_of_a_command_holds_no_password_and_nothing_of_the_sweep() -> None:
    from resnet_exp.config.overrides import command_of

    overrides = ["sweep=peak_epoch", "sweep.job=3", "hydra.sweeper.n_trials=2", "hydra/launcher=joblib", "seed=1"]
    assert command_of(overrides) == "python -m resnet_exp seed=1"
    assert "secret" not in command_of(["tracker.uri=postgresql://me:secret@host/db"])


# Proposals


def space():
    from optuna.distributions import FloatDistribution, IntDistribution

    return {"peak": IntDistribution(1, 12), "factor": FloatDistribution(1.0, 32.0, log=True)}


def proposals(seed: int = 0, sampler: str = "tpe"):
    from resnet_exp.sweeps.proposals import Proposals

    return Proposals(space(), sampler, 3, "maximize", seed)


def study(length: int, batch: int = 1, **how) -> list[Job]:
    """Trials of a smooth made-up objective, each proposed from those before its batch."""
    makes, jobs = proposals(**how), []
    for number in range(length):
        first = number - number % batch
        values = makes.propose(number, jobs, first)
        value = -((values["peak"] - 5) ** 2) - math.log2(values["factor"] / 8) ** 2
        point = {key: str(one) for key, one in values.items()}
        jobs.append(replace(job(number, {0: value}), point=point, values=values))
    return jobs


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_study_that_was_killed_proposes_as_if_it_never_was(sampler: str, batch: int) -> None:
    whole = study(8, batch, sampler=sampler)
    for number in range(8):  # another process, that knows the ledger alone
        again = proposals(sampler=sampler).propose(number, whole[:number], number - number % batch)
        assert again == whole[number].values
    assert len({json.dumps(one.values) for one in whole}) > 4


def test_another_seed_proposes_others() -> None:
    assert [one.values for one in study(3, seed=0)] != [one.values for one in study(3, seed=1)]


def test_tpe_comes_closer_than_chance() -> None:
    best = {
        how: sum(max(one.objective for one in study(25, sampler=how, seed=s)) for s in range(3))
        for how in ("tpe", "random")
    }
    assert best["tpe"] > best["random"]


def test_failed_and_pruned_trials_do_not_stop_a_study() -> None:
    jobs = study(6)
    jobs[1] = replace(jobs[1], status="failed", runs=())
    jobs[2] = replace(jobs[2], status="pruned", runs=(), curve={"3": 0.2})
    assert set(proposals().propose(6, jobs, 6)) == {"peak", "factor"}


# Pruning


def curve(number: int, *values: float, status: str = "finished") -> Job:
    told = {str(epoch): value for epoch, value in enumerate(values, 1)}
    return replace(job(number, {0: values[-1]} if status == "finished" else None, status), curve=told)


def is_poor(*values: float, latest: int, kind: str = "median", number: int = 9) -> bool:
    from resnet_exp.sweeps.pruning import is_poor, make_pruner

    others = [curve(each, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9) for each in range(number)]
    return is_poor(curve(number, *values, status="running"), others, make_pruner(kind, latest, 6), "maximize")


def test_a_poor_trial_is_given_up_only_after_the_latest_peak() -> None:
    assert is_poor(0.1, 0.1, 0.1, latest=2)
    assert not is_poor(0.1, 0.1, 0.1, latest=3)  # its LR may only just have peaked
    assert is_poor(0.1, 0.1, 0.1, 0.1, latest=3)


def test_hyperband_waits_for_the_latest_peak_too_and_longer_in_some_brackets() -> None:
    numbers = range(8, 16)
    assert not any(is_poor(0.1, 0.1, 0.1, latest=3, kind="hyperband", number=number) for number in numbers)
    early = [is_poor(0.1, 0.1, 0.1, latest=2, kind="hyperband", number=number) for number in numbers]
    assert any(early) and not all(early)


def test_a_good_trial_goes_on() -> None:
    assert not is_poor(0.4, 0.6, 0.7, latest=2)


def test_the_first_trials_are_never_given_up() -> None:
    from resnet_exp.sweeps.pruning import is_poor, make_pruner

    others = [curve(number, 0.9, 0.9, 0.9) for number in range(3)]
    assert not is_poor(curve(9, 0.1, 0.1, 0.1, status="running"), others, make_pruner("median", 1, 6), "maximize")


def composing(scheduler_of):
    """A planner, as far as pruning needs one: it composes a config with the scheduler's settings of a point."""
    from types import SimpleNamespace

    from resnet_exp.config import build

    def compose(point: dict[str, object]):
        plugins = {"scheduler": scheduler_of(point)}
        config = SimpleNamespace(
            plugins=plugins, plugin_modules=(), train=SimpleNamespace(epochs=point.get("train.epochs", 24)),
            sweep=SimpleNamespace(pruner="median"),
        )  # fmt: skip
        build.scheduler(config).check(config.train.epochs)
        return config

    return SimpleNamespace(compose=compose)


def onecycle(point: dict[str, object]) -> dict[str, object]:
    return {"_target_": "resnet_exp.schedulers.onecycle.OneCycle", "peak_epoch": point.get("scheduler.peak_epoch", 5)}


def test_trials_are_compared_after_the_latest_epoch_that_any_of_them_may_ask_for() -> None:
    """Two ends that do not fit together, a peak in epoch 20 of 8, are no trial."""
    from resnet_exp.sweeps.pruning import latest_comparable

    planner, first = composing(onecycle), {"scheduler.peak_epoch": 2, "train.epochs": 8, "optimizer.momentum": 0.9}
    ends = {"scheduler.peak_epoch": [1, 20], "train.epochs": [8, 24], "optimizer.momentum": [0.8, 0.95]}
    assert latest_comparable(planner, first, ends) == 20
    assert latest_comparable(planner, first, {"optimizer.momentum": [0.8, 0.95]}) == 2


def test_a_swept_scheduler_says_itself_when_its_runs_can_be_compared() -> None:
    from resnet_exp.sweeps.pruning import latest_comparable

    targets = {"onecycle": onecycle({}), "cyclic": {"_target_": "resnet_exp.schedulers.cyclic.Cyclic", "cycles": 3}}
    planner = composing(lambda point: targets[str(point["scheduler"])])
    assert latest_comparable(planner, {"scheduler": "onecycle"}, {"scheduler": ["onecycle", "cyclic"]}) == 20


def test_a_scheduler_that_does_not_say_when_runs_can_be_compared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_exp.interfaces import ConfigError
    from resnet_exp.schedulers.onecycle import OneCycle
    from resnet_exp.sweeps.pruning import latest_comparable

    monkeypatch.delattr(OneCycle, "comparable_after")
    with pytest.raises(ConfigError, match=r"OneCycle has no comparable_after\(epochs\)"):
        latest_comparable(composing(onecycle), {}, {})


# The parent run


@pytest.mark.parametrize(
    ("space", "steps"),
    [
        ({"scheduler.peak_epoch": "2,7"}, [2, 7]),
        ({"optimizer": "sgd,adam", "train.batch_size": "choice(64,128)"}, [64, 128]),
        ({"scheduler.max_lr": "0.1,1", "train.epochs": "range(8,10)"}, [8, 9]),
        ({"scheduler.find_factor": "interval(1,8)"}, [0, 1]),
        ({"train.epochs": "int(interval(8,9))"}, [8, 9]),
    ],
)  # fmt: skip
def test_the_parents_objective_has_a_whole_swept_value_as_its_step(tmp_path: Path, space, steps) -> None:
    from resnet_exp.interfaces import Mirror
    from resnet_exp.sweeps.parent_run import Parent

    write_json(tmp_path / "sweep.json", {"space": space}, "sweep")
    values = {"sgd": "sgd", "adam": "adam"}
    jobs = []
    for number, step in enumerate(steps):
        point = {key: str(step) for key in space} | ({"optimizer": [*values][number]} if "optimizer" in space else {})
        jobs.append(replace(job(number, {0: 0.5 + number / 10}), point=point))
    parent = Parent(Ledger(tmp_path), Mirror(), {}, "maximize")
    assert parent._curve(jobs) == {step: one.objective for step, one in zip(steps, jobs, strict=True)}


def test_the_parents_params_have_names_that_mlflow_takes(tmp_path: Path) -> None:
    """Its names take no `+`, which a key that is added has on the command line."""
    from resnet_exp.interfaces import Mirror
    from resnet_exp.sweeps.parent_run import Parent

    facts = {"space": {"+model.kwargs.dropout": "0.1,0.2"}, "config": {"seed": 0}, "command": "command"}
    write_json(tmp_path / "sweep.json", facts, "sweep")
    parent = Parent(Ledger(tmp_path), Mirror(), {}, "maximize")
    parent.start()
    parent.end("FINISHED")
    assert '"sweep.model.kwargs.dropout":"0.1,0.2"' in parent._ledger.paths.journal.read_text().replace(" ", "")


@pytest.mark.parametrize("swept", ["seed", "tracker", "tracker.experiment"])
def test_the_parents_journal_names_the_runs_that_have_ended(tmp_path: Path, swept: str) -> None:
    """Trackers show them beneath it, but for jobs that have trackers of their own."""
    from resnet_exp.interfaces import Mirror
    from resnet_exp.run_dir.journal import child_labels, read
    from resnet_exp.sweeps.parent_run import Parent

    ledger = Ledger(tmp_path / "multirun" / "sweep")
    ledger.root.mkdir(parents=True)
    facts = {"space": {swept: "1,2"}, "config": {"seed": 0}, "command": "command", "seeds": [0, 1]}
    write_json(ledger.root / "sweep.json", facts, "sweep")
    root = str(tmp_path / "outputs" / "run")
    ended = SeedRun(0, f"{root}-0", "finished", 0.5)
    running = ledger.write(Job(0, {swept: "1"}, "", "running", runs=(ended, SeedRun(1, f"{root}-1", "running"))))
    ledger.write(Job(1, {swept: "2"}, "", "planned"))
    parent = Parent(ledger, Mirror(), {}, "maximize")
    with ledger.held(running.key):
        for _ in range(2):
            parent._record_children(ledger.jobs())
    parent._journal.close()
    named = [child_labels(record, ledger.root) for record in read(ledger.paths.journal) if record["kind"] == "children"]
    assert named == ([{Path(f"{root}-0"): "seed=1 seed=0"}] if swept == "seed" else [])


# Whole sweeps, as a user runs them


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    fast = ["experiment=quickstart", f"train.epochs={EPOCHS}", "data.limit_train=300", "device=cpu"]
    return subprocess.run(
        [sys.executable, "-m", "resnet_exp", *fast, *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


def ledger_in(folder: Path) -> Ledger:
    (root,) = [path for path in (folder / "multirun").iterdir() if path.is_dir()]
    return Ledger(root)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory):
    """A grid of two peaks with two seeds, mirrored to MLflow."""
    folder = tmp_path_factory.mktemp("swept")
    done = command("--multirun", "scheduler.peak_epoch=1,3", "sweep.seeds=[0,1]", cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


@pytest.mark.slow
def test_every_point_is_run_with_every_seed(swept) -> None:
    folder, output = swept
    jobs = ledger_in(folder).jobs()
    assert [one.label for one in jobs] == ["peak_epoch=1", "peak_epoch=3"]
    for one in jobs:
        assert one.status == "finished" and sorted(one.objectives) == [0, 1]
        assert one.objective == pytest.approx(sum(one.objectives.values()) / 2)
        assert not any(run.reused for run in one.runs)
    assert "2 of 2 jobs finished" in output


@pytest.mark.slow
def test_the_range_test_is_made_once_a_seed(swept) -> None:
    folder, output = swept
    assert len(list((folder / "outputs" / "range_tests").glob("*.json"))) == 2
    assert output.count("LR range test (cached)") == 2


@pytest.mark.slow
def test_the_leaderboard_the_page_and_the_best_config_lie_in_the_sweeps_directory(swept) -> None:
    folder, _ = swept
    root = ledger_in(folder).root
    with (root / "leaderboard.csv").open(newline="") as file:
        board = list(csv.DictReader(file))
    assert tuple(board[0]) == COLUMNS
    assert float(board[0]["objective"]) >= float(board[1]["objective"])
    assert "data:image/" in (root / "sweep.html").read_text()


@pytest.mark.slow
def test_only_the_winner_has_a_report_and_a_model(swept) -> None:
    folder, _ = swept
    jobs = ledger_in(folder).jobs()
    winner = best_of(jobs).runs[0].root
    for one in jobs:
        for run in one.runs:
            assert (Path(run.root) / "report" / "report.html").exists() == (run.root == winner)
            assert (Path(run.root) / "mlflow_model").exists() == (run.root == winner)


@pytest.mark.slow
def test_the_parent_has_the_children_and_the_curve(swept) -> None:
    from mlflow import MlflowClient

    folder, _ = swept
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("resnet_exp").experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("sweep") == "parent"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 4 and len(runs) == 5
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(run.info.run_name.startswith("peak_epoch=") for run in children)
    points = {point.step: point.value for point in client.get_metric_history(parent.info.run_id, "objective")}
    assert points == {int(one.point["scheduler.peak_epoch"]): one.objective for one in ledger_in(folder).jobs()}
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"leaderboard.csv", "leaderboard.json", "sweep.html", "best.yaml", "sweep.json", "report"} <= files


@pytest.mark.slow
def test_the_same_command_again_runs_nothing(swept) -> None:
    folder, _ = swept
    before = {path: path.stat().st_mtime_ns for path in (folder / "outputs").rglob("*.safetensors")}
    again = command("--multirun", "scheduler.peak_epoch=1,3", "sweep.seeds=[0,1]", cwd=folder)
    assert again.returncode == 0, again.stderr[-3000:]
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "outputs").rglob("*.safetensors")}
    assert "epoch  train loss" not in again.stdout


@pytest.mark.slow
def test_a_larger_grid_runs_only_what_is_new(swept) -> None:
    folder, _ = swept
    larger = command("--multirun", "scheduler.peak_epoch=1,2,3", "tracker=none", "name=quickstart", cwd=folder)
    assert larger.returncode == 0, larger.stderr[-3000:]
    roots = [path for path in (folder / "multirun").iterdir() if len(Ledger(path).jobs()) == 3]
    assert [[run.reused for run in one.runs] for one in Ledger(roots[0]).jobs()] == [[True], [False], [True]]
    for path in roots:  # what other tests look for is the first sweep
        path.rename(folder / path.name)


@pytest.mark.slow
def test_a_dry_run_tells_what_is_done_and_writes_nothing(swept) -> None:
    folder, _ = swept
    before = sorted(folder.rglob("*"))
    dry = command("--multirun", "scheduler.peak_epoch=1,4", "sweep.dry_run=true", cwd=folder)
    assert dry.returncode == 0, dry.stderr[-3000:]
    assert "done: " in dry.stdout and "to be run" in dry.stdout and "runs are left, " in dry.stdout
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_the_best_config_runs_by_itself_and_is_the_run_that_won(swept) -> None:
    folder, _ = swept
    root = ledger_in(folder).root
    assert {"report": "default"} in yaml.safe_load((root / "best.yaml").read_text())["defaults"]
    done = subprocess.run(
        [sys.executable, "-m", "resnet_exp", "--config-dir", str(root), "--config-name", "best"],
        cwd=folder, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    winner = best_of(ledger_in(folder).jobs()).runs[0].name
    assert f"{winner} is finished already" in done.stdout


def test_files_of_others_beside_those_of_jobs_are_none_of_the_ledger(tmp_path: Path) -> None:
    ledger, job = Ledger(tmp_path), Job(0, {"scheduler.peak_epoch": "2"}, "command")
    ledger.plan([job])
    ledger.write(job)
    for name in ("foreign", f"{job.key}-foreign", f".{job.key}"):
        (tmp_path / "jobs" / f"{name}.json").write_text('{"foreign": [1]}')
    assert [one.key for one in ledger.every()] == [one.key for one in ledger.jobs()] == [job.key]


@pytest.mark.parametrize("damage", ["edited", "a link", "larger than a config", "a reference"])
def test_a_config_that_is_not_the_recorded_one_is_no_best_config(damage: str, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "outputs" / "tiny-be6911a1feb9")
    best = Job(
        0, {"scheduler.peak_epoch": "2"}, "command", "finished", runs=(SeedRun(0, str(paths.root), "finished", 0.5),)
    )
    with Journal(paths.journal, "be6911a1feb9") as journal:
        paths.config.write_text("seed: 0\n")
        journal.artifact(paths.config)
    assert yaml.safe_load(write_best(tmp_path, best).read_text())["seed"] == 0
    (tmp_path / "best.yaml").unlink()
    if damage == "edited":
        paths.config.write_text("seed: 1\n")
    elif damage == "a link":
        paths.config.rename(tmp_path / "elsewhere.yaml")
        paths.config.symlink_to(tmp_path / "elsewhere.yaml")
    else:
        paths.config.write_text("a: ${oc.env:HOME}" if damage == "a reference" else "a: 1\n" * 100_000)
        paths.journal.unlink()
    with pytest.raises((ConfigError, RunError), match=r"config\.yaml"):
        write_best(tmp_path, best)
    assert not (tmp_path / "best.yaml").exists()


@pytest.mark.slow
def test_a_study_goes_on_to_n_trials_in_all(tmp_path: Path) -> None:
    overlay = ["sweep=peak_epoch_optuna", "scheduler.peak_epoch=range(1,4)", "tracker=none"]
    for trials in (2, 4):
        done = command(*overlay, f"hydra.sweeper.n_trials={trials}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        assert [one.status for one in ledger_in(tmp_path).jobs()] == ["finished"] * trials
    dry = command(*overlay, "hydra.sweeper.n_trials=6", "sweep.dry_run=true", cwd=tmp_path)
    assert "6 trials in all, 2 left" in dry.stdout and "2 runs are left, " in dry.stdout
    other = command(*overlay[:1], "scheduler.peak_epoch=range(1,3)", "tracker=none", cwd=tmp_path)
    assert other.returncode == 2
    assert "another search space (scheduler.peak_epoch: " in other.stderr


@pytest.mark.slow
def test_a_pruner_gives_poor_trials_up_once_all_could_have_peaked(tmp_path: Path) -> None:
    space = ["scheduler.peak_epoch=range(1,3)", "scheduler.find_factor=tag(log,interval(0.01,16))"]
    study = ["sweep=peak_epoch_optuna", "hydra.sweeper.n_trials=10", "sweep.pruner=median", "tracker=none"]
    done = command(*study, *space, "train.epochs=5", "data.limit_train=600", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    jobs = ledger_in(tmp_path).jobs()
    pruned = [one for one in jobs if one.status == "pruned"]
    assert len(jobs) == 10 and {one.status for one in jobs} == {"finished", "pruned"}
    for one in pruned:
        assert sorted(map(int, one.curve)) in ([1, 2, 3], [1, 2, 3, 4]), "the latest peak is 2"
        assert one.reason.startswith(f"pruned after epoch {len(one.curve)} of 5")
        assert last_status(Path(one.runs[0].root) / "journal.jsonl") == "KILLED"


@pytest.mark.slow
def test_the_stock_optuna_sweeper_has_a_parent_too(tmp_path: Path) -> None:
    stock = ["--multirun", "hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=2"]
    done = command(*stock, "hydra.sweeper.n_jobs=1", "scheduler.peak_epoch=range(1,4)", "tracker=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    jobs = ledger_in(tmp_path).jobs()
    assert jobs and {one.status for one in jobs} == {"finished"}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_other_launchers_come_to_the_same(launcher: str, swept, tmp_path: Path) -> None:
    """Jobs in processes of their own find what jobs one after another in one process have found, to the last digit."""
    folder, _ = swept
    done = command("--multirun", "scheduler.peak_epoch=1,3", "tracker=none", f"hydra/launcher={launcher}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    jobs = ledger_in(tmp_path).jobs()
    assert [one.objectives for one in jobs] == [{0: one.objectives[0]} for one in ledger_in(folder).jobs()]
    assert len(list((tmp_path / "outputs" / "range_tests").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sweep.seeds=[0,1]",), "sweep.* would be ignored"),
        (("--multirun", "scheduler.peak_epoch=1,2", "sweep.seeds=[1,1]"), "sweep.seeds=[1, 1]"),
        (("--multirun", "scheduler.peak_epoch=1,2", "sweep.pruner=median"), "it is for hydra/sweeper=study"),
        (("--multirun", "scheduler.peak_epoch=1,2", "sweep.job=1"), "leave it out"),
        (("--multirun", "scheduler.peak_epoch=1,2", "data.validation=none"), "nothing to choose by"),
        (("--multirun", "scheduler.peak_epoch=1,9"), "scheduler.peak_epoch=9"),
        (("--multirun",), "nothing is swept over"),
        (("sweep=peak_epoch",), "scheduler.peak_epoch=5: a whole number from 1 to train.epochs=4 is needed"),
        (("sweep=peak_epoch_optuna",), "scheduler.peak_epoch=12: a whole number from 1 to train.epochs=4 is needed"),
        (("--multirun", "hydra/sweeper=optuna", "scheduler.peak_epoch=1,2"), "would choose the worst"),
        (("--multirun", "hydra/sweeper=basic", "model.width=2,0"), "model.width=0: a whole number of at least 1"),
        (("--multirun", "hydra/sweeper=basic", "scheduler.peak_epoch=range(1,9)"), "scheduler.peak_epoch=5"),
        (("sweep=peak_epoch_optuna", "hydra.sweeper.n_trials=0"), "hydra.sweeper.n_trials=0: a whole number"),
        (("--multirun", "model.width=2,0"), "job 1, model.width=0: model.width=0: a whole number of at least 1"),
        (("--multirun", "train.label_smoothing=interval(0,1)"), "hydra/sweeper=study proposes points of an interval"),
        (("--multirun", "data=digits,cifar10", "scheduler.max_lr=choice(0.1,-1)"), "scheduler.max_lr=-1"),
    ],
)  # fmt: skip
def test_what_a_sweep_cannot_honour_is_refused_before_anything_is_written(arguments, said: str, tmp_path: Path) -> None:
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr[-2000:]
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_job_whose_file_is_edited_damaged_or_foreign_is_planned_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path)
    jobs = [Job(number, {"seed": str(number)}, "command", identity=f"0{number}") for number in range(3)]
    ledger.plan(jobs)
    for job in jobs:
        ledger.write(replace(job, status="failed", reason="so"))
    edited, damaged, gone = (tmp_path / "jobs" / f"{job.key}.json" for job in jobs)
    edited.write_text(edited.read_text().replace("failed", "finished"))
    damaged.write_bytes(bytes(100))
    gone.unlink()
    (tmp_path / "jobs" / "foreign.json").write_text('{"a": 1}')
    assert [(job.key, job.status) for job in ledger.jobs()] == [(job.key, "planned") for job in jobs]
    assert len(ledger.every()) == 3
    for path in (edited, damaged):
        assert f"{path} is damaged" in caplog.text
    ledger.plan(jobs)
    (tmp_path / "plan.json").write_text("[")
    assert [job.key for job in Ledger(tmp_path).jobs()] == [job.key for job in jobs]
    ledger.plan(jobs)
    assert len(Ledger(tmp_path).jobs()) == 3
