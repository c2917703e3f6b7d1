"""How images become the input of a network: one value for runs, the Hub and exported files. Without torch."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from .errors import DataError
from .schema import Plain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

MOST_PIXELS = 1 << 14  # a side of a resized image, before its crop
MODES = {1: "L", 3: "RGB"}  # Pillow's names, by channels
RESIZES = ("crop", "stretch", "letterbox")
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


def in_mode(image: "Image", mode: str) -> "Image":
    """The image in grey (`"L"`) or colour (`"RGB"`); 16 bits are scaled to 8, where Pillow would clip to white.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> image = Image.fromarray(np.array([[0, 257, 65535]], np.uint16))
        >>> np.asarray(in_mode(image, "L")).tolist(), np.asarray(image.convert("L")).tolist()
        ([[0, 1, 255]], [[0, 255, 255]])
    """
    if image.mode.startswith("I"):
        import numpy as np
        from PIL import Image

        values = np.asarray(image).astype(np.float64)
        if values.max(initial=0) > 255:
            image = Image.fromarray(np.clip(np.rint(values / 257), 0, 255).astype(np.uint8))
    return image.convert(mode)


class Convert:
    """Grey or colour, as the network expects it (a class, so that it can be pickled for worker processes)."""

    def __init__(self, channels: int) -> None:
        self.mode = MODES[channels]

    def __call__(self, image: Any) -> Any:
        return in_mode(image, self.mode)


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the input made from it. All pairs are (x, y) in pixels.

    Attributes:
        image: width and height of the image.
        resized: the same after resizing.
        corner: where the upper left corner of the resized image lies in the input; negative if it is cropped.
        frame: width and height of the input.

    Example:
        >>> import numpy as np
        >>> COCO = Preprocessing(320, 3, (0.0,) * 3, (1.0,) * 3, resize="letterbox")
        >>> COCO.place(640, 480)
        Placement(image=(640, 480), resized=(320, 240), corner=(0, 0), frame=(320, 320))
        >>> COCO.place(640, 480).to_image(np.array([[0, 0, 160, 320]])).tolist()
        [[0.0, 0.0, 320.0, 480.0]]
    """

    image: tuple[int, int]
    resized: tuple[int, int]
    corner: tuple[int, int]
    frame: tuple[int, int]

    def to_image(self, boxes: "NDArray[Any]") -> "NDArray[np.float64]":
        """Boxes `[boxes, 4]` (x1, y1, x2, y2) from pixels of the input to those of the image; clipped at its edges."""
        import numpy as np  # here, so that reading the value does not need numpy

        inside = (np.asarray(boxes, np.float64) - np.tile(self.corner, 2)) / np.tile(self.resized, 2)
        return np.clip(inside, 0, 1) * np.tile(self.image, 2)

    def fit(self, image: "Image", interpolation: str, fill: tuple[int, ...]) -> "Image":
        """The input as an image, padded with the colour `fill`."""
        from PIL import Image

        resized = image.resize(self.resized, Image.Resampling[interpolation.upper()])
        (left, top), (width, height) = self.corner, self.frame
        if left <= 0 and top <= 0 and left + self.resized[0] >= width and top + self.resized[1] >= height:
            return resized.crop((-left, -top, width - left, height - top))
        canvas = Image.new(image.mode, self.frame, fill if image.mode == "RGB" else fill[0])
        canvas.paste(resized, self.corner)
        return canvas


@dataclass(frozen=True)
class Preprocessing(Plain):
    """How images become the input of a network, and what its outputs mean: a plain value that survives JSON.

    Attributes:
        image_size: height and width of the input in pixels, a pair or one number for a square; before the crop, at
            most 16,384.
        channels: 1 (grey) or 3 (colour); images are converted.
        mean, std: subtracted from, and divided out of, pixels between 0 and 1; one number per channel.
        interpolation: for resizing, such as `"bicubic"` or `"bilinear"`.
        crop_pct: the fraction of a resized image's side that the central crop keeps.
        classes: the class names, in the order of the outputs; empty if unknown.
        resize: how an image of another shape becomes the input: `"crop"` takes its central part; `"stretch"` resizes
            all of it, changing the aspect ratio; `"letterbox"` fits all of it at the upper left and fills the rest.
            To locate objects in images, use one that cuts nothing off.
        fill: what `"letterbox"` fills with, pixels between 0 and 1, one number per channel; by default `mean`.

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
    resize: str = "crop"
    fill: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        size: Any = self.image_size
        sides: tuple[Any, ...] = tuple(size) if _is_list(size) else (size,)
        per_channel = f"{self.channels} numbers, one per channel"
        for field, fits, expected in (
            (
                "image_size",
                len(sides) in (1, 2) and all(type(side) is int and 0 < side <= MOST_PIXELS for side in sides),
                f"a number of pixels above 0, such as 224, and at most {MOST_PIXELS:,}",
            ),
            ("image_size", len(sides) == 1 or self.resize != "crop", "one number, the side of the square crop"),
            ("channels", type(self.channels) is int and self.channels in MODES, "1 (grey) or 3 (colour)"),
            ("mean", _are_numbers(self.mean, self.channels), per_channel),
            ("std", _are_numbers(self.std, self.channels) and min(self.std) > 0, f"{per_channel}, above 0"),
            ("interpolation", self.interpolation in _INTERPOLATIONS, f"one of {', '.join(_INTERPOLATIONS)}"),
            ("crop_pct", _is_number(self.crop_pct) and 0 < self.crop_pct <= 1, "a fraction above 0 and at most 1"),
            ("classes", _is_list(self.classes) and all(isinstance(each, str) for each in self.classes), "names"),
            ("resize", self.resize in RESIZES, f"one of {', '.join(RESIZES)}"),
            ("fill", self.fill == () or _are_numbers(self.fill, self.channels), f"none, or {per_channel}"),
        ):
            if not fits:
                raise DataError(f"preprocessing has {field}={getattr(self, field)!r}: expected {expected}")
        if max(sides) > MOST_PIXELS * self.crop_pct:
            raise DataError(
                f"preprocessing has image_size={size} and crop_pct={self.crop_pct!r}, a crop of images of "
                f"{max(sides) / self.crop_pct:.4g} pixels: expected at most {MOST_PIXELS:,}, so a crop_pct of at least "
                f"{max(sides) / MOST_PIXELS:.3g}"
            )
        # JSON has lists for tuples, and a frozen dataclass forbids plain assignment.
        for field in ("mean", "std", "classes", "fill", *(["image_size"] * (len(sides) == 2))):
            object.__setattr__(self, field, tuple(getattr(self, field)))

    @classmethod
    def of(cls, given: Any) -> "Preprocessing":
        """From a mapping with these fields, or from an object with a `preprocessing`, such as a `DataConfig`.

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
        """Lists, strings and numbers only, as `of` reads them. New fields are omitted at their default, so that older
        versions can read the rest."""
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {
            key: value for key, value in fields.items() if key not in ("resize", "fill") or value not in ("crop", [])
        }

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the input, in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    def of_size(self, height: int, width: int) -> "Preprocessing":
        """The same for an input of another size, in pixels.

        Example:
            >>> Preprocessing(24, 1, (0.5,), (0.5,), resize="stretch").of_size(16, 32).image_size
            (16, 32)
        """
        return replace(self, image_size=height if height == width else (height, width))

    def place(self, width: int, height: int) -> Placement:
        """Where an image of this size lies in the input."""
        rows, columns = self.sides
        frame = (columns, rows)
        if self.resize == "stretch":
            return Placement((width, height), frame, (0, 0), frame)
        if self.resize == "letterbox":
            scale = min(frame[0] / width, frame[1] / height)
            resized = (max(1, round(scale * width)), max(1, round(scale * height)))
            return Placement((width, height), resized, (0, 0), frame)
        # floor, int and round as timm and torchvision use them, so that both ways yield the same pixels
        # floor, int and round as timm and torchvision use them, so that both ways yield the same pixels
        shorter = math.floor(frame[0] / self.crop_pct)
        longer = int(shorter * max(width, height) / min(width, height))
        resized = (shorter, longer) if width <= height else (longer, shorter)
        corner = (-round((resized[0] - frame[0]) / 2), -round((resized[1] - frame[1]) / 2))
        return Placement((width, height), resized, corner, frame)

    def fitted(self, image: "Image") -> "Image":
        """An image, already grey or in colour, as the input of the network, but not yet normalised."""
        return self.place(*image.size).fit(image, self.interpolation, self.colour)

    @property
    def colour(self) -> tuple[int, ...]:
        """What `"letterbox"` fills with, from 0 to 255, one number per channel."""
        return tuple(round(255 * value) for value in self.fill or self.mean)

    def transform(self) -> "Callable[[Any], Tensor]":
        """A callable from a `PIL.Image` to an input `[channels, height, width]`, by timm or torchvision; needs torch.

        Example:
            >>> from PIL import Image
            >>> prepare = Preprocessing(image_size=32, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3).transform()
            >>> prepare(Image.new("L", (60, 40))).shape
            torch.Size([3, 32, 32])
        """
        from timm.data.transforms_factory import create_transform
        from torchvision.transforms import Compose, Normalize, ToTensor

        if self.resize != "crop":
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
