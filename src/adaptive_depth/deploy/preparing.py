"""An image as the input of a network, as in evaluation, with only NumPy and Pillow."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError, one_line
from ..preprocessing import MODES, Preprocessing, in_mode


def read_image(path: str | Path) -> Image.Image:
    """An image file in colour; transparency is dropped, and a rotation given only in its metadata is ignored.

    Raises:
        DataError: a file that cannot be read as an image.
    """
    try:
        with Image.open(path) as opened:
            return in_mode(opened, "RGB")
    except Exception as error:  # decoders raise anything
        raise DataError(
            f"image {path} cannot be read ({one_line(error)}): remove it or replace it with an intact one"
        ) from error


def prepare(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """An image as the input of a network: resized according to `preprocessing.resize`, and normalised.

    By default (`"crop"`) its shorter side is resized to `image_size / crop_pct` pixels, and the central square cut out.

    Arguments:
        image: of any size and mode; converted to grey or colour.
        preprocessing: the network's.

    Returns:
        `[channels, height, width]`; a batch of one is `prepare(...)[None]`.

    Raises:
        DataError: something other than a Pillow image.

    Example:
        >>> from PIL import Image
        >>> white = Image.new("RGB", (640, 480), "white")
        >>> x = prepare(white, Preprocessing(224, 3, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875))
        >>> x.shape, float(x.min())
        ((3, 224, 224), 1.0)
    """
    if not isinstance(image, Image.Image):
        raise DataError(
            f"prepare received a {type(image).__name__}: expected a Pillow image; read a file with read_image(path), "
            "or turn an array into one with PIL.Image.fromarray(array)"
        )
    fitted = preprocessing.fitted(in_mode(image, MODES[preprocessing.channels]))
    pixels = np.asarray(fitted, dtype=np.float32).reshape(*fitted.size[::-1], preprocessing.channels) / np.float32(255)
    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    normalised = (pixels - mean) / std
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))
