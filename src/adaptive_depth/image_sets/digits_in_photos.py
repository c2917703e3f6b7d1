"""Scikit-learn's handwritten digits, drawn onto its sample photographs: harder, and still no download."""

from functools import lru_cache
from math import pi
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from .digits import Digits

SIZE = 32  # pixels
IMAGES = {"train": 10_000, "validation": 2_000}
_SEEDS = {"train": 0, "validation": 1}
_PHOTO_COLUMNS = {"train": (0.25, 1.0), "validation": (0.0, 0.25)}  # parts of a photograph's width
_PHOTO_PIXELS = (1.0, 2.0)  # of a photograph in one pixel of an image, along each side
_PHOTO_BRIGHTNESS = 0.7
_DIGIT_SIDE = (0.55, 0.85)  # parts of an image's side
_OPACITY = (0.3, 0.7)
_SHIFT = 0.125  # of an image's side, to either side of the centre
_ROTATION = 25 * pi / 180
_SHEAR = 0.3
_STRETCH = 0.2  # logarithm of width over side


class DigitsInPhotos(Digits):
    """One translucent handwritten digit on a patch of a photograph, 32 x 32 pixels, grey; the label is the digit.

    Each digit is rotated, scaled, sheared, shifted and more or less opaque. The images are always the same: 10,000 to
    train on and 2,000 never trained on, whose digits (those of `Digits`) and parts of the photographs (china.jpg and
    flower.jpg of scikit-learn, their left quarter) are not in the training images. Each item is a `PIL.Image`
    (transformed where there is a transform) and its label.
    """

    def __init__(self, split: str) -> None:
        self.images, self.labels = _draw(split)
        self.transform: Any = None


@lru_cache
def _draw(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `[images, 32, 32]` from 0 to 255, and labels `[images]`; both are shared, and so cannot be written."""
    digits, generator = Digits(split), torch.Generator().manual_seed(_SEEDS[split])
    count = IMAGES[split]
    chosen = torch.randint(len(digits), (count,), generator=generator).numpy()
    backdrops = _PHOTO_BRIGHTNESS * _photo_patches(split, count, generator)
    strokes = _warped(torch.from_numpy(digits.images[chosen]).float() / 255, generator)
    opacity = _uniform(*_OPACITY, count, generator)[:, None, None] * strokes
    pixels = (255 * (backdrops * (1 - opacity) + opacity)).round().to(torch.uint8).numpy()
    labels = digits.labels[chosen]
    pixels.flags.writeable = labels.flags.writeable = False
    return pixels, labels


def _photo_patches(split: str, count: int, generator: torch.Generator) -> Tensor:
    """Random patches of the photographs' columns of a split, `[count, 32, 32]` from 0 to 1."""
    from sklearn.datasets import load_sample_images

    samples: Any = load_sample_images()
    which = torch.randint(len(samples.images), (count,), generator=generator)
    side = SIZE * _uniform(*_PHOTO_PIXELS, count, generator)
    across, down = _uniform(-1, 1, count, generator), _uniform(-1, 1, count, generator)
    patches = torch.empty(count, SIZE, SIZE)
    for number, photo in enumerate(samples.images):
        left, right = (round(part * photo.shape[1]) for part in _PHOTO_COLUMNS[split])
        region = torch.from_numpy(photo[:, left:right].astype(np.float32) / 255).mean(dim=2)
        chosen = which == number
        width, height = side[chosen] / region.shape[1], side[chosen] / region.shape[0]
        none = torch.zeros_like(width)
        x, y = across[chosen] * (1 - width), down[chosen] * (1 - height)  # centres: the whole patch is inside
        patches[chosen] = _sampled(region.expand(len(width), -1, -1), _matrices([[width, none, x], [none, height, y]]))
    return patches


def _warped(digits: Tensor, generator: torch.Generator) -> Tensor:
    """Digits `[images, 8, 8]`, each on a black image of its own `[images, 32, 32]`, warped at random."""
    count = len(digits)

    def random(low: float, high: float) -> Tensor:
        return _uniform(low, high, count, generator)

    side, stretch = random(*_DIGIT_SIDE), random(-_STRETCH, _STRETCH).exp()
    angle, shear = random(-_ROTATION, _ROTATION), random(-_SHEAR, _SHEAR)
    x, y = random(-2 * _SHIFT, 2 * _SHIFT), random(-2 * _SHIFT, 2 * _SHIFT)  # grids go from -1 to 1
    # From places in the image to places in the digit: shift, rotate, shear, then scale.
    cos, sin = angle.cos(), angle.sin()
    wide, high = stretch / side, 1 / (stretch * side)
    rows = [wide * (cos + shear * sin), wide * (shear * cos - sin)], [high * sin, high * cos]
    matrices = _matrices([[across, down, -(across * x + down * y)] for across, down in rows])
    return _sampled(pad(digits, (1, 1, 1, 1)), matrices)  # a black border: strokes that reach the edge end softly


def _matrices(rows: list[list[Tensor]]) -> Tensor:
    """Numbers `[images]` in two rows of three, as `[images, 2, 3]`."""
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _sampled(images: Tensor, matrices: Tensor) -> Tensor:
    """Images `[images, height, width]` as `[images, 32, 32]`, seen through affine maps `[images, 2, 3]`."""
    grid = affine_grid(matrices, [len(images), 1, SIZE, SIZE], align_corners=False)
    return grid_sample(images[:, None], grid, mode="bilinear", align_corners=False)[:, 0]


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
