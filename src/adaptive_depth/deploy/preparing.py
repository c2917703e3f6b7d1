"""An image as the input of a network, as in evaluation, by NumPy and Pillow alone."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError, one_line
from ..preprocessing import MODES, Fitted, Preprocessing


def read_image(path: str | Path) -> Image.Image:
    """An image file in colour: what is transparent as it is stored, a rotation that it only notes is not done.

    Raises:
        DataError: a file that cannot be read as an image.
    """
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except Exception as error:  # whatever a decoder stumbles over
        raise DataError(
            f"image {path} cannot be read ({one_line(error)}): remove it, or put a whole one in its place"
        ) from error


def prepare(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """An image resized and normalised; with `fit="crop"` its shorter side to `image_size / crop_pct` pixels, of which
    the central square is cut out.

    Arguments:
        image: of any size and mode; converted to grey or colour.
        preprocessing: that of the network.

    Returns:
        `[channels, height, width]`; a batch of one is `prepare(...)[None]`.

    Example:
        >>> from PIL import Image
        >>> white = Image.new("RGB", (640, 480), "white")
        >>> x = prepare(white, Preprocessing(224, 3, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875))
        >>> x.shape, float(x.min())
        ((3, 224, 224), 1.0)
    """
    image = image.convert(MODES[preprocessing.channels])
    image = _square(image, preprocessing) if preprocessing.fit == "crop" else Fitted(preprocessing)(image)
    shape = (image.height, image.width, preprocessing.channels)
    pixels = np.asarray(image, dtype=np.float32).reshape(shape) / np.float32(255)
    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    normalised = (pixels - mean) / std
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def _square(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    size, _ = preprocessing.sides
    image = _resized(image, math.floor(size / preprocessing.crop_pct), preprocessing.interpolation)
    left, top = (_start(side, size) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def _resized(image: Image.Image, shorter: int, interpolation: str) -> Image.Image:
    longer = int(shorter * max(image.size) / min(image.size))
    size = (shorter, longer) if image.width <= image.height else (longer, shorter)
    return image.resize(size, Image.Resampling[interpolation.upper()])


def _start(side: int, wanted: int) -> int:
    """Where the central part begins."""
    return round((side - wanted) / 2)
