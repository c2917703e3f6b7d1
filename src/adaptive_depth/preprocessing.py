"""How images become the input of a network: one value, in a run, on the Hub and in an exported file. Without torch."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .schema import Plain

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

MOST_PIXELS = 1 << 14  # a side of a resized image, before its crop
MODES = {1: "L", 3: "RGB"}  # Pillow's names, by channels
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
FITS = ("crop", "stretch", "inside", "letterbox")


class Convert:
    """Grey or colour, as the network wants it (a class, so that it reaches worker processes)."""

    def __init__(self, channels: int) -> None:
        self.mode = MODES[channels]

    def __call__(self, image: Any) -> Any:
        return image.convert(self.mode)


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the input that is made of it. All pairs are of x and y, in pixels.

    Attributes:
        image: width and height of the image.
        resized: the same once it is resized.
        corner: where the upper left corner of the resized image lies in the input; below 0 where it is cropped.
        frame: width and height of the input.

    Example:
        >>> COCO = Preprocessing(320, 3, (0.0,) * 3, (1.0,) * 3, fit="letterbox")
        >>> COCO.place(640, 480)
        Placement(image=(640, 480), resized=(320, 240), corner=(0, 0), frame=(320, 320))
        >>> COCO.place(640, 480).to_image(np.array([[0, 0, 160, 320]])).tolist()
        [[0.0, 0.0, 320.0, 480.0]]
    """

    image: tuple[int, int]
    resized: tuple[int, int]
    corner: tuple[int, int]
    frame: tuple[int, int]

    def to_image(self, boxes: NDArray[Any]) -> NDArray[np.float64]:
        """Boxes `[boxes, 4]` (x1, y1, x2, y2) in pixels of the input, in those of the image; cut off at its edges."""
        inside = (np.asarray(boxes, np.float64) - np.tile(self.corner, 2)) / np.tile(self.resized, 2)
        return np.clip(inside, 0, 1) * np.tile(self.image, 2)

    def fit(self, image: "Image", interpolation: str, fill: tuple[int, ...]) -> "Image":
        """The input, as an image; what the image does not reach has the colour `fill`."""
        from PIL import Image

        resized = image.resize(self.resized, Image.Resampling[interpolation.upper()])
        (left, top), (width, height) = self.corner, self.frame
        if left <= 0 and top <= 0 and left + self.resized[0] >= width and top + self.resized[1] >= height:
            return resized.crop((-left, -top, width - left, height - top))
        canvas = Image.new(image.mode, self.frame, fill if image.mode != "L" else fill[0])
        canvas.paste(resized, self.corner)
        return canvas


@dataclass(frozen=True)
class Preprocessing(Plain):
    """How images become the input of a network, and what its outputs mean: a plain value that survives JSON.

    Attributes:
        image_size: height and width in pixels after resizing, one number or a pair; before the crop, at most 16,384.
            With `fit="inside"`, the most pixels of the shorter side and of the longer.
        channels: 1 (grey) or 3 (colour); images are converted.
        mean, std: subtracted from, and divided out of, pixels between 0 and 1; one number a channel.
        interpolation: of the resizing, such as `"bicubic"` or `"bilinear"`.
        crop_pct: the part of a resized image's side that the central crop keeps.
        classes: the class names, in the order of the outputs; empty where they are not known.
        fit: `"crop"`: the central square of an image that keeps its proportions; `"stretch"`: all of it, whatever its
            proportions; `"inside"`: all of it in its proportions, so that inputs differ in size; `"letterbox"`: the
            same, at the upper left of an input of one size, and the rest filled.
        fill: with what `"letterbox"` fills, pixels between 0 and 1, one number a channel; by default `mean`.

    Raises:
        DataError: a value that is out of range.
    """

    reading_error = DataError

    image_size: int | tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    classes: tuple[str, ...] = ()
    fit: str = "crop"
    fill: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        size: Any = self.image_size
        sizes: tuple[Any, ...] = tuple(size) if _is_list(size) else (size,)
        per_channel = f"{self.channels} numbers, one a channel"
        if self.fit not in FITS:
            raise DataError(f"preprocessing has fit={self.fit!r}: expected one of {', '.join(FITS)}")
        for field, fits, expected in (
            (
                "image_size",
                len(sizes) in (1, 2) and all(type(side) is int and 0 < side <= MOST_PIXELS for side in sizes),
                f"a number of pixels above 0, such as 224, and at most {MOST_PIXELS:,}",
            ),
            ("image_size", len(sizes) == 1 or self.fit != "crop", "one number, for the square that is cut out"),
            ("image_size", len(sizes) == 2 or self.fit != "inside", "two, of the shorter and of the longer side"),
            ("image_size", self.fit != "inside" or sizes[0] <= sizes[-1], "first the shorter side, then the longer"),
            ("channels", type(self.channels) is int and self.channels in MODES, "1 (grey) or 3 (colour)"),
            ("mean", _are_numbers(self.mean, self.channels), per_channel),
            ("std", _are_numbers(self.std, self.channels) and min(self.std) > 0, f"{per_channel}, above 0"),
            ("interpolation", self.interpolation in _INTERPOLATIONS, f"one of {', '.join(_INTERPOLATIONS)}"),
            ("crop_pct", _is_number(self.crop_pct) and 0 < self.crop_pct <= 1, "a part, above 0 and at most 1"),
            ("crop_pct", self.fit == "crop" or self.crop_pct == 1, f"1, for with fit={self.fit!r} nothing is cut off"),
            ("classes", _is_list(self.classes) and all(isinstance(each, str) for each in self.classes), "names"),
            ("fill", tuple(self.fill) == () or _are_numbers(self.fill, self.channels), f"none, or {per_channel}"),
        ):
            if not fits:
                raise DataError(f"preprocessing has {field}={getattr(self, field)!r}: expected {expected}")
        if sizes[0] > MOST_PIXELS * self.crop_pct:
            raise DataError(
                f"preprocessing has image_size={size} and crop_pct={self.crop_pct!r}, a crop of images of "
                f"{sizes[0] / self.crop_pct:.4g} pixels: expected at most {MOST_PIXELS:,}, so a crop_pct of at least "
                f"{sizes[0] / MOST_PIXELS:.3g}"
            )
        for field in ("mean", "std", "classes", "fill", *(["image_size"] * (len(sizes) == 2))):
            object.__setattr__(self, field, tuple(getattr(self, field)))

    @classmethod
    def of(cls, given: Any) -> "Preprocessing":
        """From a mapping with these fields, or from what has a `preprocessing`, such as a `DataConfig`.

        Raises:
            DataError: something else, a field that is unknown, missing or out of range.
        """
        given = getattr(given, "preprocessing", given)
        if isinstance(given, Preprocessing):
            return given
        try:
            return cls(**given)
        except TypeError as error:
            raise DataError(
                f"preprocessing {given!r}: {error}; expected a mapping with {', '.join(cls.__dataclass_fields__)}"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Lists, strings and numbers only, as `of` reads them; without what files of older versions did not say."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        usual = {"fit": "crop", "fill": []}
        return {key: value for key, value in plain.items() if usual.get(key) != value}

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of an input; with `fit="inside"` those of a photograph, whose sides are as 4 to 3.

        Example:
            >>> Preprocessing((320, 640), 3, mean=(0.0,) * 3, std=(1.0,) * 3, fit="inside").sides
            (320, 427)
        """
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        if self.fit == "inside":
            width, height = self.place(400, 300).frame
            return height, width
        return self.image_size

    def place(self, width: int, height: int, shape: tuple[int, int] | None = None) -> Placement:
        """Where an image of this size comes to lie in the input.

        Arguments:
            width, height: of the image.
            shape: height and width of the input where that has one size; by default what `image_size` says. Of
                `"inside"`, an image then lies at the upper left, as in a batch of several.

        Raises:
            DataError: a crop that is no square.

        Example:
            >>> detector = Preprocessing((320, 640), 3, mean=(0.0,) * 3, std=(1.0,) * 3, fit="inside")
            >>> detector.place(900, 300).frame, detector.place(900, 300, (640, 640)).frame
            ((640, 213), (640, 640))
        """
        image = (width, height)
        if self.fit == "inside" and shape is None:
            assert not isinstance(self.image_size, int)
            shorter, longer = self.image_size
            scale = min(shorter / min(image), longer / max(image))
            resized = (max(1, round(width * scale)), max(1, round(height * scale)))
            return Placement(image, resized, (0, 0), resized)
        across, down = reversed(self.sides if shape is None else shape)
        frame = (across, down)
        if self.fit == "stretch":
            return Placement(image, frame, (0, 0), frame)
        if self.fit != "crop":
            scale = min(frame[0] / width, frame[1] / height)
            resized = (max(1, round(scale * width)), max(1, round(scale * height)))
            return Placement(image, resized, (0, 0), frame)
        if frame[0] != frame[1]:
            raise DataError(
                f"the input has {frame[1]} x {frame[0]} pixels: expected a square for fit='crop', or fit='stretch' or "
                "'letterbox', which take any shape"
            )
        shorter = math.floor(frame[0] / self.crop_pct)
        longer = int(shorter * max(image) / min(image))
        resized = (shorter, longer) if width <= height else (longer, shorter)
        corner = (-round((resized[0] - frame[0]) / 2), -round((resized[1] - frame[1]) / 2))
        return Placement(image, resized, corner, frame)

    def fitted(self, image: "Image", shape: tuple[int, int] | None = None) -> "Image":
        """An image, already grey or in colour, as the input of the network, but not yet normalised."""
        colour = tuple(round(255 * value) for value in self.fill or self.mean)
        return self.place(*image.size, shape).fit(image, self.interpolation, colour)

    def transform(self) -> "Callable[[Any], Tensor]":
        """What turns a `PIL.Image` into an input `[channels, height, width]`, by timm or torchvision; needs torch.

        Example:
            >>> from PIL import Image
            >>> prepare = Preprocessing(image_size=32, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3).transform()
            >>> prepare(Image.new("L", (60, 40))).shape
            torch.Size([3, 32, 32])
        """
        from timm.data.transforms_factory import create_transform
        from torchvision.transforms import Compose

        if self.fit != "crop":
            from torchvision.transforms import Normalize, ToTensor

            return Compose([Convert(self.channels), self.fitted, ToTensor(), Normalize(self.mean, self.std)])
        prepare: Any = create_transform(
            (self.channels, *self.sides),
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
            mean=self.mean,
            std=self.std,
        )
        return Compose([Convert(self.channels), prepare])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _is_list(values: object) -> bool:
    return isinstance(values, list | tuple)


def _are_numbers(values: Any, length: int) -> bool:
    return _is_list(values) and len(values) == length and all(map(_is_number, values))
