"""The script for GPU machines, tried tiny on the CPU, so that it fits the package's names before one is at hand."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_check.sh"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_steps_still_fit_the_package(tmp_path: Path) -> None:
    """Those that need no images beside the embedded ones: a run by phases, and the loop beside the bare step."""
    settings = {
        "SMALL": "1",
        "OMP_NUM_THREADS": "1",
        "SCALE": "5",
        "STEPS": "env lr037 bench",
        "PY": sys.executable,
        "SITE": str(tmp_path),
    }
    done = subprocess.run(
        ["bash", str(SCRIPT)],
        cwd=ROOT,
        env={**os.environ, **settings, "OUT": str(tmp_path / "out"), "WORK": str(tmp_path / "work"), "DATA": ""},
        capture_output=True,
        text=True,
        timeout=580,
    )
    summary = (tmp_path / "out" / "summary.txt").read_text()
    for step in ("env", "lr037", "bench"):
        assert f"   {step}: exit 0 " in summary, done.stdout
    found = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert not [each for each in found if "failed" in each]
    (run,) = [each for each in found if each.get("run") == "lr037"]
    assert {"data", "training", "training/epochs", "measuring", "model_files"} <= run["seconds"].keys()
    assert sum("bench" in each for each in found) >= 8


def test_a_name_that_it_wraps_and_that_is_gone_ends_it_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUT", ".")
    monkeypatch.setenv("SMALL", "1")
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT.with_suffix(".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "WRAPPED", (("resnet_exp.runs.outputs", "", "no_such_name", "phase"),))
    with pytest.raises(SystemExit, match=r"resnet_exp\.runs\.outputs has no no_such_name any more: change WRAPPED"):
        module.Phases("run")
