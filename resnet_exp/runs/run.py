"""A training run from top to bottom, in the order in which things happen: the file to read first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from torch import nn

from resnet_exp.config import build
from resnet_exp.config.config import Config
from resnet_exp.config.validation import VALIDATION
from resnet_exp.data import randomness
from resnet_exp.data.bank import Batch, in_order, num_batches, shuffled
from resnet_exp.data.memory import memory_told
from resnet_exp.data.prepare import Data, prepare, resident
from resnet_exp.data.split import check_fit, part_of_one
from resnet_exp.interfaces import ConfigError, DatasetInfo, Metric, RunError, Schedule
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.run_dir.signature import signature
from resnet_exp.runs import messages, outputs
from resnet_exp.runs.beside import unfinished_beside
from resnet_exp.runs.console import Console
from resnet_exp.runs.hooks import ALONE, SweepPart
from resnet_exp.runs.max_lr import find_max_lr
from resnet_exp.runs.open_run import OpenRun, open_run
from resnet_exp.runs.signals import deferred, should_stop, stop
from resnet_exp.runs.verified import verified_signature
from resnet_exp.training import result
from resnet_exp.training.device import Runtime, start_runtime
from resnet_exp.training.ema import holding
from resnet_exp.training.evaluate import Evaluation, check_finite, evaluate
from resnet_exp.training.keeping import Keeping
from resnet_exp.training.learner import Learner, check_momentum, infer
from resnet_exp.training.lr_range import FoundLR
from resnet_exp.training.metrics import metrics_for
from resnet_exp.training.train import Chosen, Epoch, Training, resume, train
from resnet_exp.training.trial import try_network

_tried: set[str] = set()  # what determines each network that has passed its trial: jobs of a sweep often share one


def run(config: Config, command: str, part: SweepPart = ALONE) -> float | None:
    """Runs the config, or what is left of an unfinished run; returns the objective, by which a sweep compares runs.

    The objective is the best validation accuracy; with `data.validation=test` the last epoch's test accuracy; with
    `none` it is None, since only the test set is measured, which should not choose. For `task=range_test` it is the
    suggested LR.

    Raises:
        ConfigError: a setting that cannot work; nothing was computed.
        Pruned: its sweep stopped it.
        RunError: the run cannot go on; what it has done is saved, and the same command goes on from there.
    """
    started = time.monotonic()
    console = Console()
    plugins = build.plugins(config)
    runtime = start_runtime(config.device, config.train.precision, config.train.deterministic, part.gpu)
    metrics = _check(config, plugins, runtime)
    run_signature = verified_signature(
        config, plugins.source, lambda identity: signature(config, identity, runtime.precision), console
    )
    with open_run(
        config, run_signature, runtime, metrics, plugins.tracker, command, console, started=started, part=part
    ) as this:
        if this.is_finished:
            return this.objective
        messages.print_plan(config, runtime, this.directory, console)
        if part is ALONE:
            beside = unfinished_beside(config, plugins.source, this.directory.paths, this.environment)
            messages.print_beside(beside, console)
        data = _prepare(this, plugins)
        this.record.mirror()
        found = find_max_lr(this, plugins, data, partial(_learner, this, plugins, data, ema=None))
        _record_range_test(this, found)
        if config.task == "range_test" and found.range_test:
            this.finish(result.of_range_test(config, found.range_test), data, None, plugins.augmentation)
            return this.objective
        schedule = _schedule(this, plugins, data, found)
        learner = _learner(this, plugins, data, schedule, config.train.ema)
        training = _train(this, plugins, data, learner, run_signature)
        tested = _test(this, data, learner.model)
        outputs.save_model(config, data, learner.model, this.record, export=part.export_model)
        tested_ema = _test_ema(this, data, learner.model, training.ema)
        outcome = result.of_training(config, data.info, found, schedule, training, tested, tested_ema, data.note)
        this.finish(outcome, data, learner.model, plugins.augmentation)
        return this.objective


def _check(config: Config, plugins: build.Plugins, runtime: Runtime) -> tuple[Metric, ...]:
    """Checks the settings that depend on plug-ins, device or data, before a run starts; returns the run's metrics.

    Raises:
        ConfigError: a setting does not fit the others.
    """
    check_momentum(bool(config.plugins["scheduler"].get("cycle_momentum")), runtime)
    size = plugins.source.size()
    images = check_fit(size, config.split, config.train.batch_size)
    if config.task == "train":
        plugins.scheduler.check(config.train.epochs, num_batches(images, config.train.batch_size))
        outputs.check_report(config.report, lambda: build.model(config, build.expected(plugins)))
    _try_network(config, plugins, build.expected(plugins), runtime, images)
    return metrics_for(size.num_classes, build.metrics(config), runtime.device)


def _try_network(config: Config, plugins: build.Plugins, info: DatasetInfo, runtime: Runtime, images: int) -> None:
    """Raises ConfigError where the network cannot be trained on parts of so many images, saved and loaded."""
    one_image = part_of_one(images, config.train.batch_size, config.train.grad_accum_steps)
    settings = config.plugins["model"], config.plugins["optimizer"]
    key = repr((settings, config.plugin_folders, info, config.train, runtime, one_image))
    if key in _tried:
        return
    with memory_told("making the model and its optimizer", "choose a smaller model"):
        try_network(lambda: build.model(config, info), plugins.optimizer, info, config.train, runtime, one_image)
    _tried.add(key)


def _prepare(this: OpenRun, plugins: build.Plugins) -> Data:
    """Returns the data, split and on the device, and records them."""
    config = this.config
    prepared = prepare if this.part is ALONE else resident  # the jobs of a sweep share the images
    data = prepared(
        plugins.source,
        config.short_names["data"],
        config.split,
        seed=config.seed,
        padding=plugins.augmentation.padding,
        batch_size=config.train.batch_size,
        device=this.runtime.device,
        progress=this.console.progress,
    )
    # The model was checked with the expected channels, before the images were read.
    if data.info.in_channels != plugins.in_channels:
        build.check_model(config, data.info.image_size, data.info.in_channels, data.info.num_classes)
    # Tried before, but by the listed files: where unreadable ones were left out, a part may have one image now.
    info = replace(build.expected(plugins), in_channels=data.info.in_channels)
    _try_network(config, plugins, info, this.runtime, len(data.train))
    this.record.data(data.info, data.digests)
    messages.print_data(data.info, (VALIDATION[config.split.validation].note, data.note), this.console)
    return data


def _record_range_test(this: OpenRun, found: FoundLR) -> None:
    """Saves and prints the range test, if there was one.

    Raises:
        RunError: it failed; its figure, in the run directory, shows how.
    """
    if found.range_test is None:
        return
    outputs.save_range_test(found, this.record, draw=this.config.report.range_test)
    messages.print_range_test(found, this.console)
    verdict = found.range_test.verdict
    if verdict.suggestion is None:
        keys = ("first_lr", "num_steps") if found.range_test.miniatures else ("start_lr", "end_lr")
        raise RunError(
            f"the LR range test failed: {verdict.reason}. Set scheduler.max_lr to a number, or look at "
            f"{this.record.paths.report / 'range_test.png'} and change range_test.{keys[0]} or range_test.{keys[1]}"
        )


def _schedule(this: OpenRun, plugins: build.Plugins, data: Data, found: FoundLR) -> Schedule:
    """Returns the schedule with the max_lr that was found or given.

    Raises:
        RunError: the max_lr that was found does not fit a setting, such as a min_lr above it.
    """
    assert found.max_lr is not None, "a failed range test ends the run"
    steps = num_batches(len(data.train), this.config.train.batch_size)
    try:
        return plugins.scheduler.plan(found.max_lr, this.config.train.epochs, steps)
    except ConfigError as error:
        raise RunError(f"with the max_lr found by the range test, {found.max_lr:.4g}: {error}") from error


def _learner(this: OpenRun, plugins: build.Plugins, data: Data, schedule: Schedule, ema: float | None) -> Learner:
    """Returns an untrained network, with the same weights each time for one seed, and its optimizer."""
    config = this.config
    randomness.seed_streams(config.seed, randomness.INIT)
    with memory_told("making the model and its optimizer", "choose a smaller model"):
        model = build.model(config, data.info)
        settings = replace(config.train, ema=ema)
        return Learner(model, plugins.optimizer, schedule, settings, this.runtime, config.seed)


def _train(this: OpenRun, plugins: build.Plugins, data: Data, learner: Learner, run_signature: str) -> Training:
    """Trains the learner, from its newest checkpoint on, and prints and records each epoch."""
    config, images = this.config, len(data.train)
    validation, steps = VALIDATION[config.split.validation], num_batches(images, config.train.batch_size)
    checkpoints = Checkpoints(this.record.paths.checkpoints, run_signature)
    trained = resume(learner, checkpoints)
    this.record.goes_on_after(len(trained.history), trained.history)
    messages.print_going_on(trained, config.train.epochs, steps, this.console)
    has_ema = config.train.ema is not None
    table = messages.EpochTable(this.console, config.train.epochs, this.metrics, validation, has_ema)
    table.header()

    def batches(epoch: int, first: int) -> Iterator[Batch]:
        return shuffled(data.train, plugins.augmentation, config.train.batch_size, config.seed, epoch, first=first)

    def on_epoch(epoch: Epoch, best: bool) -> None:
        this.record.metrics(epoch.metrics, epoch.epoch)
        table.row(epoch, best)
        this.part.measured(epoch.epoch, epoch.metrics.get(f"accuracy/{validation.images}"))

    keeping = Keeping(checkpoints, config.train.checkpoint_interval, this.record.flush, should_stop, stop)
    done = images * len(trained.history) + trained.begun_images
    with this.console.progress("training", images * config.train.epochs, done) as advance, deferred():
        training = train(
            learner,
            trained,
            batches,
            _measurement(this, data),
            validation=validation,
            epochs=config.train.epochs,
            steps_per_epoch=steps,
            keeping=keeping,
            advance=advance,
            on_epoch=on_epoch,
        )
    outputs.save_steps(training, this.record)
    return training


def _measurement(this: OpenRun, data: Data) -> Callable[[nn.Module], Evaluation] | None:
    """Returns what measures each epoch, by `data.validation`: on held-out images, the test set, or None."""
    split = VALIDATION[this.config.split.validation].split
    bank = data.val if split == "val" else data.test if split == "test" else None
    if bank is None:
        return None
    metrics = [metric for metric in this.metrics if metric.each_epoch]
    batch_size = this.config.train.batch_size
    return lambda model: evaluate(*infer(model, _until_stop(in_order(bank, batch_size)), this.runtime), metrics)


def _until_stop(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, up to where the process is asked to stop."""
    for batch in batches:
        if should_stop():
            stop()
        yield batch


def _test(this: OpenRun, data: Data, model: nn.Module) -> Evaluation:
    """Measures the chosen weights on the test set, once, and saves the predictions."""
    logits, labels = infer(model, in_order(data.test, this.config.train.batch_size), this.runtime)
    check_finite(logits, "test")
    tested = evaluate(logits, labels, this.metrics)
    outputs.save_predictions(logits, labels, tested, data.info, this.record)
    return tested


def _test_ema(this: OpenRun, data: Data, model: nn.Module, ema: Chosen | None) -> Evaluation | None:
    """Measures the chosen moving average of the weights on the test set, once, and saves it; None without one."""
    if ema is None:
        return None
    with holding(model, ema.weights):
        logits, labels = infer(model, in_order(data.test, this.config.train.batch_size), this.runtime)
        check_finite(logits, "test")
        outputs.save_model(this.config, data, model, this.record, ema=this.config.train.ema)
    return evaluate(logits, labels, this.metrics)
