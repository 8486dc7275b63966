"""Which files of a folder are images, in which order, and that what is left out is counted."""

from __future__ import annotations

import os
import shutil
import socket
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from resnet_exp.data.image_folder import ImageFolder
from resnet_exp.data.image_listing import endings, images_in, list_images, shown_left_out
from resnet_exp.interfaces import ConfigError
from resnet_exp.runs.console import Console

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, of two training images and a test image each."""
    for name in ("train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "train/dog/1.png"):
        touch(tmp_path / "set" / name)
    for name in ("test/cat/0.png", "test/dog/0.png"):
        touch(tmp_path / "set" / name)
    return tmp_path / "set"


def refused(root: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        list_images(root)
    return str(caught.value)


# What is an image


def test_what_pillow_decodes_is_an_image_by_any_of_its_endings(root: Path) -> None:
    for ending in (
        "jfif",
        "jpe",
        "JPEG",
        "avif",
        "ppm",
        "pgm",
        "pbm",
        "jp2",
        "tga",
        "webp",
        "gif",
        "tif",
        "ico",
        "mpo",
    ):
        touch(root / "train" / "cat" / f"image.{ending}")
    assert list_images(root).num_train == 4 + 14


def test_what_pillow_only_recognises_or_gives_to_another_program_is_none(root: Path) -> None:
    """Pillow has no decoder for films and scientific containers, and starts Ghostscript for PostScript."""
    others = ("pdf", "eps", "ps", "mpg", "h5", "hdf", "grib", "bufr", "wmf", "emf", "txt", "heic", "npy")
    for ending in others:
        touch(root / "train" / "cat" / f"other.{ending}")
    listing = list_images(root)
    assert listing.num_train == 4
    assert listing.left_out == Counter({f".{ending}": 1 for ending in others})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_format_that_pillow_writes_and_we_list_is_decoded(tmp_path: Path) -> None:
    """An ending that is listed but never decoded would end every run with an unreadable image."""
    tried = set()
    Image.init()
    for ending in sorted(endings()):
        kind = Image.registered_extensions()[ending]
        if kind in Image.SAVE:
            path = tmp_path / f"image{ending}"
            image = Image.new({"MSP": "1", "XBM": "1", "BLP": "P"}.get(kind, "RGB"), (32, 32))
            image.save(path, kind)
            with Image.open(path) as opened:
                opened.load()
            tried.add(kind)
    assert {"JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000", "ICO"} <= tried


def test_what_is_left_out_is_counted_by_ending_and_told_when_images_are_read(root: Path, caplog) -> None:
    for split, kinds in (("train", {"heic": 12, "txt": 3, "jpg~": 2}), ("test", {"heic": 2})):
        for kind, count in kinds.items():
            for index in range(count):
                touch(root / split / "dog" / f"{index}.{kind}")
    touch(root / "train" / "dog" / "LICENSE")
    touch(root / "train" / "dog" / "a. strange name")
    touch(root / "train" / "loose.png")
    touch(root / "val" / "cat" / "0.png")
    (root / "train" / "cat" / ".DS_Store").touch()
    (root / "figures").mkdir()
    for path in root.rglob("*.png"):
        Image.new("L", (8, 8)).save(path)
    ImageFolder(str(root), cache=str(root.parent)).load(Console().progress)
    assert caplog.messages == [
        f"data.root={root}: left out: 14 .heic, 3 .txt, 2 .jpg~, 2 without an ending, "
        "1 outside the classes of train/, 1 val/."
    ]


def test_many_kinds_of_files_are_told_in_one_line() -> None:
    text = shown_left_out(Counter({f".{index:02}": 20 - index for index in range(14)}))
    assert text.startswith("20 .00, 19 .01, ") and text.endswith("11 .09, 34 others")


@pytest.mark.parametrize(
    "folder", ["@eaDir", "__MACOSX", "$RECYCLE.BIN", "lost+found", ".ipynb_checkpoints", "#recycle"]
)
def test_what_systems_put_into_folders_is_neither_class_nor_image(root: Path, folder: str) -> None:
    for split in ("train", "test"):
        touch(root / split / folder / "SYNOPHOTO_THUMB_M.jpg")
        touch(root / split / "cat" / folder / "0.png" / "SYNOPHOTO_THUMB_M.jpg")
    touch(root / "train" / "cat" / "Thumbs.db")
    listing = list_images(root)
    assert listing.class_names == ("cat", "dog") and listing.num_train == 4 and len(listing.names) == 6
    assert listing.left_out == Counter({".db": 1} | ({} if folder[0] == "." else {f"{folder}/": 4}))


def test_pipes_sockets_and_devices_are_no_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    (root / "train" / "cat" / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(root / "train" / "cat")  # a socket's path may have 107 bytes only
        listening.bind("socket.png")
        listing = list_images(root)
    assert listing.num_train == 4 and listing.left_out == Counter({"pipes or devices": 3})


def test_a_dangling_link_is_listed_so_that_it_is_told_as_unreadable(root: Path) -> None:
    (root / "train" / "cat" / "link.png").symlink_to("nowhere")
    assert "train/cat/link.png" in list_images(root).names


# Links


def test_linked_folders_are_followed_once_even_where_they_lead_to_one_another(root: Path, tmp_path: Path) -> None:
    touch(tmp_path / "far" / "1.jpg")
    touch(tmp_path / "wide" / "2.jpg")
    (tmp_path / "far" / "on").symlink_to(tmp_path / "wide")
    (tmp_path / "wide" / "back").symlink_to(tmp_path / "far")
    (root / "train" / "cat" / "linked").symlink_to(tmp_path / "far")
    (root / "train" / "dog" / "up").symlink_to("..")
    (root / "train" / "dog" / "top").symlink_to("/")
    listing = list_images(root)
    assert [name for name in listing.names if name.endswith("jpg")] == [
        "train/cat/linked/1.jpg", "train/cat/linked/on/2.jpg"
    ]  # fmt: skip
    assert listing.left_out == Counter({"links to a folder above": 3})


def test_a_folder_to_predict_is_listed_as_one_to_train_on(root: Path, tmp_path: Path) -> None:
    touch(tmp_path / "far" / "1.jpg")
    (root / "train" / "cat" / "linked").symlink_to(tmp_path / "far")
    touch(root / "train" / "cat" / "@eaDir" / "2.jpg")
    touch(root / "train" / "cat" / "3.heic")
    found = images_in(root / "train" / "cat", "images")
    assert [f"train/cat/{name}" for name in found.names] == list_images(root).names[:3]
    assert found.left_out == list_images(root).left_out


# Names


def test_a_class_is_one_in_either_unicode_form(root: Path) -> None:
    """macOS writes names decomposed; on Linux train/ and test/ may come from different machines."""
    touch(root / "train" / COMPOSED / "0.png")
    touch(root / "test" / DECOMPOSED / "0.png")
    listing = list_images(root)
    assert listing.class_names == ("cat", "dog", COMPOSED)
    assert f"test/{DECOMPOSED}/0.png" in listing.names, "the path is the one on the disk"
    assert listing.labels.tolist() == [0, 0, 1, 1, 2, 0, 1, 2]


def test_order_and_identity_do_not_depend_on_the_unicode_form(root: Path, tmp_path: Path) -> None:
    """Decomposed, é sorts before f; composed, after z."""
    identities = set()
    for form in ("NFC", "NFD"):
        copy = tmp_path / form
        shutil.copytree(root, copy)
        for split in ("train", "test"):
            for label, name in enumerate(("ef", "eé", "ez")):
                path = touch(copy / split / unicodedata.normalize(form, name) / unicodedata.normalize(form, "é.png"))
                path.write_text(str(label))
        listing = list_images(copy)
        assert listing.class_names == ("cat", "dog", "ef", "ez", "eé")
        identities.add(ImageFolder(str(copy), cache=str(tmp_path / "cache")).identity())
    assert len(identities) == 1


def test_two_folders_of_one_name_in_two_forms_are_refused_in_words(root: Path) -> None:
    touch(root / "train" / COMPOSED / "0.png")
    touch(root / "train" / DECOMPOSED / "0.png")
    message = refused(root)
    assert f"two folders in train/ have the name {COMPOSED}, in two Unicode forms" in message
    assert r"('\xe9' and 'e\u0301')" in message and "merge them, or rename one" in message


def test_letters_that_differ_by_case_are_two_classes(root: Path) -> None:
    """Data sets of characters have them."""
    for split in ("train", "test"):
        for name in ("a", "A"):
            touch(root / split / name / "0.png")
    assert list_images(root).class_names == ("A", "a", "cat", "dog")


@pytest.mark.parametrize(("here", "there"), [("Cat", "cat"), ("cat ", "cat"), ("big_cat", "big-cat"), ("ﬁsh", "fish")])
def test_classes_that_differ_in_what_the_eye_misses_are_named_side_by_side(root: Path, here: str, there: str) -> None:
    shutil.rmtree(root / "train" / "cat")
    shutil.rmtree(root / "test" / "cat")
    touch(root / "train" / here / "0.png")
    touch(root / "test" / there / "0.png")
    assert f"by the same names. test/ has {there!r} for {here!r}." in refused(root)


def test_a_name_that_is_no_utf8_is_listed_as_it_is(root: Path) -> None:
    for split in ("train", "test"):
        touch(Path(os.fsdecode(os.fsencode(root / split) + b"/\xff\xe9/\xe9.png")))
    listing = list_images(root)
    assert listing.class_names[2] == "\udcff\udce9" and len(listing.names) == 8
    assert ImageFolder(str(root), cache=str(root.parent)).identity()


def test_an_empty_class_is_named_with_what_is_in_it(root: Path) -> None:
    touch(root / "test" / "bird" / "0.png")
    touch(root / "train" / "bird" / "0.heic")
    assert "no images in class bird under train/, but 1 .heic. Image files end in .jpg, .png or" in refused(root)


def test_a_root_in_the_home_folder_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    assert ImageFolder("~/set").root == root
