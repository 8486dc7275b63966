"""`open_run`, in which every run works: its directory and record, and what is printed at its start and end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from resnet_exp.config.config import Config
from resnet_exp.data.memory import SMALLER, memory_told
from resnet_exp.data.prepare import EvaluationData
from resnet_exp.interfaces import Augmentation, Metric, RunError, Tracker
from resnet_exp.report.section import Section
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.directory import RunDirectory, open_run_directory
from resnet_exp.runs import messages, outputs
from resnet_exp.runs.changed import check_same_code, code_changes, machine_changes
from resnet_exp.runs.console import Console
from resnet_exp.runs.dead_runs import end_dead, telling_of_dead
from resnet_exp.runs.environment import environment_of
from resnet_exp.runs.hooks import ALONE, SweepPart
from resnet_exp.runs.record import Record, recorded
from resnet_exp.tracking.mirror import open_mirror
from resnet_exp.training.device import Runtime

_log = logging.getLogger(__name__)


@dataclass
class OpenRun:
    """The run that this process works on: what all its stages use, and at its end the result."""

    config: Config
    runtime: Runtime
    environment: dict[str, Any]
    metrics: tuple[Metric, ...]  # those measured during and after training
    console: Console
    part: SweepPart
    directory: RunDirectory
    started: float  # by the monotonic clock, in seconds
    result: dict[str, Any] | None  # once the run has finished, in this process or before
    sections: tuple[Section, ...] = ()  # of its report
    _record: Record | None = None

    @property
    def record(self) -> Record:
        """The record to write to; only of a run that has not finished before."""
        assert self._record is not None, "a finished run is not written to"
        return self._record

    @property
    def is_finished(self) -> bool:
        return self.result is not None

    @property
    def objective(self) -> float | None:
        """The value by which a sweep compares runs; None with data.validation=none: only the test set is measured."""
        assert self.result is not None
        objective: float | None = self.result["objective"]
        return objective

    def finish(
        self,
        outcome: dict[str, Any],
        data: EvaluationData,
        model: nn.Module | None,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Writes result.json, then draws the report from the run directory; a part that fails costs neither."""
        self.result = self.record.finish(outcome, time.monotonic() - self.started)
        paths = self.directory.paths
        subject = Subject.of(self.config, paths, self.result, data, self.metrics, self.runtime, model, augmentation)
        try:
            self.sections = outputs.save_report(subject, self.record, self.console.progress)
        except RunError as error:
            _log.error("%s", error)


@contextmanager
def open_run(
    config: Config,
    run_signature: str,
    runtime: Runtime,
    metrics: tuple[Metric, ...],
    tracker: Tracker,
    command: str,
    console: Console,
    *,
    started: float,
    part: SweepPart = ALONE,
) -> Iterator[OpenRun]:
    """A block that works on the run of this signature; at its end the run's status is recorded and its result printed.

    Of a run that has finished before, the result is printed again; `is_finished` says so, and the block does nothing.
    As part of a sweep, runs started by another version of the code are not used: a new one starts beside them; and one
    that another process works on is waited for, since other jobs, or other sweeps, may need the same run.

    Raises:
        RunError: another process works on it, and this run is part of no sweep; or other code began it.
    """
    environment = environment_of(runtime, config.plugin_folders)
    code, on_wait = None, None
    if part is not ALONE:
        code, on_wait = environment["code_digest"], partial(messages.print_waiting_for_run, console=console)
    with open_run_directory(config.output_dir, config.title, run_signature, config.rerun, code, on_wait) as directory:
        if directory.result is None:
            check_same_code(directory.paths, environment)
        mirror = open_mirror(tracker, directory.paths, part.label)
        if part is ALONE:  # the command of a sweep does it once, for all its jobs
            killed = end_dead(directory.paths.root.parent)
            mirror = telling_of_dead(mirror, killed, tracker, config.tree["tracker"])
        part.started(directory.paths.root)
        for fault in directory.faults:
            console.warn(fault)
        before = directory.environment or environment
        messages.print_changed([*code_changes(before, environment), *machine_changes(before, environment)], console)
        this = OpenRun(
            config, runtime, environment, metrics, console, part, directory, started, result=directory.result
        )
        if this.is_finished:
            yield this
            mirror.begin()  # completes what is missing after an outage of the tracker
            messages.print_finished(directory, metrics, mirror.end(), console)
            return
        told = memory_told("working on the run", SMALLER)
        with recorded(directory.paths, mirror, run_signature) as record, told:
            record.begin(config, environment, command, directory.is_new, part.parent)
            this._record = record
            yield this
        assert this.result is not None
        messages.print_result(this.result, this.metrics, directory, record.tracker_lines, console)
        messages.print_report(this.sections, directory.paths, console)
