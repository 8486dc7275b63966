"""`RunPaths`: the path of each file in a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """The files of one run directory."""

    root: Path

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.root / "environment.json"

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def range_test(self) -> Path:
        return self.root / "range_test.json"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def steps(self) -> Path:
        return self.root / "steps.csv"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions.npz"

    @property
    def model(self) -> Path:
        return self.root / "model.safetensors"

    @property
    def model_ema(self) -> Path:
        return self.root / "model_ema.safetensors"

    @property
    def report(self) -> Path:
        return self.root / "report"
