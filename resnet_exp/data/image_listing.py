"""Lists the images of a folder, `train/<class>/…` and `test/<class>/…`, without opening a file."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from resnet_exp.interfaces import ConfigError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
SPLITS = ("train", "test")


class ImageFile(NamedTuple):
    """One image, named relative to the root: `train/cat/0001.jpg`."""

    name: str
    size: int  # bytes
    mtime_ns: int
    label: int


@dataclass(frozen=True)
class Listing:
    """All images of a folder, sorted by class, then by name; labels count the classes in the order of their names."""

    class_names: tuple[str, ...]
    train: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]

    @property
    def files(self) -> tuple[ImageFile, ...]:
        return self.train + self.test

    def content_hash(self) -> str:
        """A sha256 of names and sizes: equal for a copy of the folder."""
        return _hash((file.name, file.size) for file in self.files)

    def state_hash(self) -> str:
        """A sha256 of names, sizes and modification times: replacing a file by one of the same size changes it."""
        return _hash((file.name, file.size, file.mtime_ns) for file in self.files)


def check_root(root: Path) -> None:
    """Checks that the folder has `train/` and `test/`, which takes no time however many images it holds.

    Raises:
        ConfigError: There is no such folder, it has no `train/` and `test/`, or it cannot be read.
    """
    with _os_errors_as_config_errors(root):
        if not _is_folder(root):
            found = "that is a file, not a folder" if root.exists() else "there is no such folder"
            raise ConfigError(f"data.root={root}: {found}. {_layout()}")
        missing = [f"{split}/" for split in SPLITS if not _is_folder(root / split)]
    if missing:
        raise ConfigError(f"data.root={root}: the folder has no {' and no '.join(missing)}. {_layout()}")


def list_images(root: Path) -> Listing:
    """Every image under `train/` and `test/`, in nested folders too; hidden files and folders do not count.

    Raises:
        ConfigError: There are fewer than two classes, a class without images, a class in one split only, or a folder
            that cannot be read.
    """
    with _os_errors_as_config_errors(root):
        # The classes before the files: a wrong layout is found without listing a million files.
        class_names = {split: _class_names(root / split) for split in SPLITS}
        _check_classes(root, class_names["train"], class_names["test"])
        train, test = (_list_split(root, split, class_names["train"]) for split in SPLITS)
    return Listing(class_names["train"], train, test)


@contextmanager
def _os_errors_as_config_errors(root: Path) -> Iterator[None]:
    """Raises ConfigError with the name of a folder that the operating system does not let us read."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"data.root={root}: {error.filename} cannot be read ({error.strerror}); allow it, or choose another folder"
        ) from error


def _is_folder(path: Path) -> bool:
    """Whether it is a folder. `Path.is_dir` is False without permission in some Pythons and raises in others."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _class_names(folder: Path) -> tuple[str, ...]:
    # Sorted: labels are the classes' positions, and scandir's order differs between file systems.
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))


def _check_classes(root: Path, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    if len(train) < 2:
        found = f"only one class ({train[0]})" if train else "no folder of a class"
        raise ConfigError(
            f"data.root={root}: train/ holds {found}; telling images apart takes two or more. {_layout()}"
        )
    # A class only in train/ could not be tested; one only in test/ would have no label.
    for here, there, names in (("train", "test", set(train) - set(test)), ("test", "train", set(test) - set(train))):
        if names:
            raise ConfigError(
                f"data.root={root}: {_named(sorted(names))} under {here}/ but not under {there}/; "
                "both must hold the same classes, by the same names."
            )


def _list_split(root: Path, split: str, class_names: tuple[str, ...]) -> tuple[ImageFile, ...]:
    files: list[ImageFile] = []
    for label, name in enumerate(class_names):
        files += sorted(_walk(str(root / split / name), f"{split}/{name}", label))
    counts = Counter(file.label for file in files)
    empty = [name for label, name in enumerate(class_names) if not counts[label]]
    if empty:
        raise ConfigError(
            f"data.root={root}: no images in {_named(empty)} under {split}/. Image files end in {' '.join(ENDINGS)}, "
            "in capitals too; hidden ones do not count."
        )
    return tuple(files)


def _walk(folder: str, name: str, label: int) -> Iterator[ImageFile]:
    """Yields the images in a folder and in its subfolders; links are followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or _leads_back(entry):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{name}/{entry.name}", label)
            elif entry.name.lower().endswith(ENDINGS):
                found = _status(entry)
                yield ImageFile(f"{name}/{entry.name}", found.st_size, found.st_mtime_ns, label)


def _status(entry: os.DirEntry) -> os.stat_result:
    """Size and modification time; of a dangling link its own, so that it is listed and later reported as unreadable."""
    try:
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False)


def _leads_back(entry: os.DirEntry) -> bool:
    """Whether the entry is a link to a folder that contains it: following it would never end."""
    if not entry.is_symlink():
        return False
    here = os.path.realpath(os.path.dirname(entry.path))
    return f"{here}/".startswith(f"{os.path.realpath(entry.path)}/")


def _hash(rows: Iterator[tuple]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        # Separated by zero bytes, which no file name has: ("ab", 1) and ("a", "b1") must differ.
        digest.update("\0".join(map(str, row)).encode("utf-8", "surrogateescape") + b"\0\n")
    return digest.hexdigest()


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"class {shown}" if len(names) == 1 else f"{len(names)} classes ({shown})"


def _layout() -> str:
    return "Expected: <root>/train/<class>/<image> and <root>/test/<class>/<image>."
