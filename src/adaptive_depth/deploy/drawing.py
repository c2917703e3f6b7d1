"""Predictions drawn on their image: boxes with classes, segmented areas in colour, otherwise text in a corner."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..errors import DataError
from ..meaning import Meaning
from ..preprocessing import Placement, in_mode
from .predictions import Prediction
from .sources import Picture

# The palette of Okabe and Ito, distinguishable with any kind of colour blindness.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
_SHADES = ((0, 0.0), (255, 0.5), (0, 0.45))  # (grey, its share in the mix): unchanged, lighter, darker
_OPAQUE = 0.55  # of a colour over the image
# No chroma subsampling: it would wash out lines two pixels wide.
_JPEG: dict[str, Any] = {"quality": 90, "subsampling": 0}
_MOST = 12  # lines
_LONGEST = 200  # characters of a file's name

Colour = tuple[int, int, int]


class Drawer:
    """Draws on pictures, and writes each as a JPEG file; later pictures of the same name are left out.

    Arguments:
        folder: where to; created when needed, and must be empty.
        labels: class names in the order of the outputs; empty if unknown.
        meanings: what outputs stand for: maps of classes or labels become colours.
        below: the folder to strip from the files' names.

    Raises:
        DataError: a folder that is not empty.
    """

    def __init__(
        self,
        folder: Path,
        labels: Sequence[str] = (),
        meanings: Mapping[str, Meaning] | None = None,
        below: Path | None = None,
    ) -> None:
        self.folder, self.labels, self.meanings, self.below = folder, tuple(labels), dict(meanings or {}), below
        if folder.is_dir() and any(folder.iterdir()):
            raise DataError(f"{folder} is not empty, and its contents could be lost: name another folder to draw into")

    def __call__(self, picture: Picture, placement: Placement, output: Any, predictions: Sequence[Prediction]) -> None:
        """Draw on one picture.

        Raises:
            DataError: the file cannot be written.
        """
        inside = self.below is not None and Path(picture.name).is_relative_to(self.below)
        name = str(Path(picture.name).relative_to(self.below)) if inside and self.below else picture.name
        file = self.folder / file_name(name)
        try:
            if not file.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                self.drawn(picture.image, placement, output, predictions).save(file, **_JPEG)
        except OSError as error:
            raise DataError(f"{file} cannot be written ({error.strerror or error}): name another folder") from error

    def drawn(
        self, image: Image.Image, placement: Placement, output: Any, predictions: Sequence[Prediction]
    ) -> Image.Image:
        """A copy of an image with its predictions drawn on it."""
        image, said = in_mode(image, "RGB"), []
        outputs = output if isinstance(output, Mapping) else {"": output}
        for prediction in predictions:
            meaning, found = self.meanings.get(prediction.output), np.asarray(outputs.get(prediction.output, 0))
            if "objects" in prediction.values:
                draw_objects(image, prediction.values["objects"])
            elif meaning is not None and meaning.kind in ("classes", "labels") and found.ndim == 4:
                alone = meaning.kind == "labels" or found.shape[1] == 1
                places = classes_of(found[0], placement, several=alone)
                image = coloured(image, places)
                said += [(self._name(number, found.shape[1]), colour_of(number)) for number in _most_first(places)]
            else:
                said.append((str(prediction), None))
        _write(image, said)
        return image

    def _name(self, number: int, of: int) -> str:
        return self.labels[number] if len(self.labels) == of else f"class {number}"


def file_name(name: str) -> str:
    """The file for a picture: its name without characters that files may not have.

    Example:
        >>> file_name("photos/left/3.png"), file_name("camera:0 12")
        ('photos_left_3.png.jpg', 'camera_0_12.jpg')
    """
    return re.sub(r"[^\w.-]+", "_", name).strip("._")[-_LONGEST:] + ".jpg"


def colour_of(number: int) -> Colour:
    """The colour of a class by number: seven colours, then lighter and darker ones, then the same again.

    Example:
        >>> colour_of(0), colour_of(7)
        ((230, 159, 0), (242, 207, 128))
    """
    plain, (grey, part) = _COLOURS[number % len(_COLOURS)], _SHADES[number // len(_COLOURS) % len(_SHADES)]
    red, green, blue = (round((1 - part) * level + part * grey) for level in plain)
    return red, green, blue


# -- objects --------------------------------------------------------------------------------------------------------


def draw_objects(image: Image.Image, objects: Sequence[Mapping[str, Any]]) -> None:
    """Draw a box around each object, in its class's colour, with name and score; the highest score on top.

    Arguments:
        image: in colour; it is changed.
        objects: each with its `class`, `number`, `score` and `box`, as a `Prediction` has them.
    """
    pen, font, width = ImageDraw.Draw(image), _font(image), max(2, round(min(image.size) / 200))
    for each in reversed(objects):
        colour, box = colour_of(each["number"]), [float(side) for side in each["box"]]
        pen.rectangle(box, outline=colour, width=width)
        text = f"{each['class']} {100 * each['score']:.0f} %"
        _label(pen, text, (box[0], box[1]), colour, font, above=True)


# -- areas ----------------------------------------------------------------------------------------------------------


def classes_of(logits: NDArray[Any], placement: Placement, *, several: bool = False) -> NDArray[np.int64]:
    """The class of each pixel of an image.

    Logits are upscaled to the image before the argmax, so that edges are smooth.

    Arguments:
        logits: `[classes, height, width]` of the whole input, at any resolution.
        placement: where the image lies in the input.
        several: whether a pixel may have several classes, or none; then the one with the highest logit above 0.

    Returns:
        `[height, width]` of the image; -1 where there is no class, or the input does not extend.
    """
    corner, frame = np.array(placement.corner), np.array(placement.frame)
    low, high = np.maximum(corner, 0), np.minimum(corner + placement.resized, frame)  # of the image, in the input
    left, top, right, bottom = np.round(placement.to_image(np.array([[*low, *high]]))[0]).astype(int)
    scale = np.array(logits.shape[:0:-1]) / frame
    seen = tuple(np.concatenate([low * scale, high * scale]).tolist())
    best: NDArray[Any] = np.full((bottom - top, right - left), 0.0 if several else -np.inf, np.float32)
    found = np.full(best.shape, -1)
    for number, each in enumerate(logits.astype(np.float32)):  # one at a time: all would take too much memory
        enlarged = np.asarray(Image.fromarray(each).resize(best.shape[::-1], Image.Resampling.BILINEAR, box=seen))
        surer = enlarged > best
        best, found = np.where(surer, enlarged, best), np.where(surer, number, found)
    whole = np.full(placement.image[::-1], -1)
    whole[top:bottom, left:right] = found
    return whole


def coloured(image: Image.Image, classes: NDArray[np.int64]) -> Image.Image:
    """An RGB image overlaid with the colour of each pixel's class; `classes` as `classes_of` returns them."""
    pixels = np.asarray(image, np.float32)
    table = np.array([*map(colour_of, range(int(classes.max(initial=0)) + 1))], np.float32)
    # -1 selects the last colour here, but the pixel is used instead.
    over = np.where((classes >= 0)[..., None], table[classes], pixels)
    mixed = (1 - _OPAQUE) * pixels + _OPAQUE * over
    return Image.fromarray(np.round(mixed).astype(np.uint8))


def _most_first(classes: NDArray[np.int64]) -> list[int]:
    numbers, counts = np.unique(classes[classes >= 0], return_counts=True)
    return numbers[np.argsort(-counts, kind="stable")].tolist()


# -- text -----------------------------------------------------------------------------------------------------------


def _write(image: Image.Image, said: Sequence[tuple[str, Colour | None]]) -> None:
    """Lines at the upper left, each on its colour, or white on black without one."""
    pen, font = ImageDraw.Draw(image), _font(image)
    said = [*said[:_MOST], (f"{len(said) - _MOST} more", None)] if len(said) > _MOST else said
    top = 0.0
    for text, colour in said:
        top = _label(pen, text, (0, top), colour or (0, 0, 0), font)


def _font(image: Image.Image) -> Any:
    return ImageFont.load_default(max(10, min(image.size) / 30))


def _label(
    pen: Any, text: str, corner: tuple[float, float], colour: Colour, font: Any, *, above: bool = False
) -> float:
    """Text on a coloured background, kept inside the image; returns its lower end."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = max(0.0, min(corner[0], pen.im.size[0] - width))
    y = max(0.0, corner[1] - (height if above else 0))
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 128  # perceived brightness (Rec. 601)
    pen.text((x + 2 - left, y + 2 - top), text, font=font, fill=(0, 0, 0) if bright else (255, 255, 255))
    return y + height
