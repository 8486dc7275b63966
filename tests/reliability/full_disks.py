"""Disks that are full: at each place that a run writes to, one of some KiB, which fills while the run goes on."""

from __future__ import annotations

import random
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from resnet_exp.run_dir.contents import faults_of
from resnet_exp.run_dir.journal import Journal, last_status, read

from .mlflow_store import check_points, empty_store, rows, statuses
from .small_disk import enlarge, small_disk
from .trials import TINY, Command, differences, reference, start

_NO_ROOM = "No space left on device"
_TRAINING = (*TINY, "train.epochs=4", "train.checkpoint_interval=0")
_REPORT = (*_TRAINING, "report.html=true", "report.curves=true")
_FOLDER = (
    *(*TINY, "data=image_folder", "data.root=images", "data.cache=cache", "data.image_size=32"),
    *("data.limit_train=null", "data.holdout=10", "train.batch_size=16"),
)


def _ran(*arguments: str, code: int = 0, before: Callable[[], object] | None = None) -> Command:
    command = start(*arguments, before=before)
    found = command.wait()
    assert "Traceback" not in command.output, command.output
    assert found == code, f"exit code {found}: {command.output}"
    return command


def _told_once(command: Command, name: str) -> None:
    lines = [line for line in command.output.splitlines() if _NO_ROOM in line and name in line]
    assert len(lines) == 1, f"{name}: {len(lines)} lines say that there is no room: {command.output}"
    assert "bytes" in lines[0] or "MiB" in lines[0], lines[0]


def _check_whole(run: Path, alone: Path, *, without: str = "") -> None:
    assert last_status(run / "journal.jsonl") == "FINISHED"
    assert not faults_of(run, read(run / "journal.jsonl"))
    found = differences(run, alone, without=without)
    assert not found, found
    assert not list(run.rglob("*.partial"))


def _cache(chance: random.Random, folder: Path) -> None:
    """The caches of decoded images and digests: they stay in memory, with the same result."""
    colours = np.random.default_rng(0)
    for index in range(60):
        path = folder / "images" / ("test" if index >= 48 else "train") / f"class {index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    _ran(*_FOLDER, "output_dir=alone", "data.cache=elsewhere")
    (alone,) = (path.parent for path in folder.glob("alone/*/journal.jsonl"))
    small_disk(folder / "cache", chance.choice((4, 16, 64, 128)))
    usage = namedtuple("usage", "total used free")

    def fills_later() -> None:
        shutil.disk_usage = lambda path: usage(1 << 40, 0, 1 << 40)  # type: ignore[assignment]

    full = _ran(*_FOLDER, before=fills_later)
    _told_once(full, "decoded images")
    left = [path for path in (folder / "cache").iterdir() if not path.name.startswith("digests-")]
    assert not left, f"left on the full disk: {left}"
    (run,) = (path.parent for path in folder.glob("outputs/*/journal.jsonl"))
    _check_whole(run, alone)
    enlarge(folder / "cache")
    again = _ran(*_FOLDER, "rerun=true")
    assert _NO_ROOM not in again.output and list((folder / "cache").glob("*/pixels")), again.output


def _checkpoint(chance: random.Random, folder: Path) -> None:
    """The checkpoints: the run goes on without them, told once for each time that there is no room."""
    alone = reference(*_TRAINING)
    size = max(path.stat().st_size for path in (alone / "checkpoints").iterdir()) // 1024
    disk = folder / "outputs" / alone.name / "checkpoints"
    small_disk(disk, chance.randrange(4, size * 9 // 10))  # none fits
    full = _ran(*_TRAINING)
    _told_once(full, ".pt could not be saved")
    assert not list(disk.iterdir()), f"left on the full disk: {list(disk.iterdir())}"
    _check_whole(disk.parent, alone, without="checkpoint")
    assert "is finished already" in _ran(*_TRAINING).output


def _journal(chance: random.Random, folder: Path) -> None:
    """The whole run directory, which others fill after some line of the journal: the same command goes on."""
    alone = reference(*_TRAINING)
    run, after = folder / "outputs" / alone.name, chance.randrange(1, 12)
    small_disk(run, 1 << 14)
    append = Journal._append
    lines = 0

    def fills(journal: Journal, kind: str, **fields: object) -> None:
        nonlocal lines
        lines += 1
        append(journal, kind, **fields)
        if lines == after:
            _fill(run)

    def install() -> None:
        Journal._append = fills  # type: ignore[method-assign,assignment]

    full = _ran(*_TRAINING, code=1, before=install)
    assert _NO_ROOM in full.output and str(run) in full.output, full.output
    assert len([line for line in full.output.splitlines() if line.startswith("error: ")]) == 1, full.output
    assert last_status(run / "journal.jsonl") == "FAILED", full.output
    (run / "ballast").unlink()
    _ran(*_TRAINING)
    _check_whole(run, alone)


def _fill(folder: Path) -> None:
    """Takes all room that there is."""
    with (folder / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def _store(chance: random.Random, folder: Path) -> None:
    """MLflow's store: the run ends as it would, and the next command completes the store."""
    command = (*_TRAINING, "tracker=mlflow", "tracker.uri=sqlite:///store/mlflow.db")
    alone = reference(*_TRAINING)
    disk = folder / "store"
    empty_store(folder)
    room = (folder / "mlflow.db").stat().st_size // 1024
    small_disk(disk, room + chance.choice((4, 8, 16, 24)))
    shutil.move(folder / "mlflow.db", disk / "mlflow.db")
    full = _ran(*command)
    assert "database or disk is full" in full.output or _NO_ROOM in full.output or "disk I/O" in full.output, (
        f"the disk never filled: {full.output}"
    )
    assert full.output.count("does not keep up") == 1, full.output
    run = folder / "outputs" / alone.name
    _check_whole(run, alone)
    enlarge(disk)
    for _ in range(4):  # on a busy machine the end of one command may not wait long enough
        if "not complete there yet" not in _ran(*command).output:
            break
    assert statuses(disk / "mlflow.db") == {run.name: "FINISHED"}, statuses(disk / "mlflow.db")
    ((run_id,),) = rows(disk / "mlflow.db", "SELECT run_uuid FROM runs")
    check_points(disk / "mlflow.db", run / "journal.jsonl", run_id)


def _report(chance: random.Random, folder: Path) -> None:
    """The report: the run has finished without it, `task=report` fails for it, and the next command draws it."""
    alone = reference(*_REPORT)
    disk = folder / "outputs" / alone.name / "report"
    size = sum(path.stat().st_size for path in (alone / "report").iterdir()) // 1024
    small_disk(disk, chance.randrange(4, size * 9 // 10))
    _told_once(_ran(*_REPORT), str(disk))
    assert last_status(disk.parent / "journal.jsonl") == "FINISHED"
    redrawn = _ran("task=report", f"run_dir={disk.parent}", "report=none", *_REPORT[-2:], code=1)
    _told_once(redrawn, str(disk))
    assert redrawn.output.splitlines()[-1].startswith("error: "), redrawn.output
    enlarge(disk)
    _ran(*_REPORT)
    assert (disk / "report.html").exists()
    _check_whole(disk.parent, alone)


PLACES = (_cache, _checkpoint, _journal, _store, _report)


def full_disk(number: int, folder: Path) -> None:
    """One of the places is a disk without room; it must have filled, and what is there at the end is whole."""
    PLACES[number % len(PLACES)](random.Random(number), folder)
