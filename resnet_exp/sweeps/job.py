"""A job of a sweep: a point, run with each seed, and written to the ledger as it goes."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from resnet_exp.config import build
from resnet_exp.config.config import Config
from resnet_exp.config.overrides import key_of, of_the_run, point_of
from resnet_exp.config.redact import redact
from resnet_exp.config.schema import ReportConfig, from_values
from resnet_exp.config.validation import VALIDATION
from resnet_exp.interfaces import ConfigError, Interrupted, RunError
from resnet_exp.run_dir.files import read_json
from resnet_exp.run_dir.journal import metric_history
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.runs.console import Console
from resnet_exp.runs.hooks import Pruned, SweepPart
from resnet_exp.runs.signals import handled, reason_of
from resnet_exp.sweeps.gpus import claimed_gpu
from resnet_exp.sweeps.ledger import PROCESS_VARIABLE, Job, Ledger, SeedRun
from resnet_exp.sweeps.plan import identity_of, shipped


def run_job(config: Config, ledger: Ledger) -> float | None:
    """Runs a job and returns its objective, the mean over its seeds; None where enough other jobs have failed.

    A point that has finished is not run again. Whatever happens to the job is in the ledger, and an error that leaves
    here holds neither images nor networks.

    Raises:
        RunError: it failed; the message is the reason.
        Pruned: its sweep stopped it.
    """
    is_worker = os.environ.get(PROCESS_VARIABLE) != str(os.getpid())
    try:
        # The sweep ends its workers: a terminal and a launcher may signal them as well, while they save.
        with handled(ends_at_second=not is_worker):
            return _run_job(config, ledger)
    except Interrupted as stopped:
        if is_worker:
            _end_worker(stopped.signal)
        raise


def _end_worker(number: signal.Signals) -> None:
    """Ends this process: its launcher would take the interruption for a result, and start another job in it.

    Where the signal is the one by which submitit learns that a job is preempted, submitit queues it again.
    """
    handler: Any = signal.getsignal(number)
    if getattr(handler, "__name__", "") == "checkpoint_and_try_requeue":
        handler(number, None)
    os._exit(128 + number)


def _run_job(config: Config, ledger: Ledger) -> float | None:
    planned = config.sweep.job
    key = _enrolled(config, ledger) if planned is None else str(planned)
    with ledger.held(key, lambda: Console().line("  waits for another process, which runs this job")):
        job = ledger.job(key)
        if job.status == "finished":
            return job.objective
        if ledger.has_failed_enough(config.sweep.max_failures):
            return None
        job = ledger.write(replace(job, status="running", reason=None, attempts=job.attempts + 1))
        error = _run_seeds(config, job, ledger)
    if error is not None:
        raise error
    return ledger.job(key).objective


def _enrolled(config: Config, ledger: Ledger) -> str:
    """The key of a job of a stock sweeper, which plans nothing; it is in the ledger from here on."""
    point = point_of(config.overrides, ledger.facts["space"])
    try:
        identity = _identity(point, config)
    except ConfigError:  # the run will say what is wrong with its images
        identity = ""
    return ledger.enrol(Job(0, point, config.command, identity=identity))


def _identity(point: Mapping[str, str], config: Config) -> str:
    return identity_of(point, config, build.source(config).identity())


def _run_seeds(config: Config, job: Job, ledger: Ledger) -> Exception | None:
    """Runs each seed and writes how the job ended; returns a new error, whose traceback keeps no images alive."""
    status, reason, error = "finished", None, None
    try:
        _check_planned(job, config, ledger)
        for seed in config.sweep.seeds or [config.seed]:
            job = _run_seed(config, seed, job, ledger)
    except KeyboardInterrupt as stopped:
        ledger.write(replace(ledger.job(job.key), status="interrupted", reason=reason_of(stopped)))
        raise
    except Pruned as pruned:
        status, reason, error = "pruned", str(pruned), Pruned(str(pruned))
    except (ConfigError, RunError) as known:
        status, reason = "failed", str(known)
    except BaseException as unknown:  # SystemExit too: a job that exits must not take the sweep along
        traceback.print_exc()
        status, reason = "failed", f"{type(unknown).__name__}: {unknown}"
    reason = redact(reason) if reason else None
    ledger.write(replace(ledger.job(job.key), status=status, reason=reason))
    return RunError(reason) if status == "failed" else error


def _check_planned(job: Job, config: Config, ledger: Ledger) -> None:
    """Raises ConfigError where the job is not the one that was planned, or has other code than the sweep."""
    from resnet_exp.runs.environment import code_state

    if config.sweep.job is not None and _identity(job.point, config) != job.identity:
        raise ConfigError(
            "this is not the job that was planned: a yaml was edited or images were changed meanwhile; start the sweep "
            "again"
        )
    if code_state(*config.plugin_folders)["code_digest"] != ledger.facts["code_digest"]:
        raise ConfigError("the code is not that of the sweep: it was changed meanwhile; start the sweep again")


def _run_seed(config: Config, seed: int, job: Job, ledger: Ledger) -> Job:
    """Runs the job with this seed; returns the job with its run."""
    from resnet_exp.runs.run import run

    one = _of_seed(config, seed)
    seed_run = SeedRun(seed, root="", status="running")
    started = time.monotonic()

    def on_start(root: Path) -> None:
        nonlocal seed_run
        finished = (root / "result.json").exists()
        seed_run = replace(seed_run, root=str(root), reused=finished)
        ledger.write(ledger.job(job.key).with_run(seed_run))

    label = ledger.run_label(job.key, seed, config.sweep.seeds)
    whole = config.is_set("report")  # requested: else the winner alone gets a report and an exported model
    part = SweepPart(
        label, ledger.root, whole, partial(claimed_gpu, ledger.root), on_start, _pruning(config, seed, job, ledger)
    )
    try:
        objective = run(one if whole else _without_report(one), one.command, part)
    except BaseException as error:
        status = "pruned" if isinstance(error, Pruned) else "failed"
        if not isinstance(error, KeyboardInterrupt):
            ended = replace(seed_run, status=status, seconds=time.monotonic() - started)
            ledger.write(ledger.job(job.key).with_run(ended))
        raise
    result: Any = read_json(Path(seed_run.root) / "result.json")
    accuracy = result["test"]["accuracy"] if "test" in result else None
    ended = replace(seed_run, status="finished", objective=objective, test_accuracy=accuracy, seconds=result["seconds"])
    job = ledger.job(job.key).with_run(ended)
    if seed == _first_seed(config):  # a run that had finished before has reported no epochs
        measured = f"accuracy/{VALIDATION[config.split.validation].images}"
        points = metric_history(RunPaths(Path(seed_run.root)).journal).get(measured, [])
        job = replace(job, curve={str(epoch): value for epoch, value, _ in points})
    return ledger.write(job)


def _of_seed(config: Config, seed: int) -> Config:
    overrides = tuple(text for text in of_the_run(config.overrides) if key_of(text) != "seed")
    if config.sweep.seeds is not None or config.is_set("seed"):
        overrides = (*overrides, f"seed={seed}")
    return replace(config, seed=seed, overrides=overrides, tree={**config.tree, "seed": seed})


def _without_report(config: Config) -> Config:
    report = shipped("report", "none")
    nothing: ReportConfig = from_values(ReportConfig, "report.", report)
    return replace(config, report=nothing, tree={**config.tree, "report": report})


def _pruning(config: Config, seed: int, job: Job, ledger: Ledger) -> Callable[[int, float | None], None]:
    """What is called with each epoch's objective: the pruner for the first seed, nothing for the others."""
    if config.sweep.pruner == "none" or seed != _first_seed(config):
        return lambda epoch, objective: None
    from resnet_exp.sweeps.pruning import reporter

    return reporter(ledger, job.key, config)


def _first_seed(config: Config) -> int:
    return (config.sweep.seeds or [config.seed])[0]
