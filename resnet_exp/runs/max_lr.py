"""The max_lr of a run: given, or the scheduler's multiple of the LR that the range test suggests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from resnet_exp.config import build
from resnet_exp.config.config import Config
from resnet_exp.data import randomness
from resnet_exp.data.bank import Batch, endless, num_batches
from resnet_exp.data.prepare import Data
from resnet_exp.interfaces import DatasetInfo, Schedule
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.run_dir.contents import read_recorded
from resnet_exp.run_dir.range_test_cache import cached_range_test
from resnet_exp.run_dir.signature import range_test_signature
from resnet_exp.runs import messages
from resnet_exp.runs.open_run import OpenRun
from resnet_exp.runs.signals import deferred, should_stop, stop
from resnet_exp.training.device import untouched_randomness
from resnet_exp.training.keeping import Keeping
from resnet_exp.training.learner import Learner
from resnet_exp.training.lr_range import FoundLR, RangeTest, range_test
from resnet_exp.training.miniatures import Miniature

# With miniatures. Source: measured, docs/decisions/0016-choosing-max-lr.md.
_GROWTH = 0.3  # max_lr rises as this power of the number of steps
_WITHOUT_WARM_UP = 0.6  # a schedule that begins at max_lr bears less than a miniature


def find_max_lr(
    this: OpenRun, plugins: build.Plugins, data: Data, make_learner: Callable[[Schedule], Learner]
) -> FoundLR:
    """Returns the LRs to train with: as given, or from the range test, which is run unless it is cached.

    Args:
        this: the run.
        plugins: the run's model, optimizer, scheduler, ...
        data: the range test uses its training images.
        make_learner: makes an untrained learner for a schedule, with the same weights each time.
    """
    scheduler = plugins.scheduler
    if not this.config.needs_range_test:
        assert scheduler.max_lr is not None
        return FoundLR(None, scheduler.max_lr, scheduler.first_lr(scheduler.max_lr))
    tested, is_cached = _range_test(this, plugins, data, make_learner)
    suggestion = tested.verdict.suggestion
    if suggestion is None or this.config.task != "train":  # task=range_test reports the suggestion itself
        return FoundLR(tested, None, None, is_cached)
    max_lr = find_factor(this.config, plugins, data, tested.miniatures) * suggestion
    return FoundLR(tested, max_lr, scheduler.first_lr(max_lr), is_cached)


def _range_test(
    this: OpenRun, plugins: build.Plugins, data: Data, make_learner: Callable[[Schedule], Learner]
) -> tuple[RangeTest, bool]:
    """The range test, and whether it is cached: made before, by this run or by one that shares all that determines it.

    If another process is making the same range test, this one waits for it.
    """
    config = this.config
    # With the digest of its pixels: the identity does not say how they were decoded, or which images were left out.
    identity = f"{plugins.source.identity()} {data.digests['train']}"
    key = range_test_signature(config, identity, this.environment)
    with cached_range_test(config.output_dir, key, lambda: messages.print_waiting(this.console)) as cached:
        known = _usable(read_recorded(this.record.paths.range_test)) or cached.value
        if known:
            return RangeTest.from_json(known), True
        # Beside the range test that it becomes: any run that shares it can go on with it.
        half = Checkpoints(cached.path.with_suffix(""), key)
        with untouched_randomness(), deferred():
            tested = range_test(
                make_learner,
                lambda repeat, first: _batches(this, plugins, data, repeat, first),
                config.range_test,
                data.info.num_classes,
                this.console.progress,
                Keeping(half, config.train.checkpoint_interval, this.record.flush, should_stop, stop),
                half.latest(this.runtime.device),
            )
        cached.store(tested.to_json())
        shutil.rmtree(half.folder, ignore_errors=True)
        return tested, False


def _usable(known: dict[str, Any] | None) -> dict[str, Any] | None:
    """The range test that this run made before, unless it failed: its cause may be gone by now, so it is made again."""
    return known if known and known["verdict"]["suggestion"] is not None else None


def _batches(this: OpenRun, plugins: build.Plugins, data: Data, repeat: int, first: int) -> Iterator[Batch]:
    """Endless training batches for a repeat of the range test, from step `first` on, each repeat in its own order."""
    seed = randomness.mix(this.config.seed, randomness.RANGE_TEST, repeat)
    return endless(data.train, plugins.augmentation, this.config.train.batch_size, seed, first=first)


def find_factor(config: Config, plugins: build.Plugins, data: Data, miniatures: Sequence[Miniature] = ()) -> float:
    """The factor between the suggestion and max_lr: `scheduler.find_factor`, or the one that was measured.

    SGD on networks with batch normalisation bears more than short trainings suggest: a multiple of the least loss of
    rising LRs, and the more, the longer the run, of what does best in a miniature. Adam, and networks without it, do
    not (results/README.md). The reason may be that the scale of weights before batch normalisation does not matter:
    they grow until the LR suits them.

    Source: van Laarhoven, L2 Regularization versus Batch and Weight Normalization (2017), section 2.
    """
    scheduler = plugins.scheduler
    if scheduler.find_factor is not None:
        return scheduler.find_factor
    if miniatures and not scheduler.first_lr(1.0) < 1.0:
        return _WITHOUT_WARM_UP
    if not _adapts(config, plugins, data.info):
        return 1.0
    if not miniatures:
        return scheduler.measured_factor
    steps = config.train.epochs * num_batches(len(data.train), config.train.batch_size)
    return max(1.0, steps / miniatures[0].steps) ** _GROWTH


def _adapts(config: Config, plugins: build.Plugins, info: DatasetInfo) -> bool:
    """Whether the network has batch normalisation, and its optimizer is SGD."""
    with untouched_randomness():
        model = build.model(config, info)
        normalised = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())
        return normalised and isinstance(plugins.optimizer(model), torch.optim.SGD)
