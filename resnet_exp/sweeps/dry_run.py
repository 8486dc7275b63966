"""What a sweep would run (`sweep.dry_run=true`): its jobs, what is done already, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from resnet_exp.config.config import Config
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.run_dir.directory import find_run
from resnet_exp.run_dir.signature import signature
from resnet_exp.runs.console import Console
from resnet_exp.runs.environment import code_state
from resnet_exp.sweeps.ledger import Job, Ledger, labelled
from resnet_exp.sweeps.planner import PlannedJob
from resnet_exp.training.device import start_runtime


@dataclass(frozen=True)
class _Progress:
    """How far a run is before the sweep starts."""

    text: str
    seconds: float | None  # of a finished one
    left: float  # the share of it that is not done yet, 0..1


def print_plan(planned: Sequence[PlannedJob], ledger: Ledger) -> None:
    """Prints all jobs of a sweep and how far their runs are; nothing is run or written."""
    console = Console()
    progress = [_of_job(one, ledger) for one in planned]
    console.heading(f"{len(planned)} jobs, {sum(map(len, progress))} runs; nothing is run (sweep.dry_run=true)")
    for job, runs in zip(labelled([one.job for one in planned]), progress, strict=True):
        texts = [run.text for run in runs]
        shown = texts[0] if len(set(texts)) == 1 else ", ".join(texts)
        console.line(f"  {job.number:>4}  {job.label}  {shown}")
    console.line(f"  {_eta([run for runs in progress for run in runs])}")


def print_study(trials: Sequence[Job], n_trials: int, space: Mapping[str, object]) -> None:
    """Prints a study's trials so far, and the space that the next ones come from: their points depend on results."""
    console = Console()
    done = [job for job in trials if job.status in ("finished", "pruned")]
    left = max(0, n_trials - len(done))
    console.heading(f"{n_trials} trials in all, {left} left; nothing is run (sweep.dry_run=true)")
    for job in labelled(trials):
        objective = "" if job.objective is None else f": {job.objective:.4f}"
        console.line(f"  {job.number:>4}  {job.label}  {job.status}{objective}")
    console.facts({key: str(distribution) for key, distribution in space.items()})
    times = [_Progress("", job.seconds, 0.0) for job in done]
    console.line(f"  {_eta([*times, *([_Progress('', None, 1.0)] * left)])}")


def _of_job(planned: PlannedJob, ledger: Ledger) -> list[_Progress]:
    """The runs of a job; one that the sweep has finished is not run again, whatever else lies in `output_dir`."""
    key, config = planned.job.key, planned.config
    known = ledger.job(key) if ledger.has(key) else planned.job
    if known.status == "finished":
        return [_done(run.objective, run.seconds) for run in known.runs]
    return [_progress(config, seed, planned.data_identity) for seed in config.sweep.seeds or [config.seed]]


def _done(objective: float | None, seconds: float) -> _Progress:
    return _Progress("done" if objective is None else f"done: {objective:.4f}", seconds, 0.0)


def _progress(config: Config, seed: int, data_identity: str) -> _Progress:
    config = replace(config, seed=seed)
    runtime = start_runtime(config.device, config.train.precision, config.train.deterministic)
    code = code_state(*config.plugin_folders)["code_digest"]
    run_signature = signature(config, data_identity, runtime.precision)
    paths, result = find_run(config.output_dir, config.title, run_signature, config.rerun, code)
    if result is not None:
        return _done(result["objective"], result["seconds"])
    epoch = Checkpoints(paths.checkpoints, run_signature).latest_epoch() if paths.checkpoints.exists() else 0
    if epoch:
        return _Progress(f"continues after epoch {epoch}", None, 1 - epoch / config.train.epochs)
    return _Progress("to be run", None, 1.0)


def _eta(runs: Sequence[_Progress]) -> str:
    left = sum(run.left for run in runs)
    times = [run.seconds for run in runs if run.seconds]
    if not left:
        return "everything is done"
    if not times:
        return f"{left:g} runs are left; how long one takes is known when the first has finished"
    mean = sum(times) / len(times)
    return f"{left:.3g} runs are left, {left * mean:,.0f} s one after another at {mean:,.1f} s a run"
