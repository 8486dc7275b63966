"""A run from its config to its result: what it leaves behind, how it goes on, and what MLflow shows of it."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors import safe_open

from resnet_exp.config import build
from resnet_exp.config.conf import CONF
from resnet_exp.config.config import flat, typed
from resnet_exp.data.bank import Batch
from resnet_exp.data.digits import Digits
from resnet_exp.interfaces import ConfigError, LoadedData, Mirror, RunError
from resnet_exp.models.custom_resnet import CustomResNet
from resnet_exp.optimizers.sgd import sgd
from resnet_exp.run_dir.directory import open_run_directory
from resnet_exp.run_dir.files import sha256_of, write_csv
from resnet_exp.run_dir.journal import Journal, last_status, metric_history, read
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.run_dir.signature import signature
from resnet_exp.runs import max_lr as finding
from resnet_exp.runs import open_run, outputs
from resnet_exp.runs import run as way
from resnet_exp.runs.environment import environment_of
from resnet_exp.runs.record import Record
from resnet_exp.schedulers.onecycle import OneCycle
from resnet_exp.training import miniatures
from resnet_exp.training.evaluate import Evaluation
from resnet_exp.training.train import Epoch

TINY = (
    "data=digits", "data.image_size=8", "data.limit_train=200", "augmentation=crop", "augmentation.padding=1",
    "model.width=4", "train.epochs=3", "train.batch_size=32", "train.checkpoint_interval=0", "scheduler.peak_epoch=1",
    "range_test.num_steps=20", "range_test.repeats=1", "tracker=none", "report=none", "output_dir=runs",
)  # fmt: skip
GIVEN = "scheduler.max_lr=0.1"
DRAWN = "report.range_test=true"
EACH_EPOCH = {"loss/train", "accuracy/train", "lr/start", "lr/end", "perf/epoch_s", "perf/images_per_s"}
ONCE = {"range_test/suggestion", "range_test/max_lr", "accuracy/best_val", "loss/test", "accuracy/test", "ece/test"}
# What the clock says differs from run to run, and the command is how it was called.
TIMED = {"seconds", "command", "perf/epoch_s", "perf/images_per_s"}


@dataclass(frozen=True)
class Done:
    """A run directory after its run."""

    paths: RunPaths
    objective: float | None

    @property
    def result(self) -> dict[str, Any]:
        return json.loads(self.paths.result.read_text())

    @property
    def metrics(self) -> dict[str, list[float]]:
        """Each metric's values by step."""
        return {key: [value for _, value, _ in points] for key, points in metric_history(self.paths.journal).items()}

    def weights(self) -> dict[str, torch.Tensor]:
        with safe_open(self.paths.model, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping

    def logits(self) -> np.ndarray:
        return np.load(self.paths.predictions)["logits"]


@pytest.fixture(autouse=True)
def torchs_switches() -> Iterator[None]:
    """What `runtime.start` sets for the whole process is set back."""
    before = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.use_deterministic_algorithms(before[1])


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Runs a command in a directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    return run


def run(*overrides: str) -> Done:
    config = config_of(*overrides)
    objective = way.run(config, f"python -m resnet_exp {' '.join(overrides)}")
    return Done(newest(Path(config.output_dir)), objective)


def config_of(*overrides: str):
    others = {text.partition("=")[0] for text in overrides if text in ("range_test=miniatures", "scheduler=constant")}
    tiny = [text for text in TINY if text.partition(".")[0] not in others]
    with initialize_config_dir(str(CONF)):
        return typed(compose("config", overrides=[*tiny, *overrides]), overrides)


def darkened(load: Callable[..., LoadedData]) -> Callable[..., LoadedData]:
    """The same data set, every pixel of it a little darker."""

    def dark(*args: Any) -> LoadedData:
        loaded = load(*args)
        return replace(
            loaded, **{split: replace(part, images=part.images // 2) for split, part in
                       (("train", loaded.train), ("test", loaded.test))}
        )  # fmt: skip

    return dark


def newest(output_dir: Path) -> RunPaths:
    journals = output_dir.absolute().glob("*/journal.jsonl")
    return RunPaths(max(journals, key=lambda path: path.stat().st_mtime_ns).parent)


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if key not in TIMED}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def assert_same_numbers(one: Done, other: Done) -> None:
    assert untimed(one.result) == untimed(other.result)
    assert np.array_equal(one.logits(), other.logits())
    mine, others = one.weights(), other.weights()
    assert mine.keys() == others.keys()
    assert all(torch.equal(mine[key], others[key]) for key in mine)


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("this should not have been done")


# What a run leaves behind


def test_a_run_leaves_its_result_and_all_that_led_to_it(go: Callable[..., Done]) -> None:
    done = go(DRAWN)
    files = {path.relative_to(done.paths.root).as_posix() for path in done.paths.root.rglob("*") if path.is_file()}
    assert files >= {
        "config.yaml", "environment.json", "journal.jsonl", "range_test.json", "report/range_test.png",
        "report/range_test.svg", "predictions.npz", "confusion_matrix.json", "model.safetensors", "result.json",
    }  # fmt: skip
    assert not [name for name in files if name.endswith(".partial")]
    assert last_status(done.paths.journal) == "FINISHED"
    assert len(list(done.paths.checkpoints.glob("*.pt"))) == 2, "the last two are kept"

    result = done.result
    assert result["objective"] == done.objective == result["best_val_accuracy"]
    assert result["max_lr_source"].startswith("range test: ")
    assert [epoch["epoch"] for epoch in result["history"]] == [1, 2, 3]
    assert result["best_val_accuracy"] == max(epoch["accuracy/val"] for epoch in result["history"])
    assert result["test"]["count"] == 355 == sum(part["count"] for part in result["per_class"].values())
    assert result["test"]["correct"] == sum(part["correct"] for part in result["per_class"].values())
    assert result["test"]["accuracy"] == result["test"]["correct"] / 355


def test_the_recorded_numbers_agree_with_one_another(go: Callable[..., Done]) -> None:
    """Predictions, confusion matrix, result and the weights read back: four ways to the same accuracy."""
    done = go(GIVEN)
    stored = np.load(done.paths.predictions)
    correct = int((stored["logits"].argmax(1) == stored["labels"]).sum())
    confusion = json.loads((done.paths.root / "confusion_matrix.json").read_text())["rows_true_columns_predicted"]
    assert correct == done.result["test"]["correct"] == sum(row[label] for label, row in enumerate(confusion))

    with safe_open(done.paths.model, "pt") as file:
        said = json.loads(file.metadata()["resnet_exp"])
    assert said["class_names"] == [str(digit) for digit in range(10)]
    assert said["input_shape"] == [1, 8, 8]
    model = CustomResNet(num_classes=10, in_channels=1, image_size=8, width=4).eval()
    model.load_state_dict(done.weights())
    images = build.plugins(config_of()).source.load(never).test.images  # type: ignore[arg-type]
    inputs = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - said["mean"][0]) / said["std"][0]
    with torch.no_grad():
        assert np.allclose(model(inputs).numpy(), stored["logits"], atol=1e-4)


def test_a_finished_run_is_reported_and_not_made_again(
    go: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = go()
    monkeypatch.setattr(way, "_prepare", never)
    again = go("name=null", "device=cpu", "train.checkpoint_interval=9")  # of the same signature
    assert again == done
    assert "is finished already" in capsys.readouterr().out


def test_rerun_makes_another_beside_it_with_the_same_numbers(go: Callable[..., Done]) -> None:
    first = go(GIVEN)
    second = go(GIVEN, "rerun=true")
    third = go(GIVEN, "rerun=true")
    assert second.paths.root.name == f"{first.paths.root.name}-2"
    assert third.paths.root.name == f"{first.paths.root.name}-3"
    assert_same_numbers(first, second)
    assert_same_numbers(first, third)


def test_a_seed_changes_the_numbers(go: Callable[..., Done]) -> None:
    one, other = go(GIVEN), go(GIVEN, "seed=1")
    assert one.paths != other.paths
    assert not np.array_equal(one.logits(), other.logits())


# Going on


def interrupt_in(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the next run end by Ctrl-C at some point of its way."""

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    def after(calls: int, original: Callable[..., Any]) -> Callable[..., Any]:
        done = 0

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            return original(*args, **kwargs) if done < calls else interrupted()

        return wrapped

    def half_an_epoch(
        bank: Any, augmentation: Any, batch_size: int, seed: int, epoch: int, first: int
    ) -> Iterator[Batch]:
        batches = list(shuffled(bank, augmentation, batch_size, seed, epoch, first=first))
        # The range test's batches have seeds of their own.
        for number, batch in enumerate(batches):
            if seed == 0 and epoch == 2 and number == len(batches) // 2:
                raise KeyboardInterrupt
            yield batch

    def measurement(calls: int) -> Callable[..., Any]:
        return lambda *args: after(calls, original(*args))

    shuffled, original, askings = way.shuffled, way._measurement, itertools.count(1)
    module, name, replacement = {
        "the range test": (finding, "range_test", interrupted),
        "the middle of an epoch": (way, "shuffled", half_an_epoch),
        "a measurement": (way, "_measurement", measurement(2)),
        "the first epoch": (way, "_measurement", measurement(1)),
        "the test": (way, "_test", interrupted),
        "asked to stop": (way, "should_stop", lambda: next(askings) >= 11),  # in the second epoch of 6 steps
        "asked to stop later": (way, "should_stop", lambda: next(askings) >= 16),
    }[where]
    monkeypatch.setattr(way, "stop", interrupted)
    monkeypatch.setattr(module, name, replacement)


@pytest.mark.parametrize(
    "where",
    [
        *("the range test", "the first epoch", "the middle of an epoch", "a measurement", "the test"),
        *("asked to stop", "asked to stop later"),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(where: str, go: Callable[..., Done]) -> None:
    max_lr = ["scheduler.max_lr=find" if where == "the range test" else GIVEN]
    straight = go(*max_lr, "output_dir=straight")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_in(where, patch)
        with pytest.raises(KeyboardInterrupt):
            go(*max_lr)
    interrupted = newest(Path("runs"))
    assert last_status(interrupted.journal) == "KILLED"
    assert not interrupted.result.exists()
    resumed = go(*max_lr)
    assert resumed.paths == interrupted
    assert last_status(resumed.paths.journal) == "FINISHED"
    assert_same_numbers(straight, resumed)
    timed = {"perf/epoch_s", "perf/images_per_s"}
    assert {k: v for k, v in resumed.metrics.items() if k not in timed} == {
        k: v for k, v in straight.metrics.items() if k not in timed
    }


def test_a_run_that_goes_on_keeps_what_it_had_done(go: Callable[..., Done]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_in("a measurement", patch)
        with pytest.raises(KeyboardInterrupt):
            go(GIVEN)
    epochs = []

    def counted(*args: Any, first: int) -> Iterator[Batch]:
        epochs.append(args[-1])
        return original(*args, first=first)

    original = way.shuffled
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(way, "shuffled", counted)
        go(GIVEN)
    assert epochs == [2, 3]


def test_a_run_directory_is_for_one_process_at_a_time(go: Callable[..., Done]) -> None:
    config = config_of(GIVEN)
    key = signature(config, build.plugins(config).source.identity(), "fp32")
    with open_run_directory("runs", config.title, key, rerun=False) as held:
        with pytest.raises(RunError, match="another process"):
            go(GIVEN)
        assert not held.paths.journal.exists(), "the second one has touched nothing"
    assert go(GIVEN).paths == held.paths


def test_a_finished_run_lets_go_of_its_directory_at_once(go: Callable[..., Done]) -> None:
    """A sweep runs its jobs in one process, and may come to the same point twice."""
    config = config_of()
    first = go()
    assert way.run(config, "again") == first.objective


def test_a_failed_run_lets_go_of_its_directory_at_once(go: Callable[..., Done]) -> None:
    """A sweep keeps the errors of its failed jobs; a job after them may be the same run again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(way, "_train", never)
        with pytest.raises(AssertionError) as kept:
            go(GIVEN)
    assert go(GIVEN).objective is not None
    assert kept


# What is measured, and what chooses


@pytest.mark.parametrize(("validation", "name"), [("holdout", "val"), ("test", "test_each_epoch"), ("none", None)])
def test_each_epochs_metrics_say_what_they_were_measured_on(
    validation: str, name: str | None, go: Callable[..., Done]
) -> None:
    done = go(GIVEN, f"data.validation={validation}")
    measured = {f"loss/{name}", f"accuracy/{name}"} if name else set()
    each_epoch = {key for key, values in done.metrics.items() if len(values) == 3}
    assert each_epoch == EACH_EPOCH | measured
    once = {key for key, values in done.metrics.items() if len(values) == 1}
    assert once == {"loss/test", "accuracy/test", "ece/test"} | (
        {"accuracy/best_val"} if validation == "holdout" else set()
    )


def test_held_out_images_choose_the_epoch(go: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    """The epochs' validation accuracies are scripted: the weights kept are those of the best, not of the last."""
    states, scripted = [], iter([0.3, 0.9, 0.5])

    def measurement(*args: Any) -> Callable[[torch.nn.Module], Any]:
        measure = original(*args)

        def measured(model: torch.nn.Module) -> Any:
            states.append({key: value.clone() for key, value in model.state_dict().items()})
            found = measure(model)
            return replace(found, metrics={**found.metrics, "accuracy": next(scripted)})

        return measured

    original = way._measurement
    monkeypatch.setattr(way, "_measurement", measurement)
    done = go(GIVEN)
    assert (done.objective, done.result["chosen_epoch"]) == (0.9, 2)
    weights = done.weights()
    assert all(torch.equal(weights[key], states[1][key]) for key in weights)
    assert not all(torch.equal(weights[key], states[2][key]) for key in weights)


def test_measuring_on_the_test_set_is_marked_and_never_chooses(
    go: Callable[..., Done], capsys: pytest.CaptureFixture[str]
) -> None:
    done = go(GIVEN, "data.validation=test")
    assert "measured each epoch" in done.result["note"]
    assert "test set was measured each epoch" in capsys.readouterr().out
    assert done.result["chosen_epoch"] == 3
    assert done.result["best_val_accuracy"] is None
    assert done.objective == done.result["test"]["accuracy"] == done.metrics["accuracy/test_each_epoch"][-1]


def test_without_validation_there_is_no_objective(go: Callable[..., Done]) -> None:
    done = go(GIVEN, "data.validation=none")
    assert done.objective is None
    assert done.result["best_val_accuracy"] is None
    assert done.result["chosen_epoch"] == 3
    assert "accuracy/test" in done.metrics


# The moving average of the weights


def averages(done: Done) -> dict[str, torch.Tensor]:
    with safe_open(done.paths.model_ema, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping


@pytest.mark.parametrize(
    ("validation", "name"), [("holdout", "val_ema"), ("test", "test_ema_each_epoch"), ("none", "")]
)
def test_the_average_is_measured_tested_and_saved_beside_the_weights_which_stay_as_they_are(
    validation: str, name: str, go: Callable[..., Done], capsys: pytest.CaptureFixture[str]
) -> None:
    plain = go(GIVEN, f"data.validation={validation}")
    capsys.readouterr()
    done = go(GIVEN, f"data.validation={validation}", "train.ema=0.9")
    printed = capsys.readouterr().out
    part = done.result["ema"]

    other = set(done.metrics) - set(plain.metrics)
    of_run = {f"{metric}/test_ema" for metric in ("loss", "accuracy", "ece")}
    of_run |= {"accuracy/best_val_ema"} if validation == "holdout" else set()
    each_epoch = {f"loss/{name}", f"accuracy/{name}"} if name else set()
    assert other == of_run | each_epoch
    assert all(len(done.metrics[key]) == 3 for key in each_epoch)
    assert all(done.metrics[key] == plain.metrics[key] for key in plain.metrics if not key.startswith("perf/"))
    assert done.objective == plain.objective
    assert done.paths.model.read_bytes() == plain.paths.model.read_bytes()
    assert not plain.paths.model_ema.exists() and "ema" not in plain.result

    assert done.metrics["accuracy/test_ema"] == [part["test"]["accuracy"]]
    if validation == "holdout":
        measured = done.metrics["accuracy/val_ema"]
        assert part["best_val_accuracy"] == max(measured) == measured[part["chosen_epoch"] - 1]
    else:
        assert (part["chosen_epoch"], part["best_val_accuracy"]) == (3, None)
    if validation == "test":
        assert done.metrics[f"accuracy/{name}"][-1] == part["test"]["accuracy"]
    (line,) = [line for line in printed.splitlines() if "EMA of weights" in line]
    assert f"{part['test']['accuracy']:.2%} test accuracy ({part['test']['correct']} of 355, 95% interval" in line
    assert line.endswith("; model_ema.safetensors")
    header = next(line for line in printed.splitlines() if line.split()[:2] == ["epoch", "train"])
    assert {"holdout": "val acc    ema acc ", "test": "test* acc   ema* acc ", "none": " "}[validation] in header
    assert ("ema" in header) == bool(name)
    assert "constant" in printed or "onecycle, EMA 0.9\n" in printed


def test_the_saved_average_is_the_one_that_was_tested_and_its_file_is_recorded(go: Callable[..., Done]) -> None:
    done = go(GIVEN, "train.ema=0.9")
    with safe_open(done.paths.model_ema, "pt") as file:
        said = json.loads(file.metadata()["resnet_exp"])
    assert said["ema"] == 0.9
    with safe_open(done.paths.model, "pt") as file:
        assert json.loads(file.metadata()["resnet_exp"]) == {key: said[key] for key in said if key != "ema"}
    model = CustomResNet(num_classes=10, in_channels=1, image_size=8, width=4).eval()
    model.load_state_dict(averages(done))
    test = build.plugins(config_of()).source.load(never).test  # type: ignore[arg-type]
    inputs = (torch.from_numpy(test.images).permute(0, 3, 1, 2).float() - said["mean"][0]) / said["std"][0]
    with torch.no_grad():
        correct = int((model(inputs).argmax(1).numpy() == test.labels).sum())
    assert correct == done.result["ema"]["test"]["correct"]
    recorded = [entry for entry in read(done.paths.journal) if entry.get("path") == "model_ema.safetensors"]
    assert [entry["sha256"] for entry in recorded] == [sha256_of(done.paths.model_ema)]


@pytest.mark.parametrize("where", ["the first epoch", "the middle of an epoch", "the test", "asked to stop later"])
def test_with_an_average_an_interrupted_run_goes_on_to_the_same_bits(where: str, go: Callable[..., Done]) -> None:
    options = GIVEN, "train.ema=0.9"
    straight = go(*options, "output_dir=straight")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_in(where, patch)
        with pytest.raises(KeyboardInterrupt):
            go(*options)
    resumed = go(*options)
    assert_same_numbers(straight, resumed)
    assert straight.paths.model_ema.read_bytes() == resumed.paths.model_ema.read_bytes()


def test_an_average_that_is_damaged_or_missing_is_made_again(go: Callable[..., Done]) -> None:
    done = go(GIVEN, "train.ema=0.9")
    before = done.paths.model_ema.read_bytes()
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(before[:-1])):
        damage(done.paths.model_ema)
        assert go(GIVEN, "train.ema=0.9") == done
        assert done.paths.model_ema.read_bytes() == before


def test_a_range_test_keeps_no_average_and_is_shared_with_runs_that_have_one(
    go: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    learners = []
    original = way.Learner
    monkeypatch.setattr(way, "Learner", lambda *args: learners.append(original(*args)) or learners[-1])
    go("task=range_test", "train.ema=0.9")
    assert learners and all(learner.ema is None for learner in learners)
    with monkeypatch.context() as patch:
        patch.setattr(finding, "range_test", never)
        go("train.epochs=1", "scheduler.peak_epoch=1", "scheduler.find_factor=1", "train.ema=0.99")
    assert learners[-1].ema is not None


def test_more_images_are_never_asked_for_than_there_are(go: Callable[..., Done]) -> None:
    for override in ("train.batch_size=300", "data.limit_train=2000", "data.holdout=200"):
        with pytest.raises(ConfigError, match=override):
            go(GIVEN, override)


# The range test


def test_a_range_test_alone_stops_after_it(go: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way, "_train", never)
    done = go("task=range_test", DRAWN)
    assert done.objective == done.result["suggestion"] == done.metrics["range_test/suggestion"][0]
    assert "range_test/max_lr" not in done.metrics, "that is a schedule's"
    assert done.paths.root.name.startswith("digits-custom_resnet-onecycle-range_test-")
    assert (done.paths.report / "range_test.png").stat().st_size > 1000
    assert not done.paths.model.exists()


def test_a_range_test_is_remembered_by_runs_that_share_all_that_determines_it(
    go: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = go("task=range_test")
    with monkeypatch.context() as patch:
        patch.setattr(finding, "range_test", never)
        second = go("name=other", "scheduler.peak_epoch=2", "train.epochs=2", "scheduler.find_factor=3", DRAWN)
    assert "LR range test (cached)" in capsys.readouterr().out
    assert first.objective is not None
    assert second.result["max_lr"] == second.metrics["range_test/max_lr"][0] == 3 * first.objective
    assert second.result["max_lr_source"].endswith(f", 3 x {first.objective:.4g}")
    saved = [json.loads(one.paths.range_test.read_text()) for one in (first, second)]
    assert not saved[0]["remembered"]
    assert saved[1] == {**saved[0], "remembered": True}
    assert (second.paths.report / "range_test.png").exists()


@pytest.mark.parametrize("override", ["train.batch_size=40", "optimizer.momentum=0.8", "seed=1", "model.width=3"])
def test_a_range_test_is_made_anew_where_its_curves_would_differ(override: str, go: Callable[..., Done]) -> None:
    go("task=range_test")
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        original = finding.range_test
        patch.setattr(finding, "range_test", lambda *args: calls.append(args) or original(*args))
        with suppress(RunError):  # what it finds is not the point
            go("task=range_test", override)
    assert calls


@pytest.mark.parametrize(
    ("overrides", "factor"),
    [
        ((), 8.0),
        (("optimizer=adam",), 1.0),  # measured: what SGD bears as a multiple loses Adam
        (("optimizer=adam", "scheduler.find_factor=2"), 2.0),
    ],
    ids=str,
)
def test_a_schedule_takes_its_multiple_of_the_suggestion(
    overrides: tuple[str, ...], factor: float, go: Callable[..., Done], capsys: pytest.CaptureFixture[str]
) -> None:
    done = go("train.epochs=1", "train.batch_size=64", *overrides)
    suggestion = done.metrics["range_test/suggestion"][0]
    assert done.result["max_lr"] == pytest.approx(factor * suggestion, rel=1e-15)
    assert f"{factor:g} times the suggestion" in capsys.readouterr().out


@pytest.mark.parametrize(("layer", "factor"), [(torch.nn.BatchNorm1d(2), 8.0), (torch.nn.LayerNorm(2), 1.0)])
def test_only_a_network_with_batch_normalisation_takes_the_multiple(
    layer: torch.nn.Module, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured: 8 times the suggestion, or 4 times, a network without it is lost."""
    monkeypatch.setattr(build, "model", lambda *_: torch.nn.Sequential(torch.nn.Linear(2, 2), layer))
    plugins = SimpleNamespace(scheduler=OneCycle(), optimizer=sgd())
    assert finding.find_factor(None, plugins, SimpleNamespace(info=None)) == factor


@pytest.mark.parametrize(
    ("overrides", "factor"),
    [
        ((), (4 * 3 / 10) ** 0.3),  # 4 epochs of 3 steps, miniatures of 10: the longer a run, the more it bears
        (("train.epochs=2", "scheduler.peak_epoch=1"), 1.0),  # shorter than a miniature
        (("optimizer=adam",), 1.0),
        (("scheduler=constant",), 0.6),
        (("scheduler.find_factor=2",), 2.0),
    ],
    ids=str,
)
def test_with_miniatures_max_lr_grows_with_the_length_of_the_run(
    overrides: tuple[str, ...], factor: float, go: Callable[..., Done], capsys: pytest.CaptureFixture[str]
) -> None:
    done = go("range_test=miniatures", "range_test.num_steps=10", "train.epochs=4", "train.batch_size=64", *overrides)
    suggestion = done.metrics["range_test/suggestion"][0]
    assert done.result["max_lr"] == pytest.approx(factor * suggestion, rel=1e-12)
    out = capsys.readouterr().out
    assert "max_lr by miniature runs" in out and " at 0.02" in out


def test_miniatures_are_shared_by_runs_of_other_schedules_and_lengths(
    go: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mini = ("range_test=miniatures", "range_test.num_steps=10")
    first = go("task=range_test", *mini)
    monkeypatch.setattr(finding, "range_test", never)
    second = go("name=other", "scheduler.peak_epoch=2", "train.epochs=2", *mini)
    assert "max_lr by miniature runs (cached)" in capsys.readouterr().out
    assert second.metrics["range_test/suggestion"][0] == first.objective
    with pytest.raises(AssertionError):  # a sweep of rising LRs is another range test
        go("task=range_test")


def test_miniatures_that_all_failed_name_the_settings_to_change(
    go: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(miniatures, "CHANCE_MARGIN", 1.0)  # nothing beats that
    with pytest.raises(
        RunError, match=r"no run of 40 steps beats guessing.*range_test\.first_lr or range_test\.num_steps"
    ):
        go("range_test=miniatures", "range_test.num_steps=10")


def test_the_settings_of_another_rule_are_refused(go: Callable[..., Done]) -> None:
    with pytest.raises(
        ConfigError, match=r"range_test\.rule=miniatures takes no range_test\.end_lr: choose range_test=mini"
    ):
        go("range_test.rule=miniatures")
    with pytest.raises(ConfigError, match=r"range_test\.rule=valley: one of minimum, miniatures is needed"):
        go("range_test.rule=valley")
    with pytest.raises(ConfigError, match=r"range_test\.num_steps=5"):
        go("range_test=miniatures", "range_test.num_steps=5")


def test_a_range_test_is_made_anew_on_other_pixels_of_the_same_name(
    go: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The identity of a data set of one's own may miss a change; the range test was made on pixels."""
    first = go("task=range_test")
    monkeypatch.setattr(Digits, "load", darkened(Digits.load))
    capsys.readouterr()
    second = go("task=range_test", "name=other")
    assert "(cached)" not in capsys.readouterr().out
    assert second.paths.range_test.read_text() != first.paths.range_test.read_text()


def test_a_failed_range_test_is_made_anew_once_what_determines_it_has_changed(
    go: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's own file is no reason to fail again."""
    original = finding.range_test

    def failing(*args: Any) -> Any:
        found = original(*args)
        return replace(found, verdict=replace(found.verdict, status="failed", suggestion=None))

    with monkeypatch.context() as patch:
        patch.setattr(finding, "range_test", failing)
        with pytest.raises(RunError, match="the LR range test failed"):
            go()
    for cached in Path("runs", "range_tests").glob("*.json"):  # as where the code was mended: another name then
        cached.unlink()
    assert go().result["max_lr_source"].startswith("range test: ")


def test_training_after_a_range_test_is_training_at_its_max_lr_bit_for_bit(go: Callable[..., Done]) -> None:
    """The range test hands on a number and leaves no other trace: no weights, no statistics, no random state."""
    found = go()
    given = go(f"scheduler.max_lr={found.result['max_lr']!r}")
    assert found.paths != given.paths
    assert given.result["max_lr_source"] == "given"
    assert not given.metrics.keys() & {"range_test/max_lr", "range_test/suggestion"}
    assert not given.paths.range_test.exists()
    for done in (found, given):
        done.paths.result.write_text(json.dumps(done.result | {"max_lr_source": None}))
    assert_same_numbers(found, given)


def test_a_failed_range_test_ends_the_run_and_shows_why(
    go: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way, "_train", never)
    with pytest.raises(RunError, match=r"the LR range test failed: .*Set scheduler\.max_lr to a number"):
        go("range_test.start_lr=1e3", "range_test.end_lr=1e6")
    paths = newest(Path("runs"))
    assert last_status(paths.journal) == "FAILED"
    assert json.loads(paths.range_test.read_text())["verdict"]["status"] == "failed"
    assert (paths.report / "range_test.png").exists()
    assert not paths.result.exists()
    assert "range_test/max_lr" not in metric_history(paths.journal)


# Failing


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step(go: Callable[..., Done]) -> None:
    """What came before stays; the same command goes on from there, and here the fault does not come back."""
    original = way.shuffled

    def poisoned(*args: Any, first: int) -> Iterator[Batch]:
        for number, batch in enumerate(original(*args, first=first), first):
            yield replace(batch, images=batch.images * math.nan) if args[-1] == 2 and number == 1 else batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(way, "shuffled", poisoned)
        with pytest.raises(
            RunError, match="the loss of step 7 is not finite"
        ):  # 6 steps an epoch, the second of epoch 2
            go(GIVEN)
    paths = newest(Path("runs"))
    status = [record for record in read(paths.journal) if record["kind"] == "status"][-1]
    assert status["status"] == "FAILED"
    assert "step 7" in status["reason"]
    assert [path.name[:11] for path in paths.checkpoints.glob("*.pt")] == ["epoch-00001"]
    assert not paths.result.exists()
    assert_same_numbers(go("output_dir=straight", GIVEN), go(GIVEN))


def test_a_validation_loss_that_is_not_finite_costs_no_run(go: Callable[..., Done]) -> None:
    """It stands as null in result.json, which is JSON; the journal has its name."""
    original, calls = way.evaluate, itertools.count()

    def broken(*args: Any) -> Evaluation:
        found = original(*args)
        return replace(found, metrics={**found.metrics, "loss": math.nan}) if next(calls) == 0 else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(way, "evaluate", broken)
        done = go(GIVEN)
    history = json.loads(done.paths.result.read_text())["history"]
    assert history[0]["loss/val"] is None
    assert history[1]["loss/val"] > 0
    assert go(GIVEN).objective == done.objective


def test_a_run_does_not_go_on_with_other_images(go: Callable[..., Done], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(way, "_train", never)
        with pytest.raises(AssertionError):
            go(GIVEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "load", darkened(Digits.load))
        with pytest.raises(RunError, match="train, test, val images are not those this run started with"):
            go(GIVEN)
    assert go(GIVEN).objective is not None


def test_a_run_that_gets_no_data_leaves_no_page_in_mlflow(go: Callable[..., Done]) -> None:
    def gone(*_: Any) -> LoadedData:
        raise RunError("the images are gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "load", gone)
        with pytest.raises(RunError, match="the images are gone"):
            go(GIVEN, "tracker=mlflow", "tracker.uri=sqlite:///m.db")
    assert last_status(newest(Path("runs")).journal) == "FAILED"
    assert not Path("m.db").exists()


def test_what_has_changed_since_a_run_started_is_printed(
    go: Callable[..., Done], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(open_run, "environment_of", lambda *args: {**environment_of(*args), "code_digest": "other"})
        go(GIVEN)
        go(GIVEN)
    assert "since this run started" not in capsys.readouterr().out
    go(GIVEN)
    assert "since this run started: code other ->" in capsys.readouterr().out


def test_an_interruption_while_the_tracker_starts_is_recorded(go: Callable[..., Done]) -> None:
    class Interrupted(Mirror):
        def begin(self) -> None:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resnet_exp.tracking.none.NoTracker.open", lambda *_: Interrupted())
        with pytest.raises(KeyboardInterrupt):
            go(GIVEN)
    assert last_status(newest(Path("runs")).journal) == "KILLED"


@pytest.mark.parametrize("override", ["model.width=0", "data.image_size=12", "scheduler.max_lr=-1"])
def test_what_a_plugin_refuses_begins_no_run(override: str, go: Callable[..., Done]) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        go(override)
    assert not Path("runs").exists()


def test_a_min_lr_above_the_found_max_lr_is_told_with_both(go: Callable[..., Done]) -> None:
    with pytest.raises(RunError, match=r"found by the range test, .*: scheduler\.min_lr=5: a number below max_lr="):
        go("scheduler.min_lr=5")


def test_a_last_batch_of_one_image_is_refused_with_what_to_take(go: Callable[..., Done]) -> None:
    with pytest.raises(ConfigError, match=r"last batch of one image.*take \d+ or \d+"):
        go(GIVEN, "train.batch_size=179")  # of 180


def test_an_absurd_lr_fails_before_anything_is_kept(go: Callable[..., Done]) -> None:
    with pytest.raises(RunError, match="is not finite"):
        go("scheduler.max_lr=1e30")
    paths = newest(Path("runs"))
    assert last_status(paths.journal) == "FAILED"
    assert not list(paths.checkpoints.glob("*"))


def test_a_missing_plugin_argument_leaves_no_run_directory(go: Callable[..., Done]) -> None:
    with pytest.raises(ConfigError):
        go("+model.depth=3")
    assert not Path("runs").exists()


# Other data


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of the user's own: dark and bright PNGs, ten of each to train on and three to test."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 3)):
        for label, level in (("bright", 200), ("dark", 50)):
            folder = tmp_path / "pictures" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.normal(level, 20, (20, 24, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "pictures"


def test_a_run_on_ones_own_images(go: Callable[..., Done], pictures: Path) -> None:
    own = ("data=image_folder", "data.image_size=16", "data.workers=1", "data.limit_train=null", "train.batch_size=6")
    done = go(*own, f"data.root={pictures}", GIVEN, "train.epochs=4")
    assert list(done.result["per_class"]) == ["bright", "dark"]
    assert done.result["test"]["count"] == 6
    assert done.result["test"]["accuracy"] == 1.0
    moved = pictures.rename(pictures.with_name("moved"))
    assert go(*own, f"data.root={moved}", GIVEN, "train.epochs=4") == done, "the data are known by what they hold"


# MLflow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def mirrored(paths: RunPaths, store: str):
    """The MLflow run of a run directory, and a client to ask for more."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    return client.get_run(json.loads((paths.root / "mlflow.json").read_text())["run_id"]), client


def test_mlflow_shows_what_the_journal_says(go: Callable[..., Done], store: str) -> None:
    done = go("tracker=mlflow", f"tracker.uri={store}", DRAWN)
    shown, client = mirrored(done.paths, store)
    assert shown.info.status == "FINISHED"
    assert shown.info.run_name == done.paths.root.name

    history = metric_history(done.paths.journal)
    assert history.keys() == EACH_EPOCH | ONCE | {"loss/val", "accuracy/val"}
    assert shown.data.metrics.keys() == history.keys()
    for key, points in history.items():
        metric = client.get_metric_history(shown.info.run_id, key)
        assert sorted((point.step, point.value, point.timestamp) for point in metric) == points
        assert [step for step, _, _ in points] == ([0] if key in ONCE else [1, 2, 3])
    assert shown.data.metrics["accuracy/test"] == done.result["test"]["accuracy"]

    tree = config_of("tracker=mlflow", f"tracker.uri={store}").tree
    settings = {key: str(value) for key, value in flat(tree).items() if not key.startswith(("report.", "sweep."))}
    assert shown.data.params == settings, "what is drawn of a run, or runs beside it, says nothing of it"

    tags = shown.data.tags
    assert tags["max_lr_source"] == done.result["max_lr_source"]
    assert tags["command"].startswith("python -m resnet_exp ")
    assert tags["device"].startswith("CPU")
    assert tags["git_dirty"] in ("True", "False", "None")
    assert len(tags["git_commit"]) in (len("None"), 40)
    first, *_, last = tags["mlflow.note.content"].splitlines()
    assert "test accuracy" in first
    assert tags["command"] in last

    inputs = {item.dataset.name: item for item in shown.inputs.dataset_inputs}
    assert inputs.keys() == {"digits-train", "digits-val", "digits-test"}
    assert len({item.dataset.digest for item in inputs.values()}) == 3

    files = {file.path for file in client.list_artifacts(shown.info.run_id)}
    assert files >= {
        "config.yaml", "environment.json", "range_test.json", "predictions.npz", "confusion_matrix.json",
        "model.safetensors", "result.json", "report",
    }  # fmt: skip
    images = {file.path for file in client.list_artifacts(shown.info.run_id, "report")}
    assert "report/range_test.png" in images

    network = load_network(store, shown.info.run_id)
    model = CustomResNet(num_classes=10, in_channels=1, image_size=8, width=4).eval()
    model.load_state_dict(done.weights())
    inputs_of_five = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(network(inputs_of_five), model(inputs_of_five), atol=1e-6)


def load_network(store: str, run_id: str) -> torch.nn.Module:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store)
    try:
        return mlflow.pytorch.load_model(f"runs:/{run_id}/model")
    finally:
        mlflow.set_tracking_uri(before)


def test_mlflow_shows_a_failure_with_its_reason(go: Callable[..., Done], store: str) -> None:
    with pytest.raises(RunError):
        go("tracker=mlflow", f"tracker.uri={store}", "scheduler.max_lr=1e30")
    shown, _ = mirrored(newest(Path("runs")), store)
    assert shown.info.status == "FAILED"
    assert any("is not finite" in value for value in shown.data.tags.values())


def test_mlflow_shows_an_interruption_and_then_the_one_finished_run(
    go: Callable[..., Done], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training that goes on ends in the same MLflow run, with one point a step."""
    tracked = ("tracker=mlflow", f"tracker.uri={store}", GIVEN)
    with monkeypatch.context() as patch:
        interrupt_in("a measurement", patch)
        with pytest.raises(KeyboardInterrupt):
            go(*tracked)
    before, _ = mirrored(newest(Path("runs")), store)
    assert before.info.status == "KILLED"
    monkeypatch.setattr(
        "resnet_exp.tracking.mlflow.MlflowMirror.export_model", lambda *_: None
    )  # seconds, and tested above
    after, client = mirrored(go(*tracked).paths, store)
    assert (after.info.status, after.info.run_id) == ("FINISHED", before.info.run_id)
    points = client.get_metric_history(after.info.run_id, "loss/val")
    assert [point.step for point in points] == [1, 2, 3]


def test_a_tracker_that_cannot_be_reached_costs_no_run(
    go: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resnet_exp.tracking.mlflow.MlflowMirror.export_model", lambda *_: None)
    Path("broken.db").write_bytes(b"SQLite format 3\0 and nothing that could be read")
    done = go("tracker=mlflow", "tracker.uri=sqlite:///broken.db", GIVEN)
    assert done.result["objective"] is not None
    assert "the same command again completes it" in capsys.readouterr().out


@pytest.mark.slow
def test_sigterm_ends_a_run_that_says_how_to_go_on(tmp_path: Path) -> None:
    arguments = [argument for argument in TINY if not argument.startswith("range_test.")]  # it would be ignored
    arguments += [GIVEN, "train.epochs=100000", "train.checkpoint_interval=30"]
    process = subprocess.Popen(
        [sys.executable, "-m", "resnet_exp", *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 200
        while not any("loss/val" in path.read_text() for path in tmp_path.glob("runs/*/journal.jsonl")):
            assert time.monotonic() < deadline, "no epoch was done"
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    assert "error: interrupted by SIGTERM; the same command goes on" in said
    assert "Traceback" not in said
    assert last_status(newest(tmp_path / "runs").journal) == "KILLED"


def test_the_least_lr_of_a_result_is_the_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule that only falls starts at max_lr: its min_lr comes later."""
    monkeypatch.chdir(tmp_path)
    tiny = [text for text in TINY if "peak_epoch" not in text and "range_test" not in text]
    overrides = [*tiny, "scheduler=multistep", "scheduler.milestones=[1]", "scheduler.max_lr=0.05"]
    with initialize_config_dir(str(CONF)):
        config = typed(compose("config", overrides=overrides), overrides)
    way.run(config, "command")
    result = json.loads(newest(Path("runs")).result.read_text())
    assert (result["max_lr"], result["min_lr"]) == (0.05, pytest.approx(0.005))


# Names of any bytes


def test_a_table_with_a_name_that_is_not_utf_8_has_a_mark_in_its_json(tmp_path: Path) -> None:
    """Trackers and pages take no such bytes; the CSV keeps them."""
    table = write_csv(tmp_path / "classes.csv", ("class", "correct"), [("caf\udce9", 3), ("数据", 4)])
    assert b"caf\xe9" in table.read_bytes()
    shown = json.loads(outputs._as_json(table).read_text())
    assert shown["data"] == [["caf\N{REPLACEMENT CHARACTER}", "3"], ["数据", "4"]]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict", "latin-1"])
def test_what_a_terminal_cannot_show_is_printed_with_marks(encoding: str) -> None:
    lines = (
        "from resnet_exp.runs.console import Console\n"
        "console = Console(); console.facts({'class': 'caf\\udce9 数'}); print('\\udce9')"
    )
    done = subprocess.run(
        [sys.executable, "-c", lines], env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"caf? " in done.stdout


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_files_of_a_finished_run_are_made_again_from_its_checkpoint(
    go: Callable[..., Done], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    done = go(GIVEN)
    logits, result = done.logits(), done.result
    names = ("config.yaml", "environment.json", "predictions.npz", "model.safetensors", "steps.csv", "result.json")
    for name in names:
        flip(done.paths.root / name)
    again = go(GIVEN)
    told = capsys.readouterr().out
    assert all(f"{done.paths.root / name} is damaged" in told for name in names)
    assert again.paths == done.paths
    assert untimed(again.result) == untimed(result)
    assert np.array_equal(again.logits(), logits)
    go(GIVEN)
    assert "is finished already" in capsys.readouterr().out


def test_a_damaged_file_that_cannot_be_made_again_is_named(go: Callable[..., Done]) -> None:
    done = go(GIVEN)
    flip(done.paths.model)
    shutil.rmtree(done.paths.checkpoints)
    with pytest.raises(RunError, match=r"model\.safetensors is damaged .*no checkpoint .*rerun=true"):
        go(GIVEN)
    assert go(GIVEN, "rerun=true").paths.root.name == f"{done.paths.root.name}-2"


def test_a_damaged_journal_is_named_and_stops_no_run_beside_it(go: Callable[..., Done]) -> None:
    done = go(GIVEN)
    flip(done.paths.journal)
    with pytest.raises(RunError, match=r"journal\.jsonl: line \d+, .* is damaged .*rerun=true"):
        go(GIVEN)
    beside = go(GIVEN, "rerun=true")
    assert beside.paths.root.name == f"{done.paths.root.name}-2"
    done.paths.journal.rename(done.paths.root / "journal.damaged")  # the other way on
    assert_same_numbers(go(GIVEN), beside)


def test_epochs_that_the_journal_lacks_are_recorded_again(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    history = [Epoch(epoch, {"loss/train": 1 / epoch, "accuracy/train": 0.5}) for epoch in (1, 2)]
    with Journal(paths.journal) as journal:
        journal.metrics({"loss/train": 1.0}, 1)
        journal.metrics({"loss/train": 0.3}, 3)
        record = Record(paths, journal, Mirror())
        record._is_new = False
        record.goes_on_after(2, history)
        written = paths.journal.read_bytes().count(b"metrics")
        record.goes_on_after(2, history)
    found = {name: [point[:2] for point in points] for name, points in metric_history(paths.journal).items()}
    assert found == {"loss/train": [(1, 1.0), (2, 0.5)], "accuracy/train": [(1, 0.5), (2, 0.5)]}
    assert paths.journal.read_bytes().count(b"metrics") == written
