"""The end of a sweep: its parent run, its winner's report, and what is printed."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from resnet_exp.config.config import typed
from resnet_exp.config.overrides import is_within, key_of, texts_of
from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.run_dir.files import Damaged, read_derived
from resnet_exp.run_dir.foreign import read_config
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.runs.console import Console
from resnet_exp.runs.dead_runs import REASON, end_if_dead
from resnet_exp.runs.messages import print_tracker, print_waiting_for_run
from resnet_exp.runs.signals import reason_of
from resnet_exp.sweeps.best_config import best_command
from resnet_exp.sweeps.leaderboard import best_of, compare_best
from resnet_exp.sweeps.ledger import Job, Ledger
from resnet_exp.sweeps.parent_run import Parent
from resnet_exp.sweeps.plan import plugin_folders, shipped, tracker_of
from resnet_exp.tracking.mirror import open_mirror

_log = logging.getLogger(__name__)
_SHOWN = 10  # failed jobs on the terminal; the leaderboard has them all


def close(config: DictConfig, ledger: Ledger, parent: Parent, error: BaseException | None, console: Console) -> bool:
    """Ends runs that were left open, draws the winner's report, closes the parent run and prints the result.

    Returns:
        Whether every job has finished, or was stopped by the pruner, and the winner has its report.
    """
    for job in ledger.jobs():
        if job.status in ("lost", "failed", "interrupted"):
            _end_runs(job, config)
    jobs = ledger.jobs()
    failed = [job for job in jobs if job.status == "failed"]
    left = [job for job in jobs if job.status not in ("finished", "failed", "pruned")]
    winner = best_of(jobs, parent.direction)
    is_requested = any(is_within(key_of(text), "report") for text in texts_of(config.hydra.overrides.task))
    if winner and error is None and not left and not is_requested:  # else each job has what was requested
        try:
            _draw_winner(config, winner, console)
        except (ConfigError, RunError) as reason:  # such as a network that was deleted
            error = RunError(f"the report of the best run cannot be drawn: {reason}")
            console.warn(str(error))
    if isinstance(error, KeyboardInterrupt):
        parent.end("KILLED", reason_of(error))
    elif failed or left or error is not None:
        parent.end(
            "FAILED", f"{len(failed)} of {len(jobs)} jobs failed" if failed else str(error or "not all jobs ran")
        )
    else:
        parent.end("FINISHED")
    _print(jobs, winner, ledger, parent, console, is_fraction=config.task == "train")
    return not failed and not left and error is None


def _end_runs(job: Job, config: DictConfig) -> None:
    """Marks runs whose process was killed as failed: a tracker would otherwise show them as running."""
    for run in (run for run in job.runs if run.root):
        try:
            # Another sweep, or a command of its own, may be going on with the run meanwhile: it is left alone then.
            is_ended = end_if_dead(Path(run.root), "FAILED", job.reason or REASON)
        except Damaged as error:
            _log.warning("%s", error)
            continue
        if is_ended:
            paths = RunPaths(Path(run.root))
            mirror = open_mirror(tracker_of(config), paths, job.run_label(run.seed, config.sweep.seeds))
            mirror.begin()
            mirror.end()


def _draw_winner(config: DictConfig, winner: Job, console: Console) -> None:
    """Draws the winner's report and exports its model for the tracker, unless it has them."""
    root = Path(winner.runs[0].root)
    if (root / "report" / "report.html").exists() or (read_derived(root / "result.json") or {}).get("task") != "train":
        return
    from resnet_exp.runs.redraw import redraw

    run = read_config(root / "config.yaml")
    own: Any = OmegaConf.to_container(config, resolve=True)
    whole = {
        **run,
        "tracker": own["tracker"],
        "sweep": shipped("sweep", "default"),
        "report": shipped("report", "default"),
    }
    command = typed(OmegaConf.create(whole), plugin_folders=plugin_folders(config))
    given = ("tracker=given", "data.root=given", "data.cache=given")  # the sweep's command said where
    redraw(
        replace(command, task="report", run_dir=str(root), overrides=given),
        partial(print_waiting_for_run, console=console),  # another sweep may have the same winner
    )


def _print(
    jobs: list[Job],
    winner: Job | None,
    ledger: Ledger,
    parent: Parent,
    console: Console,
    *,
    is_fraction: bool,
) -> None:
    failed = [job for job in jobs if job.status == "failed"]
    done = [job for job in jobs if job.status == "finished"]
    console.heading(f"{ledger.root.name}: {len(done)} of {len(jobs)} jobs finished")
    if winner is not None:
        comparison = compare_best(jobs, parent.direction)
        console.facts({"best": f"{winner.label}, objective {winner.objective:.4f}"})
        if comparison:
            console.facts({"against": comparison.sentence(is_fraction)})
    for job in failed[:_SHOWN]:
        console.warn(f"{job.label} failed: {job.reason}\n           {job.command}")
    console.facts({"leaderboard": ledger.root / "leaderboard.csv", "page": ledger.root / "sweep.html"})
    if winner is not None:
        console.facts({"best config": best_command(ledger.root, winner)})
    print_tracker(parent.tracker_lines, console)
