"""Runs whose process was killed are ended, in their journals and in their tracker, by the next command."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from resnet_exp.interfaces import Mirror
from resnet_exp.run_dir.journal import Journal, last_status, read
from resnet_exp.run_dir.lock import locked
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.runs import dead_runs
from resnet_exp.runs.dead_runs import REASON, end_dead, telling_of_dead
from resnet_exp.sweeps import session
from resnet_exp.sweeps.ledger import Ledger
from resnet_exp.sweeps.parent_run import Parent
from tests.planned import composed_sweep

SETTINGS = {"_target_": "somewhere.Tracker", "uri": "sqlite:///a.db"}


def a_run(root: Path, *statuses: str, settings: Any = SETTINGS, lines: int = 0) -> Path:
    with Journal(RunPaths(root).journal) as journal:
        for status in statuses:
            journal.status(status, REASON if status == "KILLED" else None)
            for step in range(lines):
                journal.metrics({"loss": 0.5}, step)
    RunPaths(root).config.write_text(yaml.safe_dump({"tracker": settings}))
    return root


class Told(Mirror):
    """A mirror that is complete once it was ended, and counts."""

    def __init__(self, tracker: Tracking, root: Path) -> None:
        self.tracker, self.root = tracker, root

    def is_complete(self) -> bool:
        return self.root.name in self.tracker.complete

    def end(self) -> list[str]:
        time.sleep(self.tracker.seconds)
        self.tracker.told.append((self.root.name, last_status(RunPaths(self.root).journal)))
        self.tracker.complete.add(self.root.name)
        return []

    def give_up(self) -> list[str]:
        self.tracker.given_up.append(self.root.name)
        return []


class Tracking:
    def __init__(self, seconds: float = 0.0) -> None:
        self.told: list[tuple[str, str | None]] = []
        self.given_up: list[str] = []
        self.complete, self.seconds = {"own"}, seconds

    def open(self, run_dir: Path, label: str) -> Mirror:
        return Told(self, run_dir)


def command(folder: Path, tracker: Tracking, settings: Any = SETTINGS) -> None:
    mirror = telling_of_dead(Told(tracker, folder / "own"), end_dead(folder), tracker, settings)
    Journal(RunPaths(folder / "own").journal).close()
    mirror.begin()
    mirror.end()


def test_the_killed_are_ended_and_told_and_no_others(tmp_path: Path) -> None:
    outputs, tracker = tmp_path / "outputs", Tracking()
    a_run(outputs / "killed", "RUNNING", lines=500)
    a_run(outputs / "killed twice", "RUNNING", "KILLED", "RUNNING")
    a_run(outputs / "finished", "RUNNING", "FINISHED")
    a_run(outputs / "failed", "RUNNING", "FAILED", lines=500)
    a_run(outputs / "alive", "RUNNING")
    a_run(outputs / "of another tracker", "RUNNING", settings={"_target_": "else.Where"})
    a_run(outputs / "untold", "RUNNING", "KILLED")
    a_run(tmp_path / "elsewhere" / "killed", "RUNNING")
    (outputs / "link").symlink_to(tmp_path / "elsewhere" / "killed")
    (outputs / "no run").mkdir()
    (outputs / "damaged").mkdir()
    (outputs / "damaged" / "journal.jsonl").write_bytes(b'\0{"kind":"status","status":"RUNNING"}\n')
    (outputs / "pipe").mkdir()
    os.mkfifo(outputs / "pipe" / "journal.jsonl")
    with locked(RunPaths(outputs / "alive").lock):
        command(outputs, tracker)
        told = {(name, status) for name, status in tracker.told if name != "own"}
        assert told == {("killed", "KILLED"), ("killed twice", "KILLED"), ("untold", "KILLED")}
        now = {path.name: last_status(RunPaths(path).journal) for path in outputs.iterdir()
               if path.name not in ("damaged", "pipe")}  # fmt: skip
        assert now == {
            "killed": "KILLED", "killed twice": "KILLED", "untold": "KILLED", "of another tracker": "KILLED",
            "finished": "FINISHED", "failed": "FAILED", "alive": "RUNNING", "link": "RUNNING", "no run": None,
            "own": None,
        }  # fmt: skip
        assert read(RunPaths(outputs / "killed").journal)[-1]["reason"] == REASON
        before = {path: path.read_bytes() for path in outputs.glob("*/journal.jsonl") if path.is_file()}
        command(outputs, tracker)
        assert len([name for name, _ in tracker.told if name != "own"]) == 3  # once
        assert {path: path.read_bytes() for path in before} == before


def test_a_killed_sweep_is_ended_and_told_by_the_next_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the runs of its jobs, which are in another folder."""
    monkeypatch.chdir(tmp_path)
    tracker = Tracking()
    monkeypatch.setattr(session, "tracker_of", lambda _: tracker)
    with composed_sweep("experiment=quickstart", "seed=1,2", "tracker=csv") as (config, _):
        settings: Any = OmegaConf.to_container(config.tracker)
        killed = Ledger(tmp_path / "multirun" / "killed")
        killed.begin({"command": "killed", "space": {"seed": "1,2"}, "seeds": 1, "config": {"task": "train"}})
        parent = Parent(killed, Mirror(), {}, "maximize", settings)
        parent.start()
        parent._ending.set()  # a killed process runs no thread
        a_run(tmp_path / "outputs" / "job", "RUNNING", settings=settings)
        a_run(tmp_path / "outputs" / "elsewhere", "RUNNING")
        assert last_status(killed.paths.journal) == "RUNNING"
        following = Ledger(tmp_path / "multirun" / "own")
        following.begin({"command": "own", "space": {"seed": "1,2"}, "seeds": 1, "config": {"task": "train"}})
        mirror = session.parent_of(config, following, {})._mirror
        mirror.begin()
        mirror.end()
    told = {(name, status) for name, status in tracker.told if name != "own"}
    assert told == {("killed", "KILLED"), ("job", "KILLED")}
    assert read(killed.paths.journal)[-1]["reason"] == REASON
    assert last_status(tmp_path / "outputs" / "elsewhere" / "journal.jsonl") == "KILLED"


def test_a_run_is_told_of_for_as_long_as_the_command_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it then: a store that takes longer than a run's end may is told all the same."""
    monkeypatch.setattr(dead_runs, "PATIENCE", 0.2)
    monkeypatch.setattr("resnet_exp.tracking.mirror.PATIENCE", 0.2)
    monkeypatch.setattr("resnet_exp.tracking.mirror._in_vain", {})
    tracker = Tracking(seconds=1.5)
    killed = a_run(tmp_path / "killed", "RUNNING")
    Journal(RunPaths(tmp_path / "own").journal).close()
    mirror = telling_of_dead(Told(tracker, tmp_path / "own"), end_dead(tmp_path), tracker, SETTINGS)
    mirror.begin()
    end = time.monotonic() + 30
    while killed.name not in tracker.complete and time.monotonic() < end:
        time.sleep(0.05)
    mirror.end()
    assert (killed.name, "KILLED") in tracker.told
    assert killed.name not in tracker.given_up


def test_a_slow_tracker_is_told_of_some_now_and_of_the_rest_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_runs, "PATIENCE", 0.4)
    tracker = Tracking(seconds=0.15)
    for number in range(9):
        a_run(tmp_path / f"run {number}", "RUNNING")
    start = time.monotonic()
    command(tmp_path, tracker)
    assert time.monotonic() - start < 5
    assert {last_status(RunPaths(tmp_path / f"run {n}").journal) for n in range(9)} == {"KILLED"}
    time.sleep(0.3)  # the one that was under way
    assert len(tracker.told) < 10
    everyone = {f"run {number}" for number in range(9)}
    for _ in range(20):
        if not everyone <= tracker.complete:
            command(tmp_path, tracker)
            time.sleep(0.2)
    assert everyone <= tracker.complete


def test_a_look_at_two_thousand_runs_costs_next_to_nothing(tmp_path: Path) -> None:
    """By what is read, not by a clock: the end of each journal, once, and nothing else is opened."""
    content = b'{"kind":"metrics","time_ms":1,"step":1,"values":{"loss":0.5}}\n' * 400
    content += b'{"kind":"status","time_ms":1,"status":"FINISHED","reason":null}\n'
    for number in range(2000):
        (tmp_path / f"run {number}").mkdir()
        (tmp_path / f"run {number}" / "journal.jsonl").write_bytes(content)
    opened: list[str] = []
    real = os.open

    def counted(path: Any, *given: Any) -> int:
        opened.append(str(path))
        return real(path, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", counted)
        assert end_dead(tmp_path) == []
    assert len(opened) == 2000
    assert not list(tmp_path.glob("*/.lock"))
