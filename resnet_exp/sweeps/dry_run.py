"""What a sweep would run (`sweep.dry_run=true`): its jobs, what is done already, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from resnet_exp.config import build
from resnet_exp.config.config import Config
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.run_dir.directory import find_run
from resnet_exp.run_dir.signature import signature
from resnet_exp.runs.console import Console
from resnet_exp.runs.environment import code_state
from resnet_exp.sweeps.ledger import Job
from resnet_exp.training.device import start_runtime


@dataclass(frozen=True)
class _Standing:
    """How a run stands before the sweep begins."""

    told: str
    seconds: float | None  # of a finished one
    left: float  # the share of it that is still to be run, 0..1


def print_plan(planned: Sequence[tuple[Job, Config]]) -> None:
    """Lists a grid's jobs, with what they compose, and how their runs stand; nothing is run or written."""
    console = Console()
    standings = [[_standing(config, seed) for seed in config.sweep.seeds or [config.seed]] for _, config in planned]
    console.heading(f"{len(planned)} jobs, {sum(map(len, standings))} runs; nothing is run (sweep.dry_run=true)")
    for (job, _), runs in zip(planned, standings, strict=True):
        told = [run.told for run in runs]
        console.line(f"  {job.number:>4}  {job.label}  {told[0] if len(set(told)) == 1 else ', '.join(told)}")
    console.line(f"  {_eta([run for runs in standings for run in runs])}")


def print_study(trials: Sequence[Job], n_trials: int, space: Mapping[str, object]) -> None:
    """Lists the trials that a study has made, and what it would propose from: its points depend on what comes out."""
    console = Console()
    done = [job for job in trials if job.status in ("finished", "pruned")]
    left = max(0, n_trials - len(done))
    console.heading(f"{n_trials} trials in all, {left} left; nothing is run (sweep.dry_run=true)")
    for job in trials:
        objective = "" if job.objective is None else f": {job.objective:.4f}"
        console.line(f"  {job.number:>4}  {job.label}  {job.status}{objective}")
    console.facts({key: str(distribution) for key, distribution in space.items()})
    times = [_Standing("", job.seconds, 0.0) for job in done]
    console.line(f"  {_eta([*times, *([_Standing('', None, 1.0)] * left)])}")


def _standing(config: Config, seed: int) -> _Standing:
    config = replace(config, seed=seed)
    runtime = start_runtime(config.device, config.train.precision, config.train.deterministic)
    code = code_state(*config.plugin_folders)["code_digest"]
    run_signature = signature(config, build.source(config).identity(), runtime.precision)
    paths, result = find_run(config.output_dir, config.title, run_signature, code)
    if result is not None:
        return _Standing(f"done: {result['objective']:.4f}", result["seconds"], 0.0)
    epoch = Checkpoints(paths.checkpoints).latest_epoch() if paths.checkpoints.exists() else 0
    if epoch:
        return _Standing(f"goes on after epoch {epoch}", None, 1 - epoch / config.train.epochs)
    return _Standing("to be run", None, 1.0)


def _eta(runs: Sequence[_Standing]) -> str:
    left = sum(run.left for run in runs)
    times = [run.seconds for run in runs if run.seconds]
    if not left:
        return "all of it is done"
    if not times:
        return f"{left:g} runs are left; how long one takes is known when the first has finished"
    mean = sum(times) / len(times)
    return f"{left:.3g} runs are left, {left * mean:,.0f} s one after another at {mean:,.1f} s a run"
