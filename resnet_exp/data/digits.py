"""scikit-learn's handwritten digits: a real data set that needs no download."""

from __future__ import annotations

import hashlib

import numpy as np

from resnet_exp.config.ranges import ImageSize
from resnet_exp.interfaces import DataSize, LabelledImages, LoadedData, Progress, RunError

# Source: sklearn.datasets.load_digits (scikit-learn 1.9.1): sha256 of the images, then the labels, each as uint8.
# A constant, so that a run's identity needs no import of scikit-learn; compared whenever the digits are loaded.
DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"

TEST_EVERY = 5


class Digits:
    """1,797 grey digits, 8×8 pixels enlarged to `image_size`, in 10 classes.

    scikit-learn names no test set. Here it is every fifth image of each class, in the order of the data: 355 images
    to 1,442 for training, the same in every run.

    Args:
        image_size: Pixels of a side (bicubic).
    """

    def __init__(self, image_size: ImageSize = 32) -> None:
        self.image_size = image_size

    def identity(self) -> str:
        """`digits-<start of the data's sha256>-<image_size>`; scikit-learn is not imported for it."""
        return f"digits-{DIGITS_SHA256[:16]}-{self.image_size}"

    def size(self) -> DataSize:
        """Images and classes; constants, so that scikit-learn is not imported for them."""
        return DataSize(num_train=1_442, num_classes=10)

    def load(self, progress: Progress) -> LoadedData:
        """Both splits: images `[N, image_size, image_size, 1], uint8, 0..255`.

        Raises:
            RunError: The installed scikit-learn has other digits.
        """
        grey, labels = _verified_digits()
        images = np.stack([_enlarged(image, self.image_size) for image in grey])
        is_test = _is_test(labels)
        train, test = (LabelledImages(images[chosen], labels[chosen]) for chosen in (~is_test, is_test))
        return LoadedData(train, test, tuple(str(digit) for digit in range(10)))


def _verified_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images `[1797, 8, 8], uint8, 0..16` and labels `[1797], int64`."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.int64)
    found = hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
    if found != DIGITS_SHA256:
        raise RunError(
            f"scikit-learn's digits differ from the expected ones (sha256 {found[:16]}…, not {DIGITS_SHA256[:16]}…): "
            "reinstall scikit-learn in the version of constraints.txt."
        )
    return images, labels


def _enlarged(image: np.ndarray, image_size: int) -> np.ndarray:
    """The digit `[image_size, image_size, 1], uint8, 0..255` of `[8, 8], uint8, 0..16`."""
    from PIL import Image

    grey = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    return np.asarray(grey.resize((image_size, image_size), Image.Resampling.BICUBIC))[..., None]


def _is_test(labels: np.ndarray) -> np.ndarray:
    """`[N], bool`: true for every fifth image of each class."""
    # Counted within each class, so that all classes have the same share of test images.
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return chosen
