"""The best point of a sweep as a config that runs by itself."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from resnet_exp.config.command_line import CONF
from resnet_exp.run_dir.files import write_durably
from resnet_exp.sweeps.ledger import Job
from resnet_exp.sweeps.plan import shipped


def write_best(root: Path, job: Job | None) -> Path | None:
    """Writes `best.yaml` into the sweep's directory, the whole config of the best job; without one there is none."""
    path = root / "best.yaml"
    if job is None:
        path.unlink(missing_ok=True)  # of jobs that the command does not plan any more
        return None
    run = job.runs[0]
    config: dict[str, Any] = yaml.safe_load((Path(run.root) / "config.yaml").read_text())
    ours: dict[str, Any] = yaml.safe_load((CONF / "config.yaml").read_text())
    whole = {
        "defaults": ["_self_", *(entry for entry in ours["defaults"] if _is_of_hydra(entry))],
        **config,
        "name": run.name.rpartition("-")[0],  # so that it finds the run directory of the point
        "report": shipped("report", "default"),
        "sweep": shipped("sweep", "default"),
        "hydra": ours["hydra"],
    }
    command = shlex.join(["python", "-m", "resnet_exp", "--config-dir", str(root), "--config-name", "best"])
    head = f"# The best point of {root.name}: {job.label}, objective {job.objective:.6g}.\n# {command}\n"
    write_durably(path, (head + yaml.safe_dump(whole, sort_keys=False)).encode())
    return path


def _is_of_hydra(entry: Any) -> bool:
    return isinstance(entry, dict) and any(str(key).startswith("override hydra/") for key in entry)
