"""The body of a request as the input of a network: an image, a `.npy` or JSON numbers. Nothing is trusted."""

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..deploy.preparing import prepare
from ..errors import AdaptiveDepthError, DataError, one_line
from ..preprocessing import Placement, Preprocessing, in_mode
from ..schema import Plain, Positive, Size, parse_json
from .problems import Problem

# Those that Pillow decodes itself: others, such as EPS, start programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_NPY = b"\x93NUMPY"
_JSON = "application/json"


@dataclass(frozen=True)
class Limits(Plain):
    """Upper limits of a request.

    Attributes:
        bytes: of its body.
        pixels: of an image after decoding.
        seconds: until its body has arrived.
    """

    bytes: Size = 16 << 20
    pixels: Size = 64_000_000
    seconds: Positive = 10.0


@dataclass(frozen=True)
class Input:
    """The input in a body.

    Attributes:
        x: `[channels, height, width]`.
        placement: where the image lies in it; None for a tensor.
    """

    x: NDArray[np.float32]
    placement: Placement | None = None


def read_input(
    body: bytes, kind: str, preprocessing: Preprocessing | None, shape: tuple[int, ...], limits: Limits | None = None
) -> Input:
    """The input in a body; its content tells its kind, because many clients send no media type or a wrong one.

    Arguments:
        body: of the request.
        kind: its media type; only required for JSON.
        preprocessing: of images; None if they are not accepted.
        shape: of an input, without the batch.
        limits: of the image.

    Raises:
        Problem: the body is neither an image nor a tensor, damaged, too large, or of another shape.

    Example:
        >>> read_input(b"[[[0.5, 1.5]]]", "application/json", None, (1, 1, 2)).x.tolist()
        [[[0.5, 1.5]]]
    """
    if not body:
        raise Problem("no-image", "the body is empty: expected an image, such as curl --data-binary @photo.jpg")
    if kind.partition(";")[0].strip().lower() == _JSON:
        return Input(_of_json(body, shape))
    if body.startswith(_NPY):
        return Input(_of_npy(body, shape, pixels=preprocessing is not None))
    if preprocessing is None:
        raise Problem(
            "no-image",
            f"the model does not know how to preprocess images: send a tensor of shape {list(shape)}, as .npy or JSON",
        )
    return _of_image(body, kind, preprocessing, limits or Limits())


def _of_image(body: bytes, kind: str, preprocessing: Preprocessing, limits: Limits) -> Input:
    try:
        opened = Image.open(io.BytesIO(body), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Problem("too-large", f"the image is too large ({one_line(error)}): send a smaller one") from error
    except Exception as error:  # decoders raise anything
        received = f"{len(body):,} bytes of {kind or 'no type'} that start with {body[:8]!r}"
        raise Problem(
            "no-image", f"{received}: expected an image ({', '.join(FORMATS)}), a tensor as .npy, or JSON"
        ) from error
    # From the header, before anything is decoded.
    width, height = opened.size
    if width * height > limits.pixels:
        raise Problem(
            "too-large",
            f"the image has {width} x {height} pixels: expected at most {limits.pixels:,}, send a smaller one",
        )
    resized = preprocessing.place(width, height).resized  # a long thin image grows
    if math.prod(resized) > limits.pixels:
        raise Problem(
            "too-large",
            f"the image has {width} x {height} pixels, {resized[0]} x {resized[1]} once its shorter side fits the "
            f"network: expected at most {limits.pixels:,}, crop it",
        )
    try:
        with opened:
            image = in_mode(opened, "RGB")
        return Input(prepare(image, preprocessing), preprocessing.place(*image.size))
    except Exception as error:  # as above
        raise Problem("damaged", f"the image cannot be read ({one_line(error)}): send an intact one") from error


def _of_npy(body: bytes, shape: tuple[int, ...], *, pixels: bool = False) -> NDArray[np.float32]:
    """
    Arguments:
        body: what numpy.save wrote.
        shape: of an input.
        pixels: whether bytes are refused, because the network takes images and they would be its raw pixels.
    """
    # np.load would allocate whatever the header claims before it reads the numbers.
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        found, fortran, dtype = read(stream)
    except Exception as error:
        raise Problem("damaged", f"the .npy cannot be read ({one_line(error)}): write it with numpy.save") from error
    # Longer floats (longdouble) differ between machines.
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise Problem("damaged", f"the .npy contains {dtype}: expected numbers, such as float32")
    if pixels and dtype == np.uint8:
        raise Problem("damaged", f"the .npy contains pixels ({dtype}): send the image file, or what prepare() returns")
    _check_shape(found, shape)
    numbers = body[stream.tell() :]
    if len(numbers) != math.prod(found) * dtype.itemsize:
        raise Problem(
            "damaged",
            f"the .npy claims {list(found)} of {dtype}, {math.prod(found) * dtype.itemsize:,} bytes, but contains "
            f"{len(numbers):,}: it was truncated",
        )
    array = np.frombuffer(numbers, dtype).reshape(found, order="F" if fortran else "C")
    return _checked(array, shape)


def _of_json(body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    try:
        content = parse_json(body, DataError, "the body", "expected nested lists of numbers")
    except AdaptiveDepthError as error:
        raise Problem("damaged", str(error)) from error
    if isinstance(content, dict):
        if {*content} != {"inputs"}:
            raise Problem("damaged", f'the body has {", ".join(content) or "nothing"}: expected {{"inputs": [...]}}')
        content = content["inputs"]
    found, inner = [], content
    # From the first elements only; `np.array` checks the others.
    while isinstance(inner, list):
        found.append(len(inner))
        inner = inner[0] if inner else None
    _check_shape(tuple(found), shape)
    try:
        array = np.array(content)
    except ValueError as error:
        raise Problem("damaged", f"the lists in the body are not all of {list(found)}: {one_line(error)}") from error
    if array.dtype.kind not in "fiu":
        raise Problem("damaged", "the lists in the body contain something other than numbers")
    return _checked(array, shape)


def _check_shape(found: Any, shape: tuple[int, ...]) -> None:
    if tuple(found) not in (shape, (1, *shape)):
        many = len(found) == len(shape) + 1 and tuple(found)[1:] == shape
        mend = "; send each as a separate request, the server forms batches" if many else ""
        raise Problem("damaged", f"a tensor of shape {list(found)}: expected {list(shape)}{mend}")


def _checked(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # overflow is checked below
        found = array.astype(np.float32).reshape(shape)
    if not np.isfinite(found).all():
        raise Problem("damaged", "the tensor contains numbers that are not finite in float32")
    return found
