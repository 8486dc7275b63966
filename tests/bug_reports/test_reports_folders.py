"""What people reported of image folders elsewhere, one test each; the docstring begins with the report."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_exp.data import digest_store, file_digests
from resnet_exp.data.image_folder import ImageFolder
from resnet_exp.data.image_listing import STAMP, list_images
from resnet_exp.interfaces import ConfigError
from resnet_exp.runs.console import Console


@pytest.fixture(autouse=True)
def _old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are taken to be old, and nothing is known of them."""
    monkeypatch.setattr(file_digests, "_SETTLED_NS", -(10**9))
    monkeypatch.setattr(digest_store, "_loaded", {})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Black cats, white dogs: two to train on and one to test."""
    for split, count in (("train", 2), ("test", 1)):
        for name, level in (("cat", 0), ("dog", 255)):
            for index in range(count):
                save(tmp_path / "set" / split / name / f"{index}.bmp", level)
    return tmp_path / "set"


def save(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), level).save(path)
    return path


def load(root: Path) -> tuple[list[int], list[int]]:
    """The grey level and the label of each training image, as a new process finds them."""
    digest_store._loaded.clear()
    train = ImageFolder(str(root), 8).load(Console().progress).train
    return train.images[:, 4, 4, 0].tolist(), train.labels.tolist()


def identity(root: Path) -> str:
    digest_store._loaded.clear()
    return ImageFolder(str(root), 8).identity()


def test_labels_corrected_on_the_disk_are_those_trained_on(root: Path) -> None:
    """ultralytics/yolov5#306: after the labels were repaired, training still took the old ones from its cache."""
    assert load(root) == ([0, 0, 255, 255], [0, 0, 1, 1])
    (root / "train" / "cat").rename(root / "train" / "other")
    (root / "train" / "dog").rename(root / "train" / "cat")
    (root / "train" / "other").rename(root / "train" / "dog")
    assert load(root) == ([255, 255, 0, 0], [0, 0, 1, 1])


def test_another_data_set_under_the_same_names_is_not_taken_for_the_cached_one(root: Path) -> None:
    """voxel51/fiftyone#119: a data set downloaded again under the same file names was shown with the old images."""
    load(root)
    shutil.rmtree(root / "train")
    for name, level in (("cat", 60), ("dog", 180)):
        for index in range(2):
            save(root / "train" / name / f"{index}.bmp", level)
    assert load(root)[0] == [60, 60, 180, 180]


def test_a_program_that_sets_back_the_modification_time_hides_nothing(root: Path) -> None:
    """restic/restic#2179: files changed by programs that keep the modification time were taken for unchanged."""
    before, path = identity(root), root / "train" / "cat" / "0.bmp"
    old = path.stat()
    save(path, 7)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert path.stat().st_size == old.st_size
    assert identity(root) != before


def test_a_file_of_the_same_size_put_in_place_of_another_is_another(root: Path) -> None:
    """treeverse/dvc#1496: an input replaced by another file of the same size went unnoticed."""
    before, path = identity(root), root / "train" / "cat" / "0.bmp"
    old = path.stat()
    shutil.copy(root / "train" / "dog" / "0.bmp", root / "new")
    os.utime(root / "new", ns=(old.st_atime_ns, old.st_mtime_ns))
    os.replace(root / "new", path)
    assert identity(root) != before


def test_a_change_within_the_same_tick_of_the_clock_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libgit2/libgit2sharp#688: a change within the same second as the last look was not seen."""
    monkeypatch.setattr(file_digests, "_SETTLED_NS", 2 * 10**9)
    path = root / "train" / "cat" / "0.bmp"
    found = set()
    for level in range(20):
        save(path, level)
        found.add(identity(root))
    assert len(found) == 20


def test_a_file_system_with_coarse_times_is_not_trusted() -> None:
    """ziglang/zig#2045: caches keyed by times go wrong where the file system counts whole seconds."""
    coarse = np.array([(1, 2, 3, 10**18, 10**18)], STAMP)
    exact = np.array([(1, 2, 3, 10**18 + 7, 10**18 + 7)], STAMP)
    assert not file_digests._shows_changes(coarse, 2 * 10**18)[0]
    assert file_digests._shows_changes(exact, 2 * 10**18)[0]


def test_hidden_folders_are_no_classes(root: Path) -> None:
    """pytorch/vision#2831: `.ipynb_checkpoints` became a class of its own, noticed by a label out of range."""
    save(root / "train" / ".ipynb_checkpoints" / "0-checkpoint.bmp", 0)
    assert list_images(root).class_names == ("cat", "dog")


def test_files_beside_the_classes_are_no_classes(root: Path) -> None:
    """pytorch/vision#79: `.DS_Store` was listed among the classes."""
    (root / "train" / ".DS_Store").write_bytes(b"\0")
    (root / "test" / "desktop.ini").write_text("")
    assert list_images(root).class_names == ("cat", "dog")


def test_a_class_without_images_is_named_before_anything_is_read(root: Path) -> None:
    """pytorch/vision#4925: people keep empty folders in a data set and meet them as an error; ours says which."""
    for split in ("train", "test"):
        (root / split / "bird").mkdir()
    with pytest.raises(ConfigError, match=r"no images in class bird under train/"):
        list_images(root)


def test_thumbnails_of_a_synology_are_not_trained_on(root: Path) -> None:
    """photonixapp/photonix#214: the NAS keeps thumbnails in `@eaDir` folders, which were taken for photos."""
    save(root / "train" / "cat" / "@eaDir" / "0.bmp" / "SYNOPHOTO_THUMB_SM.bmp", 9)
    listing = list_images(root)
    assert listing.num_train == 4 and listing.left_out["@eaDir/"] == 1


def test_jfif_files_are_images(root: Path) -> None:
    """avluis/Hentoid#617: a JPEG whose name ends in `.jfif` was no image."""
    Image.new("L", (8, 8), 77).save(root / "train" / "cat" / "2.jfif", "JPEG")
    assert load(root)[0][2] == 77


def test_the_formats_of_older_collections_are_images(root: Path) -> None:
    """open-edge-platform/datumaro#72: of ImageNet's various endings only `.jpg` was read."""
    for index, ending in enumerate(("JPEG", "ppm", "pgm", "tif")):
        Image.new("L", (8, 8), 50).save(root / "train" / "cat" / f"1{index}.{ending}")
    assert load(root)[0] == [0, 0, 50, 50, 50, 50, 255, 255]


def test_linked_folders_are_searched(root: Path, tmp_path: Path) -> None:
    """cvg/Hierarchical-Localization#283: `Path.glob("**")` found none of the images behind a link."""
    shutil.move(root / "train" / "cat", tmp_path / "elsewhere")
    (root / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "more").mkdir()
    shutil.copy(root / "train" / "dog" / "0.bmp", tmp_path / "more" / "a.bmp")
    (tmp_path / "elsewhere" / "more").symlink_to(tmp_path / "more")
    assert [name for name in list_images(root).names if "cat" in name][:3] == [
        "train/cat/0.bmp", "train/cat/1.bmp", "train/cat/more/a.bmp"
    ]  # fmt: skip


def test_a_link_to_a_folder_above_ends(root: Path) -> None:
    """haltcase/glob#17: one bad link made a listing repeat itself some eighty times."""
    (root / "train" / "cat" / "up").symlink_to("../")
    listing = list_images(root)
    assert len(listing.names) == 6 and listing.left_out["links to a folder above"] == 1


def test_names_written_by_macos_are_those_typed_on_linux(root: Path) -> None:
    """clementine-player/Clementine#5151: names from macOS, decomposed, were not found under their composed form."""
    for split, form in (("train", "NFC"), ("test", "NFD")):
        save(root / split / unicodedata.normalize(form, "Bär") / "0.bmp", 100)
    assert list_images(root).class_names == (unicodedata.normalize("NFC", "Bär"), "cat", "dog")
