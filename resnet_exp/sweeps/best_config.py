"""The best point of a sweep as a config that runs by itself."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from resnet_exp.config.conf import CONF
from resnet_exp.config.overrides import key_of
from resnet_exp.run_dir.files import write_durably
from resnet_exp.run_dir.foreign import read_config
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.sweeps.ledger import Job


def write_best(root: Path, job: Job | None) -> Path | None:
    """Writes `best.yaml` into the sweep's directory, the whole config of the best job; without one there is none.

    Raises:
        ConfigError: the config of its run is none, or much larger than one.
        Damaged: it is not the one that the run recorded.
    """
    path = root / "best.yaml"
    if job is None:
        path.unlink(missing_ok=True)  # of jobs that the command does not plan any more
        return None
    run = job.runs[0]
    config: dict[str, Any] = read_config(RunPaths(Path(run.root)).config)
    ours: dict[str, Any] = yaml.safe_load((CONF / "config.yaml").read_text())
    chosen = {"report": "default", "sweep": "default"}  # the point does not depend on them: others can be chosen
    of_hydra = [entry for entry in ours["defaults"] if _is_of_hydra(entry)]
    whole = {
        "defaults": ["_self_", *({group: option} for group, option in chosen.items()), *of_hydra],
        **{key: value for key, value in config.items() if key not in chosen},
        "name": run.name.rpartition("-")[0],  # so that it finds the run directory of the point
        "hydra": ours["hydra"],
    }
    head = (
        f"# The best point of {root.name}: {job.label}, objective {job.objective:.6g}.\n# {best_command(root, job)}\n"
    )
    write_durably(path, (head + yaml.safe_dump(whole, sort_keys=False)).encode())
    return path


def best_command(root: Path, job: Job) -> str:
    """Returns the command that runs the `best.yaml` of this folder, which has the point of this job.

    Its plug-ins are named again: what a yaml says of them is not believed.
    """
    plugins = [text for text in shlex.split(job.command) if key_of(text) == "plugins"]
    return shlex.join(["python", "-m", "resnet_exp", "--config-dir", str(root), "--config-name", "best", *plugins])


def _is_of_hydra(entry: Any) -> bool:
    return isinstance(entry, dict) and any(str(key).startswith("override hydra/") for key in entry)
