"""The frame of the table of trials: it is able to fail, and it ends what a trial started."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import unittest
from pathlib import Path

import numpy as np
import pytest
import torch
from reliability import recorded
from reliability.differences import differences
from reliability.forked import Outcome, run_trials
from reliability.rows.many import check_flat
from reliability.trials import Row


def outcome(trial, folder, count=1, **more):
    return run_trials(Row("Z1", "a fault", "it holds", count, count, trial), count, folder, **more)


def test_a_trial_that_returns_is_held_and_works_in_an_empty_folder_of_its_own(tmp_path):
    def trial(number, folder):
        assert Path.cwd() == folder and not list(folder.iterdir())
        (folder / "file").touch()

    found = outcome(trial, tmp_path, 3)
    assert [(each.number, each.held) for each in found] == [(0, True), (1, True), (2, True)]


def fails(number, folder):
    assert number != 1, "seen"


def skips(number, folder):
    raise unittest.SkipTest("seen")


def skips_as_pytest_does(number, folder):
    pytest.skip("seen")


def exits(number, folder):
    sys.exit("seen")


def hangs(number, folder):
    time.sleep(1000)


def is_killed(number, folder):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("trial", "reason"), [
    (fails, "seen"), (skips, "seen"), (skips_as_pytest_does, "seen"), (exits, "seen"),
    (hangs, "not finished after"), (is_killed, "exit code -9"),
])  # fmt: skip
def test_a_trial_that_ends_in_any_other_way_is_not_held(tmp_path, trial, reason):
    found = outcome(trial, tmp_path, 2, limit=0.5 if trial is hangs else 60)
    assert not found[1].held and reason in found[1].reason
    assert found[0].held == (trial is fails)


@pytest.mark.parametrize("ending", ["returns", "hangs"])
def test_what_a_trial_started_is_ended_with_it_in_a_session_of_its_own_too(tmp_path, ending):
    def trial(number, folder):
        if os.fork() == 0:
            os.setsid()
            pid = os.fork()  # an orphan at once
            if pid:
                (tmp_path / "pid").write_text(str(pid))
                os._exit(0)
            time.sleep(1000)
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        if ending == "hangs":
            time.sleep(1000)

    found = outcome(trial, tmp_path, limit=2.0 if ending == "hangs" else 60.0)
    assert found[0].held == (ending == "returns")
    pid = (tmp_path / "pid").read_text()
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]


def test_the_table_says_what_was_held_and_which_rows_were_never_run_at_their_full_count(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "_RESULTS", tmp_path / "reliability")
    monkeypatch.setattr(recorded, "_commit", lambda: "abc")
    run, not_run = (Row(name, "a fault", "it holds", 50, 2, fails) for name in ("Z1", "Z2"))
    recorded.record(run, [Outcome(0, True, 1.2), Outcome(1, False, 1.4, "last\nmore")])
    recorded.write_table([run, not_run])
    lines = (tmp_path / "reliability.md").read_text().splitlines()
    assert "| Z1 | a fault | it holds | 2 | 1 | 3 | abc |" in lines
    assert "| Z2 | a fault | it holds | not run at its full count, 50 |  |  |  |" in lines
    assert '"1": "last"' in (tmp_path / "reliability" / "Z1.json").read_text()


@pytest.fixture
def run_dir(tmp_path):
    """The files of a run that are compared, without a run."""
    root = tmp_path / "run"
    (root / "checkpoints").mkdir(parents=True)
    (root / "result.json").write_text('{"seconds": 1, "history": [{"loss": 0.5, "perf/s": 3}]}')
    (root / "model.safetensors").write_bytes(b"weights")
    (root / "model_ema.safetensors").write_bytes(b"their average")
    (root / "steps.csv").write_text("0,0.1")
    (root / "journal.jsonl").write_text('{"kind":"metrics","time_ms":1,"step":1,"values":{"loss":0.5,"perf/s":3}}\n')
    np.savez(root / "predictions.npz", logits=np.zeros(3))
    torch.save(
        {"model": {"a": torch.tensor([0.0, torch.nan])}, "n": [1, 2]},
        root / "checkpoints/epoch-00001-step-0000005-0123456789abcdef.pt",
    )
    return root


CHANGES = {
    "result": lambda root: (root / "result.json").write_text('{"seconds": 2, "history": [{"loss": 0.25}]}'),
    "model": lambda root: (root / "model.safetensors").write_bytes(b"weighed"),
    "average": lambda root: (root / "model_ema.safetensors").write_bytes(b"another average"),
    "steps": lambda root: (root / "steps.csv").unlink(),
    "journal": lambda root: (root / "journal.jsonl").write_text(""),
    "predictions": lambda root: np.savez(root / "predictions.npz", logits=-np.zeros(3)),  # equal, but for a bit
    "checkpoint": lambda root: torch.save(
        {"model": {"a": torch.tensor([-0.0, torch.nan])}, "n": [1, 2]},
        root / "checkpoints/epoch-00001-step-0000005-0123456789abcdef.pt",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_a_run_computed_differently_is_found(run_dir, what):
    other = run_dir.with_name("other")
    shutil.copytree(run_dir, other)
    assert differences(run_dir, other) == []
    CHANGES[what](other)
    found = differences(run_dir, other)
    assert found and all(line.startswith(what) for line in found)


@pytest.mark.parametrize(("series", "is_flat"), [
    ([1e6 * min(job, 9) + 1e5 * (job % 3) for job in range(40)], True),  # warms up, then goes up and down
    ([1e7 * (job > 20) for job in range(40)], True),  # a single jump
    ([1e5 * job + 2e5 * (job % 5) for job in range(40)], False),
    ([2e5 * (job // 2) for job in range(40)], False),  # every second job
])  # fmt: skip
def test_memory_that_each_job_keeps_is_found(series, is_flat):
    if is_flat:
        check_flat(series, 64 * 1024, "bytes")
    else:
        with pytest.raises(AssertionError, match=r"bytes: .* more with each job"):
            check_flat(series, 64 * 1024, "bytes")


def test_times_and_seconds_are_no_difference(run_dir):
    other = run_dir.with_name("other")
    shutil.copytree(run_dir, other)
    for name in ("result.json", "journal.jsonl"):
        text = (other / name).read_text()
        (other / name).write_text(text.replace('"seconds": 1', '"seconds": 7').replace('"perf/s":3', '"perf/s":4'))
    assert differences(run_dir, other) == []
