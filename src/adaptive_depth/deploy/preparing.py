"""An image as the input of a network, as in evaluation, by NumPy and Pillow alone."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ArtifactError, DataError, one_line
from .artifact import Preprocessing

_MODES = {1: "L", 3: "RGB"}


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
    """The shorter side resized to `image_size / crop_pct` pixels, the central square cut out, normalised.

    Arguments:
        image: of any size and mode; converted to grey or colour.
        preprocessing: that of the network.

    Returns:
        `[channels, size, size]`; a batch of one is `prepare(...)[None]`.

    Raises:
        ArtifactError: a preprocessing that cannot be done: an unknown interpolation, or channels without mean.

    Example:
        >>> from PIL import Image
        >>> white = Image.new("RGB", (640, 480), "white")
        >>> x = prepare(white, Preprocessing(224, 3, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875))
        >>> x.shape, float(x.min())
        ((3, 224, 224), 1.0)
    """
    check_preprocessing(preprocessing)
    size = preprocessing.image_size
    image = image.convert(_MODES[preprocessing.channels])
    image = _resized(image, math.floor(size / preprocessing.crop_pct), preprocessing.interpolation)
    left, top = (_start(side, size) for side in image.size)
    square = image.crop((left, top, left + size, top + size))  # black where the image ends before
    pixels = np.asarray(square, dtype=np.float32).reshape(size, size, preprocessing.channels) / np.float32(255)
    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    normalised = (pixels - mean) / std
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def check_preprocessing(preprocessing: Preprocessing) -> None:
    """Check that images can be prepared so.

    Raises:
        ArtifactError: an unknown interpolation, no size, other than 1 or 3 channels, or not one mean and deviation for
            each.
    """
    known = [mode.name.lower() for mode in Image.Resampling]
    if preprocessing.interpolation not in known:
        raise ArtifactError(
            f"the file asks for the interpolation {preprocessing.interpolation!r}: expected one of {', '.join(known)}"
        )
    channels, mean, std = preprocessing.channels, preprocessing.mean, preprocessing.std
    if channels not in _MODES or not len(mean) == len(std) == channels:
        raise ArtifactError(
            f"the file describes images of {channels} channels with {len(mean)} means and {len(std)} deviations: "
            "expected 1 (grey) or 3 (colour), and as many of each"
        )
    if not (preprocessing.image_size >= 1 and preprocessing.crop_pct > 0):
        raise ArtifactError(
            f"the file asks for {preprocessing.image_size} pixels, {preprocessing.crop_pct:g} of the image's side: "
            "expected both above 0"
        )


def _resized(image: Image.Image, shorter: int, interpolation: str) -> Image.Image:
    longer = int(shorter * max(image.size) / min(image.size))
    size = (shorter, longer) if image.width <= image.height else (longer, shorter)
    return image.resize(size, Image.Resampling[interpolation.upper()])


def _start(side: int, wanted: int) -> int:
    """Where the central part begins; below 0 where the image is the smaller one."""
    return round((side - wanted) / 2) if side >= wanted else -((wanted - side) // 2)
