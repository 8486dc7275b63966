"""A folder of images: what is refused, how each kind of file is decoded, and that the cache never lies."""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_exp.data import decode_cache, decode_pool
from resnet_exp.data.decoding import decode_image
from resnet_exp.data.image_folder import ImageFolder
from resnet_exp.interfaces import ConfigError, DataSize, RunError


class Seen:
    """A progress display that keeps what it was told of decoding, and how many files were read for their digests."""

    def __init__(self):
        self.opened, self.done, self.read = [], 0, 0

    @contextmanager
    def __call__(self, description, total, done=0):
        if description == "Decoding images":
            self.opened.append(total)
            yield self.advance
        else:
            assert description == "Reading images"
            self.read += total
            yield lambda n=1: None

    def advance(self, n=1):
        self.done += n


def _save(path, colour=(200, 30, 60), mode="RGB", size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture(autouse=True)
def _own_user_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))


@pytest.fixture
def root(tmp_path):
    """Two classes, three training images and one test image each; every image a colour of its own."""
    for split, count in (("train", 3), ("test", 1)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                _save(tmp_path / "set" / split / name / f"{index}.png", (100 * label, 10 * index, 50))
    return tmp_path / "set"


def _load(root, seen=None, **arguments):
    return ImageFolder(str(root), image_size=8, **arguments).load(seen or Seen())


def _entries(folder):
    return [path for path in folder.iterdir() if path.is_dir()] if folder.exists() else []


# What comes out


def test_both_splits_come_out_in_the_order_of_class_and_name(root):
    _save(root / "train" / "cat" / "nested" / "deep.JPEG", (0, 0, 0))
    (root / "train" / "cat" / ".hidden.png").write_text("no image")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / ".trash").mkdir()
    seen = Seen()
    loaded = _load(root, seen)
    assert loaded.class_names == ("cat", "dog")
    assert loaded.train.images.shape == (7, 8, 8, 3) and loaded.test.images.shape == (2, 8, 8, 3)
    assert loaded.train.images.dtype == np.uint8 and loaded.train.labels.dtype == np.int64
    assert loaded.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1] and loaded.test.labels.tolist() == [0, 1]
    assert loaded.train.images[1, 4, 4].tolist() == [0, 10, 50] and loaded.test.images[1, 4, 4].tolist() == [100, 0, 50]
    assert seen.opened == [9] and seen.done == 9


def test_a_link_back_to_a_folder_above_is_not_walked_for_ever(root):
    (root / "train" / "cat" / "again").symlink_to(root / "train")
    assert len(_load(root).train) == 6


@pytest.mark.parametrize(
    ("channels", "all_grey", "expected"), [("auto", True, 1), ("auto", False, 3), (3, True, 3), (1, False, 1)]
)
def test_auto_means_one_channel_only_if_every_image_is_grey(root, channels, all_grey, expected):
    for path in root.rglob("*.png"):
        _save(path, 77, "L")
    if not all_grey:
        _save(root / "test" / "dog" / "0.png", (77, 77, 78))
    loaded = _load(root, channels=channels)
    assert loaded.train.images.shape == (6, 8, 8, expected) and loaded.test.images.shape == (2, 8, 8, expected)
    assert (loaded.train.images == 77).all()


def _palette():
    return Image.new("RGB", (8, 8), (10, 20, 30)).quantize(4)


def _png16():
    return Image.fromarray(np.full((8, 8), 200 * 257, np.uint16))


def _grey_alpha():
    return Image.merge("LA", (Image.new("L", (8, 8), 10), Image.new("L", (8, 8), 0)))


@pytest.mark.parametrize(
    ("ending", "image", "expected"),
    [
        ("png", lambda: Image.new("L", (8, 8), 99), [99, 99, 99]),
        ("png", lambda: Image.new("1", (8, 8), 1), [255, 255, 255]),
        ("png", _palette, [10, 20, 30]),
        ("gif", _palette, [10, 20, 30]),
        ("png", _png16, [200, 200, 200]),
        ("tif", _png16, [200, 200, 200]),
        ("png", lambda: Image.new("RGBA", (8, 8), (9, 8, 7, 255)), [9, 8, 7]),
        ("png", lambda: Image.new("RGBA", (8, 8), (9, 8, 7, 0)), [255, 255, 255]),
        ("png", _grey_alpha, [255, 255, 255]),
        ("tif", lambda: Image.new("CMYK", (8, 8), (255, 0, 0, 0)), [0, 255, 255]),
        ("bmp", lambda: Image.new("RGB", (8, 8), (1, 2, 3)), [1, 2, 3]),
        ("webp", lambda: Image.new("RGB", (8, 8), (250, 250, 250)), [250, 250, 250]),
    ],
)
def test_every_mode_becomes_8_bit_colour(tmp_path, ending, image, expected):
    image().save(tmp_path / f"image.{ending}", **({"lossless": True} if ending == "webp" else {}))
    assert decode_image(tmp_path / f"image.{ending}", 8, 3)[4, 4].tolist() == expected


def test_16_bits_are_scaled_in_grey_too(tmp_path):
    _png16().save(tmp_path / "image.png")
    assert (decode_image(tmp_path / "image.png", 8, 1) == 200).all()


def test_floats_are_unreadable_because_their_range_is_unknown(tmp_path):
    Image.new("F", (8, 8), 0.5).save(tmp_path / "image.tif")
    with pytest.raises(ValueError, match="no agreed range"):
        decode_image(tmp_path / "image.tif", 8, 3)


def test_the_shorter_side_is_resized_and_the_longer_cropped_to_the_middle(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    shown = decode_image(tmp_path / "wide.png", 10, 3)
    assert shown[:, 1:-1].min() == 255 and shown.min() > 200  # only the filter reaches beyond the crop


def test_exif_turns_the_image(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90° clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    shown = decode_image(tmp_path / "turned.jpg", 16, 3)
    assert shown[:, 12:].min() > 240 and shown[:, :4].max() < 15


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "data.image_size=0: a whole number from 8 to 1024"),
        ({"channels": 4}, "data.channels=4: one of auto, 1, 3"),
        ({"channels": True}, "data.channels=true"),
        ({"unreadable": "ignore"}, "data.unreadable=ignore: one of error, skip"),
        ({"root": None}, "data.root=null: a text"),
        ({"cache": ""}, "data.cache=: a text"),
        ({"workers": 0}, "data.workers=0: auto, or a whole number of at least 1"),
    ],
)
def test_a_wrong_argument_names_key_value_and_choices(arguments, message, refused):
    assert message in refused("data", "data.image_folder.ImageFolder", **({"root": "photos"} | arguments))


def _says(root):
    """The message about a folder, from whichever step meets its fault first; a traceback is no message."""
    with pytest.raises(ConfigError) as caught:
        ImageFolder(str(root)).identity()
    message = str(caught.value)
    assert message.startswith(f"data.root={root}: ")
    return message


def test_a_root_that_is_a_file_or_is_not_there_is_named(root):
    assert "that is a file, not a folder" in _says(root / "train" / "cat" / "0.png")
    assert "there is no such folder" in _says(root / "nowhere")
    assert "there is no such folder" in _says(root / "train" / "cat" / "0.png" / "deeper")
    with pytest.raises(ConfigError, match="there is no such folder"):
        ImageFolder("~nobody-of-this-name/images")


def test_an_empty_folder_is_told_what_belongs_there(tmp_path):
    message = _says(tmp_path)
    assert "the folder has no train/ and no test/" in message
    assert "Expected: <root>/train/<class>/<image> and <root>/test/<class>/<image>." in message
    (tmp_path / "train").mkdir()
    assert "the folder has no test/. Expected" in _says(tmp_path)
    (tmp_path / "test").write_text("a file")
    assert "the folder has no test/. Expected" in _says(tmp_path)


def test_two_classes_at_least_are_needed(root):
    for name in ("cat", "dog"):
        shutil.rmtree(root / "train" / name)
        shutil.rmtree(root / "test" / name)
    assert "train/ holds no folder of a class; telling images apart takes two or more. Expected" in _says(root)
    _save(root / "train" / ".hidden" / "0.png")
    _save(root / "train" / "loose.png")
    assert "train/ holds no folder of a class" in _says(root)
    for split in ("train", "test"):
        _save(root / split / "dog" / "0.png")
    assert "train/ holds only one class (dog)" in _says(root)


@pytest.mark.parametrize(("made", "lost", "message"), [
    ("test/bird", None, "class bird under test/ but not under train/; both must hold the same classes"),
    ("train/bird", None, "class bird under train/ but not under test/; both must hold the same classes"),
    (None, "test/dog", "class dog under train/ but not under test/; both must hold the same classes"),
    ("test/Dog", "test/dog", "class dog under train/ but not under test/; both must hold the same classes, by the sam"),
    (None, "test", "2 classes (cat, dog) under train/ but not under test/; both must hold the same classes"),
])  # fmt: skip
def test_test_must_hold_the_classes_of_train_and_no_other(root, made, lost, message):
    if lost:
        shutil.rmtree(root / lost)
    (root / "test").mkdir(exist_ok=True)
    if made:
        _save(root / made / "0.png")
    assert message in _says(root)


def test_a_class_without_an_image_is_named(root):
    (root / "train" / "bird" / "empty" / "deeper").mkdir(parents=True)
    (root / "train" / "bird" / "empty" / "notes.txt").write_text("no image")
    _save(root / "train" / "bird" / ".0.png")
    _save(root / "train" / "bird" / ".hidden" / "0.png")
    _save(root / "test" / "bird" / "0.png")
    message = _says(root)
    assert "no images in class bird under train/, but 1 .txt. Image files end in .jpg" in message
    _save(root / "train" / "bird" / "empty" / "deeper" / "found.png")
    assert ImageFolder(str(root)).size() == DataSize(num_train=7, num_classes=3)


@pytest.mark.parametrize("denied", ["", "train", "train/cat", "test/dog"])
def test_a_folder_without_rights_is_named(root, denied, monkeypatch):
    """Denied by hand: the tests may run as a user to whom nothing is."""
    asked, listed = os.stat, os.scandir

    def deny(function):
        def denying(path, *arguments, **more):
            if Path(path) == root / denied:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return function(path, *arguments, **more)

        return denying

    monkeypatch.setattr(os, "scandir", deny(listed))
    if not denied:  # what lies behind a folder that must not be entered cannot be asked about
        monkeypatch.setattr(os, "stat", deny(asked))
    message = _says(root)
    assert f"{root / denied} cannot be read (Permission denied)" in message
    assert "choose another folder" in message


def test_a_link_that_leads_to_itself_is_named(root):
    shutil.rmtree(root / "test")
    (root / "test").symlink_to(root / "test")
    assert f"{root / 'test'} cannot be read (Too many levels of symbolic links)" in _says(root)


def test_the_size_is_that_of_the_listing_without_an_image_being_opened(root, monkeypatch):
    (root / "train" / "cat" / "broken.jpg").write_bytes(b"no image")
    monkeypatch.setattr(Image, "open", None)
    assert ImageFolder(str(root), unreadable="skip").size() == DataSize(num_train=7, num_classes=2)


# Unreadable images


def _break(root, count=1):
    for index in range(count):
        (root / "train" / "cat" / f"broken{index:02}.jpg").write_bytes(b"no image")


def test_unreadable_images_end_the_run_and_are_named(root):
    _break(root, 12)
    with pytest.raises(RunError, match=r"12 of 20 images") as raised:
        _load(root)
    for part in ("train/cat/broken09.jpg: not an image", "and 2 more", "data.unreadable=skip"):
        assert part in str(raised.value)
    assert "broken10" not in str(raised.value)


def test_a_truncated_image_is_unreadable(root):
    path = root / "test" / "dog" / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RunError, match=r"test/dog/cut\.png: .*truncated"):
        _load(root)


def test_skipped_images_are_named_again_when_the_cache_is_read(root, caplog):
    _break(root)
    seen = Seen()
    for _ in range(2):
        caplog.clear()
        loaded = _load(root, seen, unreadable="skip")
        assert "broken00.jpg" in caplog.text
        assert loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert loaded.train.images[:, 4, 4, 1].tolist() == [0, 10, 20, 0, 10, 20]
    assert seen.opened == [9]
    with pytest.raises(RunError, match=r"broken00\.jpg"):
        _load(root, unreadable="error")


def test_an_image_that_became_readable_is_not_left_out_for_ever(root, tmp_path):
    (root / "train" / "cat" / "link.png").symlink_to(tmp_path / "elsewhere.png")
    assert len(_load(root, unreadable="skip").train) == 6
    _save(tmp_path / "elsewhere.png")
    assert len(_load(root, unreadable="skip").train) == 7


def test_a_class_of_which_nothing_is_readable_is_named(root):
    (root / "test" / "dog" / "0.png").write_bytes(b"no image")
    with pytest.raises(RunError, match=r"Not one readable image in dog under .*test"):
        _load(root, unreadable="skip")


# The cache


def test_a_second_load_decodes_nothing_and_gives_the_same(root, monkeypatch):
    first = _load(root)
    monkeypatch.setattr(decode_pool, "decode_run", None)
    seen = Seen()
    second = _load(root, seen)
    assert seen.opened == []
    np.testing.assert_array_equal(first.train.images, second.train.images)
    np.testing.assert_array_equal(first.test.labels, second.test.labels)


def test_writing_to_the_images_does_not_reach_the_cache(root):
    for _ in range(2):
        loaded = _load(root)
        assert loaded.train.images[0, 0, 0, 0] == 0
        loaded.train.images[:] = 255


@pytest.mark.parametrize("change", ["pixels", "image", "size"])
def test_a_changed_folder_or_size_is_decoded_anew(root, change):
    _load(root)
    path = root / "train" / "cat" / "0.png"
    if change == "pixels":  # as many bytes, another time of change
        before = path.stat()
        _save(path, (7, 7, 7))
        assert path.stat().st_size == before.st_size
        os.utime(path, ns=(0, before.st_mtime_ns + 10**9))
    if change == "image":
        _save(root / "train" / "cat" / "9.png")
    seen = Seen()
    loaded = ImageFolder(str(root), image_size=16 if change == "size" else 8).load(seen)
    assert len(seen.opened) == 1
    assert loaded.train.images[0, 4, 4, 2] == (7 if change == "pixels" else 50)


@pytest.mark.parametrize("damage", ["flipped", "cut", "meta_flipped", "meta_cut", "meta_gone"])
def test_a_corrupt_entry_is_noticed_and_decoded_again(root, caplog, damage):
    expected = _load(root).train.images.copy()  # mapped ones would show what is done to the file
    (entry,) = _entries(root / ".resnet_exp_cache")
    pixels, meta = entry / "pixels", entry / "meta.json"
    if damage == "flipped":
        content = bytearray(pixels.read_bytes())
        content[700] ^= 1
        pixels.write_bytes(content)
    elif damage == "cut":
        pixels.write_bytes(pixels.read_bytes()[:-100])
    elif damage == "meta_flipped":
        meta.write_text(meta.read_text().replace("false", "true"))
    elif damage == "meta_cut":
        meta.write_text(meta.read_text()[:-10])
    else:
        meta.unlink()
    seen = Seen()
    again = _load(root, seen)
    assert seen.opened == [8] and "corrupt" in caplog.text
    np.testing.assert_array_equal(again.train.images, expected)
    assert _load(root, seen) and seen.opened == [8]


def test_an_interrupted_write_leaves_no_entry(root, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(decode_cache, "_publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _load(root)
    assert _entries(root / ".resnet_exp_cache") == []


# Without a cache: the images stay in memory


def _warnings(caplog):
    return [record.getMessage() for record in caplog.records if "decoded images" in record.getMessage()]


def _check_in_memory(root, expected, caplog):
    """The same images as cached ones, told in one line with the folder and the room that is needed."""
    found = _load(root)
    np.testing.assert_array_equal(found.train.images, expected.train.images)
    np.testing.assert_array_equal(found.test.images, expected.test.images)
    (line,) = _warnings(caplog)
    assert str(root / ".resnet_exp_cache") in line and f"{8 * 8 * 8 * 3:,} bytes" in line and "\n" not in line
    assert "data.cache=<folder>" in line
    found.train.images[:] = 0  # as those from a cache, they may be changed


@pytest.mark.parametrize("runs_before", [0, 1])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fills_meanwhile_costs_the_cache_alone(root, tmp_path, monkeypatch, caplog, number, runs_before):
    expected = _load(root, cache=str(tmp_path / "other"))
    monkeypatch.setattr(decode_pool, "RUN_BYTES", 2 * 8 * 8 * 3)
    written = []

    class Full(io.FileIO):
        def write(self, content):
            written.append(content)
            if len(written) > runs_before:
                raise OSError(number, os.strerror(number))
            return super().write(content)

    monkeypatch.setattr(decode_cache, "open", lambda path, mode: Full(path, mode.strip("b")), raising=False)
    _check_in_memory(root, expected, caplog)
    assert len(written) == runs_before + 1
    assert _entries(root / ".resnet_exp_cache") == []


def test_a_full_disk_is_told_before_anything_is_decoded(root, tmp_path, monkeypatch, caplog):
    expected = _load(root, cache=str(tmp_path / "other"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 5))
    _check_in_memory(root, expected, caplog)
    assert "5 bytes are free" in caplog.text
    assert _entries(root / ".resnet_exp_cache") == _entries(tmp_path / "user" / "resnet_exp" / "images") == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_where_nothing_may_be_written_all_folders_are_named(root, tmp_path, monkeypatch, caplog, number):
    expected = _load(root, cache=str(tmp_path / "other"))

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    _check_in_memory(root, expected, caplog)
    assert f"{tmp_path / 'user' / 'resnet_exp' / 'images'}: {os.strerror(number)}" in caplog.text


def test_unreadable_images_are_told_without_a_cache_too(root, monkeypatch):
    _break(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(RunError, match=r"(?s)cannot be read.*broken"):
        _load(root)
    assert len(_load(root, unreadable="skip").train) == 6


def test_a_read_only_root_uses_the_users_cache(root, tmp_path, monkeypatch):
    (root / ".resnet_exp_cache").write_text("no folder: stands for one that cannot be written to")
    seen = Seen()
    for _ in range(2):
        _load(root, seen)
    assert seen.opened == [8]
    assert len(_entries(tmp_path / "user" / "resnet_exp" / "images")) == 1


def test_a_named_cache_is_used(root, tmp_path):
    _load(root, cache=str(tmp_path / "mine"))
    assert len(_entries(tmp_path / "mine")) == 1 and not (root / ".resnet_exp_cache").exists()


def test_old_entries_are_removed(root):
    for image_size in range(8, 8 + decode_cache.MAX_ENTRIES + 2):
        ImageFolder(str(root), image_size=image_size).load(Seen())
    assert len(_entries(root / ".resnet_exp_cache")) == decode_cache.MAX_ENTRIES


def test_processes_give_what_threads_give(root, monkeypatch, tmp_path):
    _break(root)
    threads = _load(root, unreadable="skip", workers=2)
    monkeypatch.setattr(decode_pool, "FILES_WORTH_PROCESSES", 1)
    monkeypatch.setattr(decode_pool, "RUN_BYTES", 2 * 8 * 8 * 3)
    processes = _load(root, unreadable="skip", workers=2, cache=str(tmp_path / "other"))
    np.testing.assert_array_equal(threads.train.images, processes.train.images)
    np.testing.assert_array_equal(threads.test.images, processes.test.images)


# The identity


def test_identity_names_no_path_and_is_that_of_a_copy(root, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*.png"):
        os.utime(path, (1, 1))
    identity = ImageFolder(str(root)).identity()
    assert ImageFolder(str(tmp_path / "copy")).identity() == identity
    assert str(tmp_path) not in identity
    _load(root)  # nor does the cache inside it count
    assert ImageFolder(str(root)).identity() == identity


def test_identity_changes_with_the_images_their_classes_and_their_decoding(root):
    skip = {"unreadable": "skip"}
    settings = ({}, {"image_size": 8}, {"channels": 3}, skip, {**skip, "max_megapixels": 1})
    found = {ImageFolder(str(root), **arguments).identity() for arguments in settings}
    assert ImageFolder(str(root), max_megapixels=1).identity() in found, "with unreadable=error nothing is left out"
    _save(root / "train" / "cat" / "3.png")
    found.add(ImageFolder(str(root)).identity())
    (root / "train" / "cat" / "3.png").rename(root / "train" / "dog" / "3.png")
    found.add(ImageFolder(str(root)).identity())
    (root / "train" / "dog" / "3.png").write_bytes(b"of another length")
    found.add(ImageFolder(str(root)).identity())
    assert len(found) == 8


def test_nothing_is_logged_where_all_is_well(root, caplog):
    caplog.set_level(logging.DEBUG, "resnet_exp")
    for _ in range(2):
        _load(root)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
