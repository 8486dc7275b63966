"""Lists the images of a folder, `train/<class>/…` and `test/<class>/…`, without opening a file."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_exp.interfaces import ConfigError

SPLITS = ("train", "test")
# What a file system says of a file. Whatever writes to a file changes its ctime, which no program can set.
STAMP = np.dtype([("device", "u8"), ("inode", "u8"), ("size", "i8"), ("ctime_ns", "i8"), ("mtime_ns", "i8")])
Stamp = tuple[int, int, int, int, int]
# Formats that Pillow recognises but does not decode, or decodes by starting another program (Ghostscript).
_NOT_DECODED = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
# Folders that systems make by themselves, with thumbnails or deleted files in them.
_SYSTEM_FOLDERS = ("@eadir", "#recycle", "@recycle", "#snapshot", "__macosx", "$recycle.bin", "lost+found",
                   "system volume information")  # fmt: skip
_ENDING = re.compile(r"\.[\w~+-]{1,10}", re.ASCII)
_MOST_SHOWN = 10  # classes, or kinds of files, that a message names


@dataclass(frozen=True)
class FoundImages:
    """The images in a folder and its subfolders, in the order of their names whatever Unicode form these have."""

    names: list[str]  # relative to the folder: `cat/0001.jpg`
    stamps: np.ndarray  # [N], STAMP
    left_out: Counter[str]  # how often what else is there: `.heic`, `@eaDir/`


@dataclass(frozen=True)
class Listing:
    """All images under a root, the training images first, sorted by class, then by name.

    Labels count the classes in the order of their names. These are in Unicode's composed form (NFC): the decomposed
    one of macOS names the same class.
    """

    class_names: tuple[str, ...]
    num_train: int
    names: list[str]  # relative to the root: `train/cat/0001.jpg`
    labels: np.ndarray  # [N], int64
    stamps: np.ndarray  # [N], STAMP
    left_out: Counter[str]

    def content_hash(self, digests: np.ndarray) -> str:
        """A sha256 of all names and of the digests `[N, 32], uint8` of their bytes: equal for a copy of the folder."""
        hashed = hashlib.sha256()
        for name, digest in zip(self.names, digests, strict=True):
            # A zero byte, which no file name has, ends the name; all digests are of one length.
            hashed.update(_composed(name).encode("utf-8", "surrogateescape") + b"\0" + digest.tobytes())
        return hashed.hexdigest()


@functools.cache
def endings() -> frozenset[str]:
    """The endings of the image files that the installed Pillow decodes, in small letters: `.jpg`."""
    from PIL import Image

    known = Image.registered_extensions()
    decoded = {"MPO", *Image.OPEN} - {*_NOT_DECODED}  # MPO files are opened as JPEG
    return frozenset(ending for ending, kind in known.items() if kind in decoded)


def check_root(root: Path) -> None:
    """Checks that the folder has `train/` and `test/`, which takes no time however many images it holds.

    Raises:
        ConfigError: There is no such folder, it has no `train/` and `test/`, or it cannot be read.
    """
    with _os_errors_as_config_errors(f"data.root={root}"):
        if not _is_folder(root):
            found = "that is a file, not a folder" if root.exists() else "there is no such folder"
            raise ConfigError(f"data.root={root}: {found}. {_layout()}")
        missing = [f"{split}/" for split in SPLITS if not _is_folder(root / split)]
    if missing:
        raise ConfigError(f"data.root={root}: the folder has no {' and no '.join(missing)}. {_layout()}")


def list_images(root: Path) -> Listing:
    """Every image under `train/` and `test/`, in nested and linked folders too.

    Hidden files and folders do not count, nor do the folders that systems make by themselves.

    Raises:
        ConfigError: There are fewer than two classes, a class without images, a class in one split only, or a folder
            that cannot be read.
    """
    left_out: Counter[str] = Counter()
    with _os_errors_as_config_errors(f"data.root={root}"):
        # The classes before the files: a wrong layout is found without listing a million files.
        folders = {split: _class_folders(root, split, left_out) for split in SPLITS}
        _check_classes(root, folders["train"], folders["test"])
        left_out.update(_other_splits(root, folders["train"]))
        found = [(split, folder, _images_in(root / split / folder)) for split in SPLITS
                 for folder in folders[split].values()]  # fmt: skip
    _check_none_is_empty(root, found)
    class_names = tuple(folders["train"])
    counts = [len(images.names) for _, _, images in found]
    return Listing(
        class_names,
        sum(counts[: len(class_names)]),
        [f"{split}/{folder}/{name}" for split, folder, images in found for name in images.names],
        np.repeat(np.tile(np.arange(len(class_names)), 2), counts),
        np.concatenate([images.stamps for _, _, images in found]),
        sum((images.left_out for _, _, images in found), left_out),
    )


def images_in(folder: Path, key: str) -> FoundImages:
    """Every image in a folder and its subfolders, nested and linked; hidden ones do not count, as in `list_images`.

    Args:
        folder: the folder.
        key: the setting that names it, for the message.

    Raises:
        ConfigError: A folder in it cannot be read.
    """
    with _os_errors_as_config_errors(f"{key}={folder}"):
        return _images_in(folder)


def stamps_of(root: Path, names: Sequence[str]) -> np.ndarray:
    """The stamps `[N], STAMP` that files have now; zeros for one that is gone."""
    return np.array([_stamp_now(f"{root}/{name}") for name in names], STAMP)


def stamp_of(found: os.stat_result) -> Stamp:
    """What `STAMP` keeps of a file's status."""
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns, found.st_mtime_ns


def shown_left_out(left_out: Counter[str]) -> str:
    """What was left out, the most frequent first: `12 .heic, 3 .txt`; empty where nothing was."""
    kinds = sorted(left_out.items(), key=lambda kind: (-kind[1], kind[0]))
    more = sum(count for _, count in kinds[_MOST_SHOWN:])
    return ", ".join([f"{count:,} {kind}" for kind, count in kinds[:_MOST_SHOWN]] + [f"{more:,} others"] * bool(more))


@contextmanager
def _os_errors_as_config_errors(setting: str) -> Iterator[None]:
    """Raises ConfigError with the name of a folder that the operating system does not let us read."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{setting}: {error.filename} cannot be read ({error.strerror}); allow it, or choose another folder"
        ) from error


def _is_folder(path: Path) -> bool:
    """Whether it is a folder. `Path.is_dir` is False without permission in some Pythons and raises in others."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _other_splits(root: Path, class_folders: dict[str, str]) -> list[str]:
    """The folders beside `train/` and `test/` that hold a class too, such as `val/`."""
    others = [name for name in os.listdir(root) if name not in SPLITS and not name.startswith(".")]
    return [f"{name}/" for name in others if any(_is_folder(root / name / one) for one in class_folders.values())]


def _class_folders(root: Path, split: str, left_out: Counter[str]) -> dict[str, str]:
    """The folder of each class by its name in composed form, in the order of these; counts what is no class."""
    found: dict[str, str] = {}
    for entry in _entries(root / split, left_out):
        if not entry.is_dir():
            left_out[f"outside the classes of {split}/"] += 1
        elif found.setdefault(_composed(entry.name), entry.name) != entry.name:
            one, other = sorted(map(ascii, (entry.name, found[_composed(entry.name)])))
            raise ConfigError(
                f"data.root={root}: two folders in {split}/ have the name {_composed(entry.name)}, "
                f"in two Unicode forms ({one} and {other}); merge them, or rename one"
            )
    # Sorted: labels are the classes' positions, and scandir's order differs between file systems.
    return dict(sorted(found.items()))


def _check_classes(root: Path, train: Iterable[str], test: Iterable[str]) -> None:
    names = {"train": set(train), "test": set(test)}
    if len(names["train"]) < 2:
        found = f"only one class ({min(names['train'])})" if names["train"] else "no folder of a class"
        raise ConfigError(
            f"data.root={root}: train/ holds {found}; telling images apart takes two or more. {_layout()}"
        )
    # A class only in train/ could not be tested; one only in test/ would have no label.
    for here, there in (("train", "test"), ("test", "train")):
        if lost := sorted(names[here] - names[there]):
            raise ConfigError(
                f"data.root={root}: {_named(lost)} under {here}/ but not under {there}/; "
                f"both must hold the same classes, by the same names.{_almost(lost[0], there, names[there])}"
            )


def _almost(name: str, split: str, others: set[str]) -> str:
    """Says which name of the other split differs only in what the eye misses; empty if there is none."""
    alike = [other for other in sorted(others) if _look(other) == _look(name)]
    return f" {split}/ has {alike[0]!r} for {name!r}." if alike else ""


def _look(name: str) -> str:
    """The name without case, spaces, hyphens and underscores, its characters in the simplest form."""
    return re.sub(r"[\s_-]", "", unicodedata.normalize("NFKC", name).casefold())


def _check_none_is_empty(root: Path, found: list[tuple[str, str, FoundImages]]) -> None:
    for split in SPLITS:
        empty = [(folder, images) for where, folder, images in found if where == split and not images.names]
        if not empty:
            continue
        there = shown_left_out(sum((images.left_out for _, images in empty), Counter()))
        raise ConfigError(
            f"data.root={root}: no images in {_named([folder for folder, _ in empty])} under {split}/"
            f"{f', but {there}' if there else ''}. {image_endings()}"
        )


def image_endings() -> str:
    """The sentence that says which files are taken for images."""
    return "Image files end in .jpg, .png or another ending that Pillow decodes; hidden ones do not count."


def _images_in(folder: Path) -> FoundImages:
    left_out: Counter[str] = Counter()
    found = list(_walk(str(folder), "", os.path.realpath(folder), (), left_out))
    # By the composed form, so that a copy made by macOS has the same order; then by the bytes, for a definite one.
    found.sort(key=lambda image: (_composed(image[0]), image[0]))
    return FoundImages([name for name, _ in found], np.array([stamp for _, stamp in found], STAMP), left_out)


def _walk(
    folder: str, prefix: str, real: str, came_from: tuple[str, ...], left_out: Counter[str]
) -> Iterator[tuple[str, Stamp]]:
    """Yields name and stamp of each image in a folder and its subfolders; links are followed.

    Args:
        folder: its path.
        prefix: what precedes the names in it.
        real: its path without links.
        came_from: the real paths of the folders whose links led here: a link to one that holds one of these would be
            followed for ever.
        left_out: counts what is not yielded, but for hidden files and folders.
    """
    for entry in _entries(folder, left_out):
        if not entry.is_dir():
            if stamp := _stamp_of_image(entry, left_out):
                yield prefix + entry.name, stamp
        elif not entry.is_symlink():
            below = os.path.join(real, entry.name)
            yield from _walk(entry.path, f"{prefix}{entry.name}/", below, came_from, left_out)
        elif _holds(target := os.path.realpath(entry.path), (*came_from, real)):
            left_out["links to a folder above"] += 1
        else:
            yield from _walk(entry.path, f"{prefix}{entry.name}/", target, (*came_from, real), left_out)


def _entries(folder: str | Path, left_out: Counter[str]) -> Iterator[os.DirEntry[str]]:
    """Yields what is in a folder, but for hidden entries and, counted, the folders of systems."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.lower() in _SYSTEM_FOLDERS:
                left_out[f"{entry.name}/"] += 1
            else:
                yield entry


def _holds(folder: str, others: tuple[str, ...]) -> bool:
    """Whether one of the other folders is this one, or lies in it."""
    return any(os.path.commonpath((folder, other)) == folder for other in others)


def _stamp_of_image(entry: os.DirEntry, left_out: Counter[str]) -> Stamp | None:
    """The stamp of an image file; None, and counted, for anything else.

    A dangling link is an image, so that it is reported as unreadable. A pipe is none: opening it would wait.
    """
    ending = os.path.splitext(entry.name)[1].lower()
    if ending not in endings():
        left_out[ending if _ENDING.fullmatch(ending) else "without an ending"] += 1
        return None
    try:
        found = entry.stat()
    except OSError:
        return stamp_of(entry.stat(follow_symlinks=False))
    if not stat.S_ISREG(found.st_mode):
        left_out["pipes or devices"] += 1
        return None
    return stamp_of(found)


def _stamp_now(path: str) -> Stamp:
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return (0, 0, 0, 0, 0)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_SHOWN]) + (", …" if len(names) > _MOST_SHOWN else "")
    return f"class {shown}" if len(names) == 1 else f"{len(names)} classes ({shown})"


def _layout() -> str:
    return "Expected: <root>/train/<class>/<image> and <root>/test/<class>/<image>."
