"""What a sweep would run (`sweep.dry_run=true`): its jobs, what is done already, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from omegaconf import DictConfig

from resnet_exp import build, runtime
from resnet_exp.checkpoint import Checkpoints
from resnet_exp.config import Config
from resnet_exp.console import Console
from resnet_exp.directory import find_run
from resnet_exp.signature import signature
from resnet_exp.sweeps.ledger import Job


@dataclass(frozen=True)
class _Standing:
    """How a run stands before the sweep begins."""

    told: str
    seconds: float | None  # of a finished one
    left: float  # the share of it that is still to be run, 0..1


def tell_plan(jobs: Sequence[Job], configs: Sequence[Config]) -> None:
    """Lists a grid's jobs with how their runs stand; nothing is run or written."""
    console = Console()
    standings = [[_standing(config, seed) for seed in config.sweep.seeds or [config.seed]] for config in configs]
    console.heading(f"{len(jobs)} jobs, {sum(map(len, standings))} runs; nothing is run (sweep.dry_run=true)")
    for job, runs in zip(jobs, standings, strict=True):
        told = (
            sorted({run.told for run in runs}) if len({run.told for run in runs}) == 1 else [run.told for run in runs]
        )
        console.line(f"  {job.number:>4}  {job.label}  {', '.join(told)}")
    console.line(f"  {_eta([run for runs in standings for run in runs])}")


def tell_study(n_trials: int, space: Mapping[str, object], config: DictConfig) -> None:
    """Says what a study would propose from: its points depend on what comes out."""
    console = Console()
    console.heading(f"a study of {n_trials} trials in all; nothing is run (sweep.dry_run=true)")
    console.facts({key: str(distribution) for key, distribution in space.items()})
    console.facts({"pruner": config.sweep.pruner, "seeds": config.sweep.seeds or config.seed})


def _standing(config: Config, seed: int) -> _Standing:
    config = replace(config, seed=seed)
    machine = runtime.start(config.device, config.train.precision, config.train.deterministic)
    code = runtime.code_state(*config.plugin_folders)["code_digest"]
    run_signature = signature(config, build.source(config).identity(), machine.precision)
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
