"""Images from an array in memory; scikit-learn's handwritten digits."""

from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch.utils.data import Dataset


class Drawn(Dataset[tuple[Any, int]]):
    """Grey images with labels; each item is a `PIL.Image` (transformed if there is a transform) and its label.

    Arguments:
        images: `[images, height, width]`, from 0 to 255.
        labels: `[images]`, indices of `classes`.
    """

    classes: ClassVar[tuple[str, ...]]

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.images[index])
        return self.transform(image) if self.transform else image, int(self.labels[index])


class Digits(Drawn):
    """Scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, grey: real images that need no download.

    The split is fixed and has the same share of each digit in both parts: 1,297 images for training, 500 held out.
    Each item is a `PIL.Image` (transformed if there is a transform) and its label.
    """

    classes = tuple("0123456789")

    def __init__(self, split: str) -> None:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits: Any = load_digits()
        parts = train_test_split(
            (digits.images * (255 / 16)).round().astype(np.uint8),  # scikit-learn's pixels range from 0 to 16
            digits.target,
            test_size=500,
            stratify=digits.target,
            random_state=0,
        )
        images, labels = (parts[0], parts[2]) if split == "train" else (parts[1], parts[3])
        super().__init__(np.asarray(images), np.asarray(labels))
