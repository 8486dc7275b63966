"""The way of a run, in the order things happen."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from resnet_exp import build, randomness
from resnet_exp import runtime as runtime_module
from resnet_exp.checkpoint import Checkpoints
from resnet_exp.config import Config, signature
from resnet_exp.console import Console, EpochTable
from resnet_exp.data.bank import in_order, num_batches, shuffled
from resnet_exp.data.prepare import Data, prepare
from resnet_exp.directory import RunDirectory, open_run_directory, read_json
from resnet_exp.engine import Learner, predict
from resnet_exp.interfaces import Augmentation, OptimizerFactory, RunError, Schedule, Scheduler
from resnet_exp.record import Record, recorded
from resnet_exp.runtime import Runtime
from resnet_exp.stages.evaluate import Evaluation, evaluate
from resnet_exp.stages.range_test import RangeTest, range_test
from resnet_exp.stages.train import Epoch, Training, train
from resnet_exp.tracking import make_tracker


def run(config: Config, command: str) -> float | None:
    """Runs what the config says, or what is left of it, and returns the objective: the best validation accuracy.

    With `data.validation=test` that is the last epoch's test accuracy; with `none` there is nothing honest to choose
    by, and it is None. `task=range_test` returns max_lr.

    Raises:
        ConfigError: a setting that cannot work; nothing was computed.
        RunError: the run cannot go on; what it has done is kept, and the same command goes on.
    """
    console = Console()
    scheduler, augmentation = build.scheduler(config), build.augmentation(config)
    make_optimizer, source = build.optimizer(config), build.data_source(config)
    runtime = runtime_module.start(config.device, config.train.precision, config.train.deterministic)
    directory = open_run_directory(
        config.output_dir, config.title, signature(config, source.identity()), config.rerun
    )
    tracker = make_tracker(config.tracker, directory.paths, directory.name)
    if directory.result is not None:
        return _tell_finished(directory, tracker, console)
    _tell_plan(config, runtime, directory, console)

    with recorded(directory, tracker) as record:
        environment = runtime_module.environment(runtime)
        record.begin(config, environment, _tags(config, environment, command), directory.is_new)
        data = _prepare(config, source, augmentation, runtime, record, console)
        ...
