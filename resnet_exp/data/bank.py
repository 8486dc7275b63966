"""`ImageBank`: one split as one uint8 tensor on the device, and the batches read from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_exp.data import randomness
from resnet_exp.interfaces import Augmentation, LabelledImages, Mix, Sampling

# Share of the device's free memory that the images may take; the network needs the rest.
_SHARE_OF_FREE_MEMORY = 0.4


@dataclass(frozen=True)
class Mixed:
    """Labels of the images mixed in, `[B], int64`, and the share of the first images, `[B], float32`, 0..1."""

    labels: Tensor
    share: Tensor


@dataclass(frozen=True)
class Batch:
    """images `[B, C, H, W], float32, normalised, channels_last`; labels `[B], int64`; all on the run's device."""

    images: Tensor
    labels: Tensor
    mixed: Mixed | None = None

    def main_labels(self) -> Tensor:
        """The label of the larger part of each image, `[B], int64`."""
        if self.mixed is None:
            return self.labels
        return torch.where(self.mixed.share >= 0.5, self.labels, self.mixed.labels)

    def chunks(self, parts: int) -> Iterator[Batch]:
        """Yields the batch in `parts` parts, or in fewer where it has fewer images."""
        images, labels = self.images.chunk(parts), self.labels.chunk(parts)
        mixed: Iterable[Mixed | None] = repeat(None, len(labels))
        if self.mixed is not None:
            mixed = map(Mixed, self.mixed.labels.chunk(parts), self.mixed.share.chunk(parts))
        return map(Batch, images, labels, mixed)


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel over the training images, in units of the pixels, 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: np.ndarray) -> Normalisation:
        """The statistics of images `[N, H, W, C], uint8`; exact, from integer histograms."""
        mean, std = [], []
        # The counts are exact, and numpy's own std would make a float64 copy of all images, eight times their size.
        for channel in range(images.shape[-1]):
            counts = np.bincount(images[..., channel].ravel(), minlength=256).astype(np.float64)
            values = np.arange(256)
            mean.append(float((counts * values).sum() / counts.sum()))
            std.append(float(np.sqrt((counts * (values - mean[-1]) ** 2).sum() / counts.sum())))
        # A channel without any contrast has a deviation of 0, by which no image can be divided.
        return cls(tuple(mean), tuple(max(value, 1.0) for value in std))


class ImageBank:
    """One split as one padded uint8 tensor `[N, H + 2p, W + 2p, C]`, on the device if it fits there.

    If it does not fit, it stays in host memory: batches are cut there and copied to the device from pinned memory.
    """

    def __init__(
        self, split: LabelledImages, normalisation: Normalisation, device: torch.device, padding: int = 0
    ) -> None:
        images = torch.from_numpy(np.ascontiguousarray(split.images))
        self.size, self.padding, self.device = images.shape[1], padding, device
        self.store = device if _fits(images, padding, device) else torch.device("cpu")
        # Padded once here, so that a crop is a plain look-up without a test for the border.
        self.images = F.pad(images.to(self.store), (0, 0, padding, padding, padding, padding))
        self.labels = torch.from_numpy(split.labels).to(self.store)
        # One value for each number of an image, H * W * C: a plain row broadcasts several times faster than a channel
        # does on the CPU (LOG.md, 2026-11-21).
        tile = self.size * self.size
        self._mean = torch.tensor(normalisation.mean, device=device).repeat(tile)
        self._scale = 1 / torch.tensor(normalisation.std, device=device).repeat(tile)

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, indices: Tensor) -> np.ndarray:
        """The images of these indices as they were loaded: `[B, H, W, C], uint8, 0..255`, in host memory."""
        inside = slice(self.padding, self.padding + self.size)
        return self.images[indices.to(self.store), inside, inside].cpu().numpy()

    def denormalised(self, images: Tensor) -> np.ndarray:
        """Pixels `[B, H, W, C], uint8, 0..255`, in host memory, of normalised images `[B, C, H, W]`."""
        flat = images.permute(0, 2, 3, 1).flatten(1)
        pixels = (flat / self._scale + self._mean).round().clamp(0, 255).to(torch.uint8)
        return pixels.view(len(images), self.size, self.size, -1).cpu().numpy()

    def batch(self, indices: Tensor, augmentation: Augmentation | None, *salt: int) -> Batch:
        """The batch of these indices; with an augmentation, each image in the random view of (salt, its index)."""
        view = self._unaugmented(indices)
        if augmentation is not None:
            view = augmentation.sample(randomness.keys(indices, *salt), self.size)
        batch = Batch(self._normalised(indices, view), self._to_device(self.labels[indices]))
        return batch if view.mix is None else self._mixed(batch, view.mix)

    def _mixed(self, batch: Batch, mix: Mix) -> Batch:
        # A partner comes from the whole split, not from the batch, so that it depends on the image's own key alone.
        others, share = mix.keys % len(self), self._to_device(mix.share)
        images = self._normalised(others, mix.view).lerp_(batch.images, share[:, None])
        return Batch(images, batch.labels, Mixed(self._to_device(self.labels[others]), share.mean((1, 2))))

    def _normalised(self, indices: Tensor, view: Sampling) -> Tensor:
        """The views normalised, erased parts 0: `[B, C, H, W], float32, channels_last`; nothing is mixed in yet."""
        pixels = self._to_device(self._read(indices, view))
        images = pixels.flatten(1).float().sub_(self._mean).mul_(self._scale).view(pixels.shape)
        if view.erase is not None:
            images.masked_fill_(self._to_device(view.erase)[..., None], 0.0)
        return images.permute(0, 3, 1, 2)  # NHWC memory seen as NCHW is channels_last: no copy

    def _unaugmented(self, indices: Tensor) -> Sampling:
        pixels = torch.arange(self.padding, self.padding + self.size, device=self.store).expand(len(indices), -1)
        return Sampling(pixels, pixels)

    def _read(self, indices: Tensor, view: Sampling) -> Tensor:
        """The pixels of a view, `[B, H, W, C], uint8`: one look-up of whole pixels by their place in the bank."""
        # On the CPU almost four times as fast as `images[indices, rows, cols]` (LOG.md, 2026-11-21).
        side, channels = self.images.shape[1], self.images.shape[3]
        place = (indices[:, None, None] * side + view.rows[:, :, None]) * side + view.cols[:, None, :]
        return self.images.view(-1, channels).index_select(0, place.flatten()).view(*place.shape, channels)

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.store == self.device:
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)


def num_batches(images: int, batch_size: int) -> int:
    """Batches of an epoch, including a smaller last one."""
    return -(-images // batch_size)


def shuffled(
    bank: ImageBank, augmentation: Augmentation, batch_size: int, seed: int, epoch: int, *, first: int = 0
) -> Iterator[Batch]:
    """Yields the batches of one epoch from number `first` on, in the random order and views of (seed, epoch)."""
    order = randomness.permutation(len(bank), seed, randomness.ORDER, epoch, device=bank.store)
    for indices in order.split(batch_size)[first:]:  # those before it are not computed
        yield bank.batch(indices, augmentation, seed, randomness.VIEW, epoch)


def endless(
    bank: ImageBank, augmentation: Augmentation, batch_size: int, seed: int, *, first: int = 0
) -> Iterator[Batch]:
    """Yields batches without end, from number `first` on: epoch 1, epoch 2 and so on, each in its own random order."""
    before, first = divmod(first, num_batches(len(bank), batch_size))
    for epoch in itertools.count(before + 1):
        yield from shuffled(bank, augmentation, batch_size, seed, epoch, first=first)
        first = 0


def in_order(bank: ImageBank, batch_size: int) -> Iterator[Batch]:
    """Yields all images once, in the order of the data set, without augmentation."""
    for indices in torch.arange(len(bank), device=bank.store).split(batch_size):
        yield bank.batch(indices, None)


def _fits(images: Tensor, padding: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return True  # the CPU's memory holds the images already
    padded = images.numel() * (1 + 2 * padding / images.shape[1]) ** 2
    return padded < _SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]
