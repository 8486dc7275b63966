"""The user's own folder of images, decoded once and then read from a verified cache."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np

from resnet_exp.config.ranges import Count, ImageSize, Text
from resnet_exp.data import decode_cache
from resnet_exp.data.decode_cache import CachedImages
from resnet_exp.data.decode_pool import decode_all
from resnet_exp.data.decoding import Decoded, decode_run
from resnet_exp.data.file_digests import digests_of
from resnet_exp.data.image_file import MAX_MEGAPIXELS
from resnet_exp.data.image_listing import Listing, check_root, list_images, shown_left_out, stamps_of
from resnet_exp.interfaces import Advance, DataSize, LabelledImages, LoadedData, Progress, RunError

log = logging.getLogger(__name__)

CACHE_FORMAT = 2  # raise it whenever decoding gives other pixels
MAX_LISTED = 10  # unreadable images that a message names


class ImageFolder:
    """The images under `train/<class>/…` and `test/<class>/…`, classes in the order of their names.

    Grey or colour, of any size and mode (palette, transparency, CMYK, 16 bits, EXIF rotation): each becomes
    `image_size` × `image_size` pixels, its shorter side resized, its longer one cropped to the middle.

    Args:
        root: Folder with `train/` and `test/`; relative paths start at the working directory.
        image_size: Pixels of a side.
        channels: 3, 1, or `auto`: 1 if every pixel of every image is grey, else 3.
        unreadable: What happens with an image that cannot be read: `error` names it and ends the run, `skip` names it
            in a warning and leaves it out.
        workers: Processes that decode, or `auto`: one for each CPU, 16 at most.
        cache: Folder for the decoded images (3 × `image_size`² bytes each) and the files' digests (72 bytes each);
            None: `<root>/.resnet_exp_cache`, or the user's cache folder where `root` is read-only.
        max_megapixels: An image of more pixels is unreadable: a small file can hold enough of them to fill the memory.

    Raises:
        ConfigError: `root` has no `train/` and `test/`.
    """

    def __init__(
        self,
        root: Text,
        image_size: ImageSize = 32,
        channels: Literal["auto", 1, 3] = "auto",
        unreadable: Literal["error", "skip"] = "error",
        workers: Literal["auto"] | Count = "auto",
        cache: Text | None = None,
        max_megapixels: Count = MAX_MEGAPIXELS,
    ) -> None:
        self.max_megapixels = max_megapixels
        self.image_size, self.channels, self.unreadable = image_size, channels, unreadable
        self.workers = None if workers == "auto" else workers
        self.root = _folder(root)
        check_root(self.root)
        own = [self.root / ".resnet_exp_cache", _user_cache()]
        self.caches = own if cache is None else [_folder(cache)]
        self._digests: np.ndarray | None = None  # of the listing's files
        self._content = ""  # a hash of names and digests

    def identity(self) -> str:
        """A hash of all images' relative names and bytes, of `image_size`, `channels`, and what is left out.

        A file is read once; from then on it is asked for its inode, size and times, which change when it does.

        Raises:
            ConfigError: The folder's layout is wrong.
        """
        if self._digests is None:
            self.read_content(_no_progress)
        # With `error` nothing is left out: an image that is too large ends the run.
        left_out = f"-skip-{self.max_megapixels}" if self.unreadable == "skip" else ""
        return f"image_folder-{self._content[:16]}-{self.image_size}-{self.channels}{left_out}"

    def read_content(self, progress: Progress, *, verify: bool = False) -> None:
        """Reads the files that have changed since they were last read; with `verify` all, but once a process.

        Raises:
            ConfigError: The folder's layout is wrong.
        """
        listing = self._listing
        self._digests = digests_of(self.root, listing.names, listing.stamps, self.caches, progress, verify=verify)
        self._content = listing.content_hash(self._digests)

    def size(self) -> DataSize:
        """The number of files under `train/` and of its class folders; whether each file can be read is not known yet.

        Raises:
            ConfigError: The folder's layout is wrong.
        """
        return DataSize(num_train=self._listing.num_train, num_classes=len(self._listing.class_names))

    def load(self, progress: Progress) -> LoadedData:
        """Both splits: images `[N, image_size, image_size, C], uint8, 0..255`, from the cache if it has them.

        Raises:
            ConfigError: The folder's layout is wrong.
            RunError: An image is unreadable (`unreadable="error"`), a class has no readable one, or images change
                while they are read.
        """
        if self._digests is None:
            self.read_content(progress)
        images = self._cached() or self._decoded(progress)
        self._report_left_out()
        self._report_unreadable(images)
        pixels = images.pixels
        if self.channels == "auto" and images.grey:  # the three channels are equal: one is enough
            pixels = np.ascontiguousarray(pixels[..., :1])
        return self._split(pixels, [index for index, _ in images.unreadable])

    @cached_property
    def _listing(self) -> Listing:  # once, since identity, size and load all need it
        return list_images(self.root)

    @property
    def _key(self) -> str:
        """The cache's key, a hash of all that the pixels depend on: bytes of the files, settings, Pillow's version."""
        import PIL

        # Another Pillow may decode the same file to other pixels.
        settings = (self.image_size, self._stored_channels, self.max_megapixels)
        parts = (CACHE_FORMAT, PIL.__version__, *settings, self._content)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    @property
    def _stored_channels(self) -> int:
        """The channels in the cache: with `auto` 3, since only decoding all images shows whether all are grey."""
        return 1 if self.channels == 1 else 3

    def _cached(self) -> CachedImages | None:
        """The cached images, or None; None too if an image that could not be read then can be read now."""
        images = decode_cache.find(self.caches, self._key)
        if images is None:
            return None
        # What kept it from being read may have been the network, which no key shows.
        missing = [self.root / self._listing.names[index] for index, _ in images.unreadable]
        if len(decode_run(missing, self.image_size, self._stored_channels, self.max_megapixels).pixels):
            return None
        return images

    def _decoded(self, progress: Progress) -> CachedImages:
        """All images, decoded, and cached where that can be written.

        Unreadable ones are listed, so that a later `skip` need not decode again.
        """
        most_bytes = len(self._listing.names) * self.image_size**2 * self._stored_channels
        try:
            return self._decode(progress, partial(decode_cache.store, self.caches, self._key, most_bytes=most_bytes))
        except decode_cache.NotKept as reason:
            log.warning(
                "The decoded images cannot be saved (%s): they stay in memory, and the next command decodes them "
                "again. data.cache=<folder> chooses another folder.",
                reason,
            )
        return self._decode(progress, decode_cache.in_memory)

    def _decode(self, progress: Progress, keep: Callable[..., CachedImages]) -> CachedImages:
        paths = [self.root / name for name in self._listing.names]
        runs = decode_all(paths, self.image_size, self._stored_channels, self.workers, self.max_megapixels)
        with closing(runs), progress("Decoding images", len(paths)) as advance:
            return keep(runs=self._unchanged(runs), advance=advance)

    def _unchanged(self, runs: Iterator[Decoded]) -> Iterator[Decoded]:
        """Yields the runs; then raises RunError if a file's bytes are not those that the cache's key is made of."""
        yield from runs
        names = self._listing.names
        stamps = stamps_of(self.root, names)
        digests = digests_of(self.root, names, stamps, self.caches, _no_progress, verify=False)
        changed = np.flatnonzero((digests != self._digests).any(1))
        if len(changed):
            raise RunError(
                f"{len(changed):,} images in {self.root} changed while they were read ({names[changed[0]]}, …): run "
                "the command again when nothing writes to them any more."
            )

    def _report_left_out(self) -> None:
        if self._listing.left_out:
            log.warning("data.root=%s: left out: %s.", self.root, shown_left_out(self._listing.left_out))

    def _report_unreadable(self, images: CachedImages) -> None:
        """Warns of the unreadable images or raises RunError, whether they were found now or when the cache was made."""
        if not images.unreadable:
            return
        names = self._listing.names
        shown = [f"\n  {names[index]}: {reason}" for index, reason in images.unreadable[:MAX_LISTED]]
        more = len(images.unreadable) - len(shown)
        text = f"{len(images.unreadable)} of {len(names)} images in {self.root} cannot be read:{''.join(shown)}"
        text += f"\n  and {more} more" if more else ""
        if self.unreadable == "error":
            raise RunError(f"{text}\nRepair or remove them, or leave them out with data.unreadable=skip.")
        log.warning("%s\nThey are left out (data.unreadable=skip).", text)

    def _split(self, pixels: np.ndarray, unreadable: list[int]) -> LoadedData:
        """Splits the pixels of all readable images into training and test images, as the listing does the files."""
        labels, num_train = self._listing.labels, self._listing.num_train
        readable = np.ones(len(labels), bool)
        readable[unreadable] = False
        train = labels[:num_train][readable[:num_train]]
        test = labels[num_train:][readable[num_train:]]
        for split, present in (("train", train), ("test", test)):
            self._check_no_class_is_lost(split, present)
        start = len(train)
        names = self._listing.class_names
        return LoadedData(LabelledImages(pixels[:start], train), LabelledImages(pixels[start:], test), names)

    def _check_no_class_is_lost(self, split: str, labels: np.ndarray) -> None:
        names = self._listing.class_names
        lost = [names[label] for label in np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)]
        if lost:
            raise RunError(f"Not one readable image in {', '.join(lost)} under {self.root / split}.")


@contextmanager
def _no_progress(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    yield lambda n=1: None


def _folder(value: str) -> Path:
    return Path(os.path.expanduser(value)).absolute()


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "resnet_exp" / "images"
