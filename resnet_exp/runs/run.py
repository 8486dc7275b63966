"""The way of a run, in the order things happen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from resnet_exp.config import build
from resnet_exp.config.config import Config
from resnet_exp.data import randomness
from resnet_exp.data.bank import Batch, endless, in_order, num_batches, shuffled
from resnet_exp.data.prepare import Data, prepare, resident
from resnet_exp.data.split import check_fit
from resnet_exp.interfaces import ConfigError, RunError, Schedule
from resnet_exp.report.section import Section
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.run_dir.directory import open_run_directory
from resnet_exp.run_dir.files import read_json
from resnet_exp.run_dir.range_test_cache import cached_range_test
from resnet_exp.run_dir.signature import range_test_signature, signature
from resnet_exp.runs import messages, outputs
from resnet_exp.runs.console import Console
from resnet_exp.runs.environment import environment_of
from resnet_exp.runs.hooks import SweepPart
from resnet_exp.runs.max_lr import max_lr_of
from resnet_exp.runs.record import Record, recorded
from resnet_exp.tracking.mirror import open_mirror
from resnet_exp.training import result
from resnet_exp.training.device import Runtime, first_gpu, start_runtime, untouched_randomness
from resnet_exp.training.evaluate import Evaluation, evaluate
from resnet_exp.training.learner import Learner, check_momentum, infer
from resnet_exp.training.lr_range import RangeTest, range_test
from resnet_exp.training.train import Epoch, Training, train


@dataclass(frozen=True)
class _Run:
    """What every stage of a run is made of."""

    config: Config
    plugins: build.Plugins
    identity: str  # of the data
    runtime: Runtime
    environment: dict[str, Any]
    record: Record
    console: Console
    part: SweepPart


# A run that is part of no sweep.
_ALONE = SweepPart("", None, True, first_gpu, lambda root: None, lambda epoch, objective: None)


def run(config: Config, command: str, part: SweepPart = _ALONE) -> float | None:
    """Runs what the config says, or what is left of it; returns the objective for a sweep.

    That is the best validation accuracy; with `data.validation=test` the last epoch's test accuracy; with `none`
    nothing honest is there to choose by, and it is None. For `task=range_test` it is the suggested LR. As part of a
    sweep, what other code has begun or finished is left alone, and a new run begun beside it.

    Raises:
        ConfigError: a setting that cannot work; nothing was computed.
        Pruned: its sweep gave it up.
        RunError: the run cannot go on; what it has done is kept, and the same command goes on.
    """
    start = time.time()
    console = Console()
    plugins = build.plugins(config)
    runtime = start_runtime(config.device, config.train.precision, config.train.deterministic, part.gpu)
    check_momentum(bool(config.plugins["scheduler"].get("cycle_momentum")), runtime)
    images = check_fit(plugins.source.size(), config.split, config.train.batch_size)
    if config.task == "train":
        plugins.scheduler.check(config.train.epochs, num_batches(images, config.train.batch_size))
        outputs.check_report(config.report, lambda: build.model(config, build.expected(plugins)))
    identity = plugins.source.identity()
    environment = environment_of(runtime, config.plugin_folders)
    title, run_signature = config.title, signature(config, identity, runtime.precision)
    code = None if part is _ALONE else environment["code_digest"]
    with open_run_directory(config.output_dir, title, run_signature, config.rerun, code) as directory:
        mirror = open_mirror(plugins.tracker, directory.paths, part.label)
        part.started(directory.paths.root)
        messages.print_changed(read_json(directory.paths.environment) or environment, environment, console)
        if directory.result is not None:
            return messages.print_finished(directory, mirror, console)
        messages.print_plan(config, runtime, directory, console)

        with recorded(directory.paths, mirror) as record:
            record.begin(config, environment, command, directory.is_new, part.parent)
            this = _Run(config, plugins, identity, runtime, environment, record, console, part)
            data = _prepare(this)
            record.mirror()
            found = _find_max_lr(this, data)
            if config.task == "range_test" and found:
                outcome, model = result.of_range_test(config, found), None
            else:
                schedule = _schedule(this, data, found)
                learner = _learner(this, data, schedule)
                training = _train(this, data, learner)
                outputs.save_steps(training, record)
                model = learner.model
                tested = _test(this, data, model)
                outputs.save_model(config, data, model, record, export=part.export_model)
                outcome = result.of_training(config, data.info, found, schedule, training, tested)
            outcome = record.finish(outcome, time.time() - start)
            sections = _report(this, data, model, outcome)
        messages.print_result(outcome, directory, record.tracker_lines, console)
        messages.print_report(sections, directory.paths, console)
        return outcome["objective"]


def _prepare(this: _Run) -> Data:
    """The data, split and on the device; the model takes them."""
    config, plugins = this.config, this.plugins
    prepared = prepare if this.part is _ALONE else resident  # the jobs of a sweep share the images
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
    if data.info.in_channels != plugins.in_channels:  # what the model was tried with, before the images were read
        build.check_model(config, data.info.image_size, data.info.in_channels, data.info.num_classes)
    this.record.data(data.info, data.digests)
    messages.print_data(data.info, config.split.validation, this.console)
    return data


def _find_max_lr(this: _Run, data: Data) -> RangeTest | None:
    """The range test: made, or remembered from a run that shares all that determines it; None if max_lr is given.

    Raises:
        RunError: it failed; its figure, in the run directory, shows how.
    """
    config, paths = this.config, this.record.paths
    if not config.needs_range_test:
        return None
    # Of the images their bytes count, not only their names and sizes: another run's sweeps were made on these.
    key = range_test_signature(config, f"{this.identity} {data.digests['train']}", this.environment)
    with cached_range_test(config.output_dir, key, lambda: messages.print_waiting(this.console)) as cached:
        known = _usable(read_json(paths.range_test)) or cached.value
        if known:
            found = RangeTest.from_json(known)
        else:
            with untouched_randomness():
                found = range_test(
                    lambda schedule: _learner(this, data, schedule),
                    lambda repeat: _endless(this, data, repeat),
                    config.range_test,
                    data.info.num_classes,
                    this.console.progress,
                )
            cached.store(found.to_json())
    max_lr = max_lr_of(config, this.plugins, data.info, found) if config.task == "train" else None
    min_lr = this.plugins.scheduler.first_lr(max_lr) if max_lr else None
    draw = config.report.range_test
    outputs.save_range_test(found, max_lr, min_lr, this.record, reused=bool(known), draw=draw)
    messages.print_range_test(found, max_lr, this.console, reused=bool(known))
    if found.verdict.suggestion is None:
        raise RunError(
            f"the LR range test failed: {found.verdict.reason}. Set scheduler.max_lr to a number, or look at "
            f"{paths.report / 'range_test.png'} and change range_test.start_lr or range_test.end_lr"
        )
    return found


def _usable(known: dict[str, Any] | None) -> dict[str, Any] | None:
    """What this run found before, unless it failed: what made it fail may have been mended."""
    return known if known and known["verdict"]["suggestion"] is not None else None


def _schedule(this: _Run, data: Data, found: RangeTest | None) -> Schedule:
    """The schedule at the max_lr that was found or given.

    Raises:
        RunError: the max_lr that was found does not go with a setting, such as a min_lr above it.
    """
    max_lr = max_lr_of(this.config, this.plugins, data.info, found)
    assert max_lr is not None
    steps = num_batches(len(data.train), this.config.train.batch_size)
    try:
        return this.plugins.scheduler.plan(max_lr, this.config.train.epochs, steps)
    except ConfigError as error:
        raise RunError(f"with the max_lr found by the range test, {max_lr:.4g}: {error}") from error


def _learner(this: _Run, data: Data, schedule: Schedule) -> Learner:
    """A fresh network, the same each time for one seed, with its optimizer."""
    torch.manual_seed(randomness.mix(this.config.seed, randomness.INIT))
    model = build.model(this.config, data.info)
    return Learner(model, this.plugins.optimizer, schedule, this.config.train, this.runtime, this.config.seed)


def _train(this: _Run, data: Data, learner: Learner) -> Training:
    """The learner trained, from its newest checkpoint on."""
    config, images = this.config, len(data.train)
    checkpoints = Checkpoints(this.record.paths.checkpoints)
    done = checkpoints.latest_epoch()
    this.record.goes_on_after(done)
    if done:
        this.console.line(f"  goes on after epoch {done} of {config.train.epochs}")
    table = messages.EpochTable(this.console, config.train.epochs, config.split.validation)
    table.header()

    def on_epoch(epoch: Epoch, best: bool) -> None:
        this.record.epoch(epoch, result.MEASURED[config.split.validation])
        table.row(epoch, best)
        this.part.measured(epoch.epoch, epoch.val_accuracy)

    with this.console.progress("training", images * config.train.epochs, images * done) as advance:
        return train(
            learner,
            lambda epoch: shuffled(data.train, this.plugins.augmentation, config.train.batch_size, config.seed, epoch),
            _measurement(this, data),
            epochs=config.train.epochs,
            steps_per_epoch=num_batches(images, config.train.batch_size),
            choose_best=config.split.validation == "holdout",
            checkpoints=checkpoints,
            checkpoint_interval=config.train.checkpoint_interval,
            advance=advance,
            on_epoch=on_epoch,
        )


def _measurement(this: _Run, data: Data) -> Callable[[nn.Module], Evaluation] | None:
    """What is measured after each epoch, by `data.validation`: held-out images, the test set, or nothing."""
    bank = {"holdout": data.val, "test": data.test, "none": None}[this.config.split.validation]
    if bank is None:
        return None
    return lambda model: evaluate(*infer(model, in_order(bank, this.config.train.batch_size), this.runtime))


def _test(this: _Run, data: Data, model: nn.Module) -> Evaluation:
    """The chosen network on the test set, once; its predictions are kept."""
    logits, labels = infer(model, in_order(data.test, this.config.train.batch_size), this.runtime)
    tested = evaluate(logits, labels)
    outputs.save_predictions(logits, labels, tested, data.info, this.record)
    return tested


def _report(this: _Run, data: Data, model: nn.Module | None, outcome: dict[str, Any]) -> tuple[Section, ...]:
    """The report, drawn from what the run directory holds by now; what cannot be drawn is a gap in it."""
    config = this.config
    subject = Subject(
        paths=this.record.paths,
        settings=config.report,
        result=outcome,
        info=data.info,
        seed=config.seed,
        runtime=this.runtime,
        model=model,
        test=data.test,
        train=data.train,
        augmentation=this.plugins.augmentation,
    )
    return outputs.save_report(subject, this.record, this.console.progress)


def _endless(this: _Run, data: Data, repeat: int) -> Iterator[Batch]:
    """Training batches of a range test's repeat, in an order of its own."""
    seed = randomness.mix(this.config.seed, randomness.RANGE_TEST, repeat)
    return endless(data.train, this.plugins.augmentation, this.config.train.batch_size, seed)
