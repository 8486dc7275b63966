"""CIFAR-10 and CIFAR-100 as their authors publish them: downloaded, verified and read by torchvision."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from resnet_exp.config.ranges import Text
from resnet_exp.interfaces import DataSize, LabelledImages, LoadedData, Progress, RunError

log = logging.getLogger(__name__)

# Short, so that a user without a network sees the error within 10 s of the command, imports included.
FIRST_BYTES_SECONDS = 3.0
# Longer once data has come: a slow connection may pause.
SILENCE_SECONDS = 60.0
_WORKSPACE = ".cifar-"  # what temporary directories begin with


class _CIFAR:
    """What CIFAR-10 and CIFAR-100 share: find, download, verify and read the files; the subclasses name them.

    Files that are in `root` already are verified and used: first the extracted folder, then the archive. Otherwise
    torchvision downloads the archive into a temporary directory inside `root`, and it is renamed once its md5 is right.
    """

    title: ClassVar[str]
    reader: ClassVar[str]  # the class of torchvision.datasets
    archive_md5: ClassVar[str]
    data_size: ClassVar[DataSize]

    def __init__(self, root: str, download: bool) -> None:
        self.image_size = 32
        self.root = Path(os.path.expanduser(root)).absolute()
        self.download = download

    def identity(self) -> str:
        """`<name>-<md5 of the archive>`; a constant is enough, since every file is verified before it is used."""
        return f"{self.reader.lower()}-{self.archive_md5}"

    def size(self) -> DataSize:
        """Images and classes; constants, so that torchvision is not imported for them."""
        return self.data_size

    def load(self, progress: Progress) -> LoadedData:
        """Both splits: images `[50000, 32, 32, 3]` and `[10000, 32, 32, 3], uint8, 0..255`.

        Raises:
            RunError: The data set is missing or corrupt and cannot be downloaded, or `root` cannot be read or written.
        """
        try:
            loaded = self._read()
            if loaded is None:
                self._extract(self._verified_archive())
                loaded = self._read()
        except OSError as error:
            raise RunError(
                f"data.root={self.root} cannot be read or written to ({error}): give it the permissions or free some "
                "space, or choose another folder with data.root=..."
            ) from error
        if loaded is None:
            raise RunError(f"The files that were just extracted into {self.root} are corrupt: the disk may be faulty.")
        return loaded

    @property
    def _torchvision_class(self) -> Any:
        """torchvision's class for this data set, with the archive's URL, md5 and files."""
        # Imported here, and typed Any: torchvision takes seconds to import, and a config is checked without it.
        from torchvision import datasets

        return getattr(datasets, self.reader)

    def _read(self) -> LoadedData | None:
        """Both splits from the extracted folder, or None where torchvision finds a file missing or its md5 wrong."""
        try:
            train, test = (self._torchvision_class(str(self.root), train=is_train) for is_train in (True, False))
        except RuntimeError:
            return None
        return LoadedData(_labelled(train), _labelled(test), tuple(train.classes))

    def _verified_archive(self) -> Path:
        """The path of the archive, its md5 verified; downloaded if it is missing or corrupt."""
        from torchvision.datasets.utils import calculate_md5

        published = self._torchvision_class
        archive = self.root / published.filename
        fault = "is missing"
        if archive.is_file():
            md5 = calculate_md5(archive)
            if md5 == published.tgz_md5:
                return archive
            fault = f"is corrupt (md5 {md5})"
        if not self.download:
            raise self._unobtainable(fault, "downloading is switched off (data.download=false)")
        log.warning("%s %s; downloading it.", archive, fault)
        with self._workspace() as workspace:
            self._download(workspace, fault)
            os.replace(workspace / published.filename, archive)
        return archive

    def _download(self, folder: Path, fault: str) -> None:
        """Downloads the archive into `folder` and verifies it.

        torchvision sets no time limit for it, and name resolution has none. So it runs in a thread, which is abandoned
        when no data comes; what it still writes goes to `folder`, which the caller deletes.
        """
        from torchvision.datasets.utils import download_url

        published = self._torchvision_class
        errors: list[Exception] = []

        def download() -> None:
            try:
                download_url(published.url, folder, published.filename, published.tgz_md5)
            except Exception as error:  # an exception of a thread would only be printed, and the caller go on
                errors.append(error)

        thread = threading.Thread(target=download, name="cifar-download", daemon=True)  # never delays the exit
        thread.start()
        silence = _wait(thread, folder / published.filename)
        if silence is not None:
            raise self._unobtainable(fault, f"no data came from the network for {silence:g} s")
        if errors:
            raise self._unobtainable(fault, f"the download failed: {errors[0]}") from errors[0]

    def _extract(self, archive: Path) -> None:
        """Extracts the archive and renames its folder into `root` in one step: no other process reads half of it."""
        from torchvision.datasets.utils import extract_archive

        folder = self._torchvision_class.base_folder
        final = self.root / folder
        with self._workspace() as workspace:
            extract_archive(str(archive), str(workspace))
            if final.exists():
                shutil.move(final, workspace / "replaced")
            try:
                os.rename(workspace / folder, final)
            except OSError:  # another process was faster; its files are verified when they are read
                log.debug("%s was extracted by another process", final)

    @contextmanager
    def _workspace(self) -> Iterator[Path]:
        """A temporary directory inside `root`: on the same file system, so that a rename out of it is atomic.

        It is locked while it is used: one that is not was left by a killed process, and is deleted.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as used:
            with ExitStack() as entered:  # nobody takes a new one, not locked yet, for one that was left
                can_tell = _lock(self.root, fcntl.LOCK_EX, entered)
                for left in self.root.glob(f"{_WORKSPACE}*") if can_tell else ():
                    with ExitStack() as tried:
                        if _lock(left, fcntl.LOCK_EX | fcntl.LOCK_NB, tried):
                            shutil.rmtree(left, ignore_errors=True)
                name = used.enter_context(
                    tempfile.TemporaryDirectory(prefix=_WORKSPACE, dir=self.root, ignore_cleanup_errors=True)
                )
                _lock(Path(name), fcntl.LOCK_EX, used)
            yield Path(name)

    def _unobtainable(self, fault: str, reason: str) -> RunError:
        published = self._torchvision_class
        return RunError(
            f"{self.title}: {self.root / published.filename} {fault}, and {reason}.\n"
            f"Either download {published.url} on another machine (md5 {published.tgz_md5}) and put it into "
            f"{self.root}, or use a data set that needs no network: data=digits (8x8 digits, inside scikit-learn), "
            "or your own images with data=image_folder data.root=<folder with train/ and test/>."
        )


class CIFAR10(_CIFAR):
    """50,000 training and 10,000 test images of 32×32 pixels in 10 classes.

    Args:
        root: Folder that holds `cifar-10-python.tar.gz` and what is extracted from it; relative paths start at the
            working directory.
        download: Whether a missing or corrupt archive is downloaded.
    """

    title, reader = "CIFAR-10", "CIFAR10"
    # Source: torchvision.datasets.CIFAR10.tgz_md5. Repeated here because a run's identity is needed before torchvision
    # (seconds of import) is; a test compares the two.
    archive_md5 = "c58f30108f718f92721af3b95e74349a"
    data_size = DataSize(num_train=50_000, num_classes=10)

    def __init__(self, root: Text, download: bool = True) -> None:
        super().__init__(root, download)


class CIFAR100(_CIFAR):
    """50,000 training and 10,000 test images of 32×32 pixels in 100 classes, the fine ones: 500 and 100 of each.

    Args:
        root: Folder that holds `cifar-100-python.tar.gz` and what is extracted from it; relative paths start at the
            working directory.
        download: Whether a missing or corrupt archive is downloaded.
    """

    title, reader = "CIFAR-100", "CIFAR100"
    archive_md5 = "eb9058c3a382ffc7106e4002c42a8d85"  # Source: torchvision.datasets.CIFAR100.tgz_md5
    data_size = DataSize(num_train=50_000, num_classes=100)

    def __init__(self, root: Text, download: bool = True) -> None:
        super().__init__(root, download)


def _lock(folder: Path, how: int, until: ExitStack) -> bool:
    """Whether the folder could be locked; it is until the stack is left, or the process killed."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        until.callback(os.close, descriptor)
        fcntl.flock(descriptor, how)
    except OSError:  # locked by another process, gone, or on a file system that locks no folders
        return False
    return True


def _labelled(split: Any) -> LabelledImages:  # split: a torchvision data set
    import numpy as np

    return LabelledImages(np.ascontiguousarray(split.data), np.asarray(split.targets, dtype=np.int64))


def _wait(thread: threading.Thread, growing: Path) -> float | None:
    """Waits for the thread: None when it has ended, or the seconds for which the file `growing` did not grow."""
    size, since, limit = 0, time.monotonic(), FIRST_BYTES_SECONDS
    while thread.is_alive():
        thread.join(timeout=0.05)
        now = growing.stat().st_size if growing.exists() else 0
        if now != size:
            size, since, limit = now, time.monotonic(), SILENCE_SECONDS
        elif time.monotonic() - since > limit:
            return limit
    return None
