"""Letters in matplotlib's bundled fonts, drawn onto scikit-learn's sample photographs: nothing to download."""

from functools import lru_cache
from math import pi
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from .digits import Drawn

SIZE = 32  # pixels
IMAGES = {"train": 20_000, "validation": 8_000}
_FONTS = {
    "train": (
        *(f"DejaVuSans{cut}" for cut in ("", "-Bold", "-Oblique", "-BoldOblique")),
        *(f"DejaVuSansMono{cut}" for cut in ("", "-Bold", "-Oblique", "-BoldOblique")),
        *(f"DejaVuSerif{cut}" for cut in ("", "-Bold", "-Italic", "-BoldItalic")),
        *(f"STIXGeneral{cut}" for cut in ("", "Bol", "Italic", "BolIta")),
    ),
    "validation": ("cmr10", "cmb10", "cmti10", "cmss10", "cmtt10"),  # Computer Modern
}
_GLYPH = 22  # pixels of the longer side of a letter, before it is warped
_SEEDS = {"train": 0, "validation": 1}
_PHOTO_COLUMNS = {"train": (0.25, 1.0), "validation": (0.0, 0.25)}  # fractions of a photograph's width
_PHOTO_PIXELS = (1.0, 2.0)  # of a photograph per pixel of an image, along each side
_PHOTO_BRIGHTNESS = 0.7
_LETTER_SIDE = (0.55, 0.85)  # fractions of an image's side
_OPACITY = (0.5, 0.9)
_SHIFT = 0.125  # of an image's side, to either side of the centre
_ROTATION = 25 * pi / 180
_SHEAR = 0.3
_STRETCH = 0.2  # logarithm of width over side


class LettersInPhotos(Drawn):
    """One translucent printed letter on a patch of a photograph, 32 x 32 pixels, grey; the label is the letter.

    A capital and its small letter share one label, A to Z. Each letter is rotated, scaled, sheared, shifted and more or
    less opaque. The images are always the same: 20,000 for training, in the fonts DejaVu and STIX, and 8,000 held out,
    in Computer Modern and on other parts of the photographs (the left quarter of scikit-learn's china.jpg and
    flower.jpg). Each item is a `PIL.Image` (transformed if there is a transform) and its label.
    """

    classes = tuple(ascii_uppercase)

    def __init__(self, split: str) -> None:
        super().__init__(*_draw(split))


@lru_cache
def _draw(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `[images, 32, 32]` from 0 to 255, and labels `[images]`; both are shared, so they are read-only."""
    generator, count = torch.Generator().manual_seed(_SEEDS[split]), IMAGES[split]
    glyphs, labels = _glyphs(split)
    chosen = torch.randint(len(glyphs), (count,), generator=generator).numpy()
    backdrops = _PHOTO_BRIGHTNESS * _photo_patches(split, count, generator)
    strokes = _warped(torch.from_numpy(glyphs[chosen]).float() / 255, generator)
    opacity = _uniform(*_OPACITY, count, generator)[:, None, None] * strokes
    pixels = (255 * (backdrops * (1 - opacity) + opacity)).round().to(torch.uint8).numpy()
    labels = labels[chosen]
    pixels.flags.writeable = labels.flags.writeable = False
    return pixels, labels


def _glyphs(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Every letter of every font of a split, `[letters, 22, 22]` from 0 to 255, as large as fits; and their labels."""
    import matplotlib

    folder, glyphs, labels = Path(matplotlib.get_data_path()) / "fonts" / "ttf", [], []
    for name in _FONTS[split]:
        font = ImageFont.truetype(folder / f"{name}.ttf", 2 * _GLYPH)
        for label, pair in enumerate(zip(ascii_uppercase, ascii_lowercase, strict=True)):
            for letter in pair:
                glyphs.append(_fitted(letter, font))
                labels.append(label)
    return np.stack(glyphs), np.array(labels)


def _fitted(letter: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    canvas = Image.new("L", (4 * _GLYPH, 4 * _GLYPH))
    ImageDraw.Draw(canvas).text((_GLYPH, _GLYPH), letter, fill=255, font=font)
    inked = canvas.crop(canvas.getbbox())
    side = max(inked.size)
    square = Image.new("L", (side, side))
    square.paste(inked, ((side - inked.width) // 2, (side - inked.height) // 2))
    return np.asarray(square.resize((_GLYPH, _GLYPH), Image.Resampling.BILINEAR))


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


def _warped(letters: Tensor, generator: torch.Generator) -> Tensor:
    """Letters `[images, side, side]`, each randomly warped onto its own black image `[images, 32, 32]`."""
    count = len(letters)

    def random(low: float, high: float) -> Tensor:
        return _uniform(low, high, count, generator)

    side, stretch = random(*_LETTER_SIDE), random(-_STRETCH, _STRETCH).exp()
    angle, shear = random(-_ROTATION, _ROTATION), random(-_SHEAR, _SHEAR)
    x, y = random(-2 * _SHIFT, 2 * _SHIFT), random(-2 * _SHIFT, 2 * _SHIFT)  # grids go from -1 to 1
    # From positions in the image to positions in the letter: shift, rotate, shear, then scale.
    cos, sin = angle.cos(), angle.sin()
    wide, high = stretch / side, 1 / (stretch * side)
    rows = [wide * (cos + shear * sin), wide * (shear * cos - sin)], [high * sin, high * cos]
    matrices = _matrices([[across, down, -(across * x + down * y)] for across, down in rows])
    return _sampled(pad(letters, (1, 1, 1, 1)), matrices)  # a black border: strokes that reach the edge end softly


def _matrices(rows: list[list[Tensor]]) -> Tensor:
    """Two rows of three tensors `[images]` as `[images, 2, 3]`."""
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _sampled(images: Tensor, matrices: Tensor) -> Tensor:
    """Images `[images, height, width]` as `[images, 32, 32]`, seen through affine maps `[images, 2, 3]`."""
    grid = affine_grid(matrices, [len(images), 1, SIZE, SIZE], align_corners=False)
    return grid_sample(images[:, None], grid, mode="bilinear", align_corners=False)[:, 0]


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
