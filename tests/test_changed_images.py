"""Images that change while their names, sizes and times stay: nothing that is stored takes them for the old ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import open_dict
from PIL import Image

from resnet_exp.config.conf import CONF
from resnet_exp.config.config import Config, typed
from resnet_exp.config.schema import SplitConfig
from resnet_exp.data import digest_store, file_digests, image_listing
from resnet_exp.data.decode_pool import decode_all
from resnet_exp.data.identity import read_identity
from resnet_exp.data.image_folder import ImageFolder
from resnet_exp.data.prepare import resident
from resnet_exp.interfaces import RunError
from resnet_exp.runs.console import Console
from resnet_exp.runs.evaluate import evaluate_checkpoint
from resnet_exp.runs.run import run
from resnet_exp.sweeps.session import ledger_of

TINY = (
    "data=image_folder", "data.image_size=8", "data.validation=test", "data.workers=1", "augmentation=none",
    "model.width=4", "train.epochs=3", "train.batch_size=6", "scheduler.peak_epoch=1", "scheduler.max_lr=0.1",
    "tracker=none", "report=none", "device=cpu",
)  # fmt: skip
MEASURED = ("task=evaluate", "data=image_folder", "data.image_size=8", "tracker=none", "report=none", "device=cpu")


def paint(root: Path, levels: dict[str, int], count: int = 6) -> Path:
    """A folder of BMP files, which all have one size; of each class the test split has half as many."""
    for split, images in (("train", count), ("test", count // 2)):
        for name, level in levels.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for index in range(images):
                path = root / split / name / f"{index}.bmp"
                Image.new("RGB", (8, 8), (level, level + index, 0)).save(path)
                os.utime(path, (10**9, 10**9))
    return root


def repaint(root: Path, levels: dict[str, int]) -> None:
    """Other images in the same files, with their old times."""
    before = {path: path.stat() for path in root.rglob("*.bmp")}
    paint(root, levels)
    for path, old in before.items():
        now = path.stat()
        assert (now.st_size, now.st_mtime_ns, now.st_ino) == (old.st_size, old.st_mtime_ns, old.st_ino)


def config_of(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF)):
        return typed(compose("config", overrides=list(overrides)), overrides)


def new_process() -> None:
    """Forgets what a process knows of files; what is on the disk stays."""
    digest_store._loaded.clear()
    file_digests._verified.clear()


def go(root: Path, *overrides: str, task: tuple[str, ...] = TINY) -> tuple[float | None, Path]:
    """A command's objective and the directory that it worked on last."""
    new_process()
    config = config_of(*task, f"data.root={root}", *overrides)
    objective = (evaluate_checkpoint if config.task == "evaluate" else run)(config, "the command")
    return objective, max(Path("outputs").glob("*/result.json"), key=lambda path: path.stat().st_mtime_ns).parent


def digest_of(directory: Path) -> str:
    """The digest of the training images that a run recorded."""
    entries = map(json.loads, (directory / "journal.jsonl").read_text().splitlines())
    return next(entry["digest"] for entry in entries if entry.get("context") == "train")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(file_digests, "_SETTLED_NS", -(10**9))  # files just made are taken to be old
    monkeypatch.chdir(tmp_path)
    new_process()
    yield
    new_process()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return paint(tmp_path / "set", {"cat": 40, "dog": 200})


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the file system say of each file the same times for ever, as some network file systems do."""

    def make() -> None:
        def stamp_of(found: os.stat_result) -> tuple[int, ...]:
            return found.st_dev, found.st_ino, found.st_size, 1, 2

        monkeypatch.setattr(image_listing, "stamp_of", stamp_of)
        monkeypatch.setattr(file_digests, "stamp_of", stamp_of)

    return make


@pytest.mark.parametrize("is_blind", [False, True], ids=["by its times", "unnoticed by the file system"])
def test_a_finished_run_is_not_that_of_other_images(
    root: Path, blind: Callable[[], None], is_blind: bool, capsys
) -> None:
    if is_blind:
        blind()
    _, first = go(root)
    capsys.readouterr()
    assert go(root)[1] == first
    assert "is finished already" in capsys.readouterr().out
    repaint(root, {"cat": 90, "dog": 100})
    _, second = go(root)
    assert second != first
    assert "is finished already" not in capsys.readouterr().out
    assert digest_of(second) != digest_of(first)
    repaint(root, {"cat": 40, "dog": 200})
    go(root)
    assert "is finished already" in capsys.readouterr().out


@pytest.mark.parametrize("is_blind", [False, True], ids=["by its times", "unnoticed by the file system"])
def test_a_repeated_run_trains_on_the_images_of_now_with_their_labels(
    root: Path, blind: Callable[[], None], is_blind: bool
) -> None:
    if is_blind:
        blind()
    _, first = go(root)
    repaint(root, {"cat": 200, "dog": 40})
    _, again = go(root, "rerun=true")
    assert digest_of(again) != digest_of(first)
    repaint(root, {"cat": 40, "dog": 200})
    _, back = go(root, "rerun=true")
    assert back != first and digest_of(back) == digest_of(first)


@pytest.mark.parametrize("is_blind", [False, True], ids=["by its times", "unnoticed by the file system"])
def test_a_measurement_is_of_the_images_of_now(root: Path, blind: Callable[[], None], is_blind: bool) -> None:
    if is_blind:
        blind()
    accuracy, trained = go(root, "train.epochs=10", "scheduler.max_lr=0.01")
    assert accuracy == 1.0
    task = (*MEASURED, f"checkpoint={trained}")
    assert go(root, task=task)[0] == 1.0
    repaint(root, {"cat": 200, "dog": 40})
    assert go(root, task=task)[0] == 0.0, "every label is wrong now"


def test_a_range_test_is_not_that_of_other_images(root: Path, capsys) -> None:
    found = ("task=range_test", "scheduler.max_lr=find", "range_test.num_steps=20", "range_test.repeats=1")
    go(root, *found)
    repaint(root, {"cat": 90, "dog": 100})
    capsys.readouterr()
    go(root, *found)
    assert "(cached)" not in capsys.readouterr().out


def test_two_folders_of_the_same_names_and_sizes_are_two_in_one_process(root: Path, tmp_path: Path) -> None:
    other = paint(tmp_path / "other", {"cat": 200, "dog": 40})
    how = {"seed": 0, "padding": 0, "batch_size": 6, "device": torch.device("cpu"), "progress": Console().progress}
    data = [
        resident(ImageFolder(str(folder), 8), "mine", SplitConfig("none", None, None), **how)
        for folder in (root, other, root)
    ]
    assert not torch.equal(data[0].train.images, data[1].train.images)
    assert data[0] is data[2]


def test_a_copy_shares_the_decoded_images_and_another_folder_does_not(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy", ignore=shutil.ignore_patterns(".*"))
    paint(tmp_path / "other", {"cat": 200, "dog": 40})
    loaded = [
        ImageFolder(str(tmp_path / name), 8, cache=str(tmp_path / "cache"))
        .load(Console().progress)
        .train.images[0, 0, 0, 0]
        for name in ("set", "copy", "other")
    ]
    assert loaded == [40, 40, 200]
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 2


@pytest.mark.parametrize("when", ["with other times", "within a tick of the clock"])
def test_images_that_change_while_they_are_decoded_end_the_run_and_leave_no_cache(
    root: Path, when: str, blind: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if when == "within a tick of the clock":  # the stamp stays, and so it is not trusted
        blind()
        monkeypatch.setattr(file_digests, "_SETTLED_NS", 10**20)
    source = ImageFolder(str(root), 8)
    source.identity()

    def decode_late(*arguments, **more):
        repaint(root, {"cat": 90, "dog": 200})
        yield from decode_all(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr("resnet_exp.data.image_folder.decode_all", decode_late)
        with pytest.raises(RunError, match=r"9 images in .* changed while they were read \(train/cat/0\.bmp, …\)"):
            source.load(Console().progress)
    assert not [path for path in (root / ".resnet_exp_cache").iterdir() if path.is_dir()]
    assert ImageFolder(str(root), 8).load(Console().progress).train.images[0, 0, 0, 0] == 90


def test_what_was_read_first_is_what_counts_where_the_cache_has_it(root: Path) -> None:
    """The images of a run are those of its signature, though files are changed between the two."""
    expected = ImageFolder(str(root), 8).load(Console().progress).train.images.copy()
    source = ImageFolder(str(root), 8)
    source.identity()
    repaint(root, {"cat": 90, "dog": 100})
    np.testing.assert_array_equal(source.load(Console().progress).train.images, expected)


def test_a_sweep_is_not_that_of_other_images(root: Path, blind: Callable[[], None]) -> None:
    """A dry run asks the file system alone, and is believed until the sweep reads the images."""

    def sweep_root(*overrides: str) -> Path:
        new_process()
        base = [*TINY, f"data.root={root}", *overrides]
        with initialize_config_dir(str(CONF)):
            config = compose("config", [*base, "hydra.sweep.dir=sweeps"], return_hydra_config=True)
        with open_dict(config):
            config.hydra.overrides.task = [*base, "train.label_smoothing=0,0.1"]
        return ledger_of(config)[0].root

    blind()
    first = sweep_root()
    repaint(root, {"cat": 90, "dog": 100})
    assert sweep_root("sweep.dry_run=true") == first
    assert sweep_root() != first


def test_a_data_set_that_reads_nothing_beforehand_needs_only_its_identity() -> None:
    class Plain:
        image_size = 8

        def identity(self) -> str:
            return "plain-1"

    assert read_identity(Plain(), Console().progress) == "plain-1"
    assert read_identity(Plain(), Console().progress, verify=True) == "plain-1"
