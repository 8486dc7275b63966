"""R1: runs killed at random moments and at named points end as the same run left alone, to the bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from resnet_exp.run_dir.journal import last_status

from ..points import calling
from ..trials import TINY, Command, Row, differences, reference, run_directory, start

_PLUGINS = f"plugins={Path(__file__).parents[1] / 'plugins'}"
_EACH_EPOCH = "train.checkpoint_interval=0"
# What a killed run must find again differs with these: optimizer state, momentum, parts of batches, random layers,
# mixed images, no best epoch, no validation, a moving average, a range test before, a report and a tracker after.
OPTIONS = {
    "plain": (_EACH_EPOCH, "train.epochs=4"),
    "rarely saved": ("train.epochs=3", "train.ema=0.9"),
    "cycled and clipped": (_EACH_EPOCH, "scheduler.cycle_momentum=true", "train.clip_grad_norm=0.5"),
    "adamw in parts": (
        *(_EACH_EPOCH, "optimizer=adamw", "scheduler.max_lr=0.002", "train.grad_accum_steps=2"),
        *("train.label_smoothing=0.1", "train.ema=0.999"),
    ),
    "cutmix, test": (_EACH_EPOCH, "augmentation=crop_flip_cutmix", "data.validation=test", "train.ema=0.9"),
    "dropout, none": (
        *("train.checkpoint_interval=0.05", "model=dropout_net", _PLUGINS, "data.validation=none"),
        "train.ema=0.9",
    ),
    "range test": (
        *(_EACH_EPOCH, "scheduler.max_lr=find", "range_test.repeats=2", "range_test.num_steps=60"),
        *("train.batch_size=32", "model.width=8"),
    ),
    "miniatures": (
        *(_EACH_EPOCH, "scheduler.max_lr=find", "range_test=miniatures", "range_test.num_steps=20"),
        *("train.batch_size=32", "model.width=8"),
    ),
    "report": (_EACH_EPOCH, "report=default", "report.gradcam=0", "tracker=csv", "optimizer=rmsprop"),
}
# Functions by the stage that they belong to, how often a run of two epochs calls them at least, and the options.
POINTS = {
    "before the range test": ("resnet_exp.runs.max_lr.range_test", 1, "range test"),
    "a repeat of the range test": ("resnet_exp.training.short_runs.ShortRuns.run", 2, "range test"),
    "a miniature": ("resnet_exp.training.short_runs.ShortRuns.run", 3, "miniatures"),
    "a step of the range test": ("resnet_exp.training.learner.Learner._step", 20, "range test"),
    "the range test stored": ("resnet_exp.run_dir.range_test_cache.CacheEntry.store", 1, "range test"),
    "the range test recorded": ("resnet_exp.runs.outputs.save_range_test", 1, "range test"),
    "a forward pass": ("resnet_exp.training.learner.Learner._backward", 8, "adamw in parts"),
    "an update": ("resnet_exp.training.learner.Learner._update", 8, "cycled and clipped"),
    "a step": ("resnet_exp.training.learner.Learner._step", 8, "dropout, none"),
    "an update of the average": ("resnet_exp.training.ema.Ema.update", 8, "dropout, none"),
    "the check of an epoch": ("resnet_exp.training.learner.Learner.check", 2, "plain"),
    "a checkpoint serialised": ("torch.save", 2, "plain"),
    "a checkpoint saved": ("resnet_exp.run_dir.checkpoint.Checkpoints.save", 2, "plain"),
    "a file's content on the disk": ("os.fsync", 10, "plain"),
    "a file renamed": ("pathlib.Path.replace", 6, "plain"),
    "a file deleted": ("pathlib.Path.unlink", 1, "plain"),
    "a line of the journal": ("resnet_exp.run_dir.journal.Journal._append", 15, "cutmix, test"),
    "a measurement": ("resnet_exp.training.learner._infer", 3, "plain"),
    "a measurement of the average": ("resnet_exp.training.train._measured", 3, "rarely saved"),
    "the test": ("resnet_exp.runs.run._test", 1, "plain"),
    "the test of the average": ("resnet_exp.runs.run._test_ema", 1, "adamw in parts"),
    "the steps written": ("resnet_exp.runs.outputs.save_steps", 1, "plain"),
    "the predictions written": ("resnet_exp.runs.outputs.save_predictions", 1, "plain"),
    "the model written": ("resnet_exp.runs.outputs.save_model", 1, "plain"),
    "the average written": ("resnet_exp.runs.outputs.save_model", 2, "rarely saved"),
    "the result": ("resnet_exp.runs.record.Record.finish", 1, "plain"),
    "the report": ("resnet_exp.runs.outputs.save_report", 1, "report"),
    "a section of the report": ("resnet_exp.report.section.drawn", 2, "report"),
    "the page": ("resnet_exp.report.html.write_html", 1, "report"),
}
_RUNS, _PUBLIC = 50, 10  # with two random kills each; so many of them through the public command


def _random_kills(number: int, folder: Path, public: bool) -> None:
    """Two kills, each at a random moment, then the run goes on to its end."""
    drawn = random.Random(number)
    arguments = (*TINY, *list(OPTIONS.values())[number % len(OPTIONS)])
    alone = reference(*arguments)
    for _ in range(2):
        _kill(arguments, _seconds(alone), drawn, folder, public)
    _end(arguments, folder, alone, public)


def _kill(arguments: tuple[str, ...], seconds: float, drawn: random.Random, folder: Path, public: bool) -> None:
    """Kills the run at a random moment of what is left of it; where it was over before that, it is done again."""
    outputs, before = folder / "outputs", folder / "before"
    if outputs.exists():
        shutil.copytree(outputs, before)
    for _ in range(8):
        command = start(*arguments, public=public)
        if public:
            command.wait_for(lambda run=command: bool(run.output))  # type: ignore[misc]  # the imports are done
        seconds *= _killed_share(command, drawn.uniform(0, seconds))
        if command.returncode == -signal.SIGKILL and (not outputs.exists() or not _finished(folder)):
            shutil.rmtree(before, ignore_errors=True)
            return
        shutil.rmtree(outputs)
        if before.exists():
            shutil.copytree(before, outputs)
    raise AssertionError("the run was never killed in time")


def _killed_share(command: Command, delay: float) -> float:
    """Kills the command after a delay; returns by how much a next try must be earlier."""
    try:
        command.wait(delay)
    except AssertionError:  # it still runs
        command.send(signal.SIGKILL)
        command.wait()
        return 1.0
    assert command.returncode == 0, command.output
    return 0.6


def _named_point(number: int, folder: Path) -> None:
    """A kill where a named function is called, or returns, for the n-th time; twice where it is reached again."""
    drawn = random.Random(number)
    target, calls, options = list(POINTS.values())[number % len(POINTS)]
    arguments = (*TINY, *OPTIONS[options])
    alone = reference(*arguments)
    killed = calling(target, drawn.randint(1, calls), _kill_self, after=drawn.random() < 0.5)
    command = start(*arguments, before=killed)
    assert command.wait() == -signal.SIGKILL, f"{target} was not reached:\n{command.output}"
    start(*arguments, before=killed).wait()
    _end(arguments, folder, alone, False)


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _end(arguments: tuple[str, ...], folder: Path, alone: Path, public: bool) -> None:
    command = start(*arguments, public=public)
    assert command.wait() == 0, command.output
    found = differences(run_directory(folder), alone)
    assert not found, f"{arguments}: {found}"


def _finished(folder: Path) -> bool:
    return any(last_status(path) == "FINISHED" for path in folder.glob("outputs/*/journal.jsonl"))


def _seconds(alone: Path) -> float:
    return float(json.loads((alone / "result.json").read_text())["seconds"])


def _cases() -> list[Callable[[int, Path], None]]:
    """Every kind of trial in a fixed order, mixed, so that the first few have some of each."""
    kinds: list[Callable[[int, Path], None]] = []
    for number in range(max(_RUNS, len(POINTS))):
        if number < len(POINTS):
            kinds.append(lambda _, folder, n=number: _named_point(n, folder))
        if number < _RUNS:
            kinds.append(lambda _, folder, n=number: _random_kills(n, folder, n % (_RUNS // _PUBLIC) == 0))
    return kinds


_CASES = _cases()


def _trial(number: int, folder: Path) -> None:
    _CASES[number](number, folder)


ROWS = (
    Row(
        "R1",
        f"SIGKILL: {2 * _RUNS} random moments over {_RUNS} runs, {_PUBLIC} of them through the public command; "
        f"{len(POINTS)} named points of range test, step, save, evaluation, report",
        "weights, their moving average, optimizer, scheduler, scaler, best, steps and every recorded loss equal those "
        "of the run left alone, bit for bit",
        full=len(_CASES),
        ci=8,
        trial=_trial,
    ),
)
