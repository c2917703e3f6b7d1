"""Images with boxes, whatever the format of their annotations: what is read, checked, and left out."""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torchvision.tv_tensors import BoundingBoxes, Mask

from ...errors import DataError, one_line
from ...packages import hint
from .indexed import SPLITS, agree, decode, unreadable

BACKGROUND = "__background__"  # torchvision's name for the background class
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_SHOWN = 3  # examples in a message


@dataclass(frozen=True)
class Marked:
    """A box as annotated, not yet checked.

    Attributes:
        where: the annotation, for messages.
        box: left, top, right and bottom, in pixels, or as fractions of the image's sides.
        name: its class.
        crowd: whether it is neither learned nor counted (a crowd in COCO, a difficult object in VOC).
        outline: COCO's polygons or run lengths; None if there are none.
    """

    where: str
    box: tuple[float, ...]
    name: str
    crowd: bool = False
    outline: Any = None


@dataclass(frozen=True)
class Picture:
    """An image and its annotations.

    Attributes:
        path: of the image.
        number: its `image_id`.
        size: width and height according to the annotation; None if it has none, and boxes are fractions of both.
        boxes: `[boxes, 4]`, left, top, right and bottom.
        labels: `[boxes]`, class indices.
        crowd: `[boxes]`, which of them are neither learned nor counted.
        outlines: of each box, COCO's polygons or run lengths.
        wrong: why nothing can be learned from it; empty if it is usable.
    """

    path: Path
    number: int
    size: tuple[int, int] | None
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    outlines: tuple[Any, ...] = ()
    wrong: str = ""


@dataclass
class Notes:
    """Boxes of a set that are not used as annotated.

    Attributes:
        boxes: the number of annotations.
        left_out: the places of those that are left out, and the reasons.
        cut: the places of those that extend beyond their image and are clipped.
        empty: images without boxes, which are learned as empty.
    """

    boxes: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """A line for each kind; empty if there is nothing to report."""
        lines: list[str] = []
        if self.left_out:
            told = "; ".join(f"{where}: {why}" for where, why in list(self.left_out.items())[:_SHOWN])
            lines.append(f"{len(self.left_out)} of {self.boxes:,} boxes left out: {told}")
        if self.cut:
            lines.append(
                f"{len(self.cut)} of {self.boxes:,} boxes extend beyond their images and are clipped: "
                f"{', '.join(self.cut[:_SHOWN])}"
            )
        if self.empty:
            lines.append(f"{len(self.empty)} images have no boxes: {', '.join(self.empty[:_SHOWN])}")
        return "\n".join(lines)


class Boxes(Dataset[tuple[Any, dict[str, Any]]]):
    """Images and their boxes: an item is a `PIL.Image` and a dict of `"boxes"` (`[boxes, 4]`, left, top, right and
    bottom in pixels), `"labels"` (`[boxes]`), `"image_id"`, `"iscrowd"` (`[boxes]`) and, if requested, `"masks"`
    (`[boxes, height, width]`), as transforms of torchvision take them.

    Arguments:
        pictures: the images and their annotations.
        classes: those that labels index.
        notes: which boxes are not used as annotated.
        what: the set's name in errors.

    Raises:
        DataError: no image, or no box on any; when an item is read, an image that cannot be read, has another size than
            in its annotation, or has a damaged annotation.
    """

    def __init__(self, pictures: Sequence[Picture], classes: tuple[str, ...], notes: Notes, what: str) -> None:
        if not any(len(each.labels) for each in pictures):
            why = next((f" ({each.wrong})" for each in pictures if each.wrong), f" ({notes})" if pictures else "")
            raise DataError(f"{what} holds no boxes on {len(pictures)} images{why}: expected at least one")
        self.pictures, self.classes, self.notes, self.what = pictures, classes, notes, what
        self.transform: Any = None
        self.crowds, self.masks = True, False

    def learn_masks(self) -> None:
        """From now on items have a mask for each box.

        Raises:
            DataError: a box without an outline; pycocotools is not installed.
        """
        missing = [each for each in self.pictures if any(outline is None for outline in each.outlines)]
        if missing:
            raise DataError(
                f"{self.what} has boxes without outlines on {len(missing)} of {len(self)} images, such as "
                f"{missing[0].path}, but the model learns a mask for each: expected 'segmentation' in each "
                "annotation, as in COCO"
            )
        try:
            import pycocotools  # noqa: F401
        except ImportError as error:
            raise DataError(f"outlines need {hint(error, 'detection')}") from error
        self.masks = True

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        picture = self.pictures[index]
        if picture.wrong:
            raise DataError(picture.wrong)
        try:
            image = decode(picture.path.open("rb"))
        except Exception as error:  # decoders raise errors of any kind
            raise unreadable(str(picture.path), error) from error
        if picture.size not in (None, image.size):
            stated = " x ".join(map(str, picture.size or ()))
            raise DataError(
                f"image {picture.path} has {image.width} x {image.height} pixels, but its annotation says {stated}, so "
                "its boxes belong to another image: remove it, or fix one of the two"
            )
        target = self._target(picture, *image.size)
        return self.transform(image, target) if self.transform else (image, target)

    def _target(self, picture: Picture, width: int, height: int) -> dict[str, Any]:
        # Evaluation needs crowds, to ignore what is found on them.
        chosen = np.ones_like(picture.crowd) if self.crowds else ~picture.crowd
        scale = (1, 1, 1, 1) if picture.size else (width, height, width, height)
        boxes = torch.from_numpy((picture.boxes * np.array(scale))[chosen].astype(np.float32))
        target: dict[str, Any] = {
            "boxes": BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),  # type: ignore[call-overload]
            "labels": torch.from_numpy(picture.labels[chosen]),
            "iscrowd": torch.from_numpy(picture.crowd[chosen].astype(np.int64)),
            "image_id": picture.number,
        }
        if self.masks:
            wanted = [outline for outline, one in zip(picture.outlines, chosen, strict=True) if one]
            target["masks"] = Mask(torch.from_numpy(_drawn(wanted, width, height, picture.path)))
        return target


def agreed(
    found: Sequence[str], classes: tuple[str, ...] | None, what: str, used: Iterable[str] | None = None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes that labels index, and these indices by name.

    Arguments:
        found: the set's own classes.
        classes: those that were trained on, if known; the background among them is never a label.
        what: the set's name in errors.
        used: those of its own classes that have boxes; by default all.

    Raises:
        DataError: a class that is not in `classes`, or one with the name of the background.

    Example:
        >>> agreed(["cat", "dog"], ("__background__", "cat", "dog"), "the set")
        (('__background__', 'cat', 'dog'), {'cat': 1, 'dog': 2})
    """
    if BACKGROUND in found:
        raise DataError(f"{what} has a class {BACKGROUND!r}, the name of the background: give it another")
    chosen = tuple(found) if classes is None else classes
    agree(list(found if used is None else used), chosen, what)
    return chosen, {name: number for number, name in enumerate(chosen) if name != BACKGROUND}


def split_folders(place: Path, split: str) -> list[Path]:
    """The folders in a place that are named like a split, with or without a year: `train`, `train2017`."""
    names = re.compile(rf"({'|'.join(SPLITS[split])})\d*", re.IGNORECASE)
    there = sorted(place.iterdir()) if place.is_dir() else []
    found = [each for each in there if each.is_dir() and names.fullmatch(each.name)]
    # If both val/ and test/ exist, the one listed first in SPLITS is meant.
    return sorted(found, key=lambda each: SPLITS[split].index(re.sub(r"\d+$", "", each.name.lower())))[:1]


def pictured(
    path: Path,
    number: int,
    size: tuple[int, int] | None,
    marked: Iterable[Marked],
    numbers: dict[str, int],
    notes: Notes,
) -> Picture:
    """An image with its valid boxes; the others are noted.

    Arguments:
        path: of the image.
        number: its `image_id`.
        size: its width and height in pixels; None if boxes are fractions of both.
        marked: its boxes.
        numbers: of the classes, by name.
        notes: collects what is left out or clipped.
    """
    kept: list[tuple[Marked, tuple[float, ...]]] = []
    width, height = size or (1, 1)
    for each in marked:
        notes.boxes += 1
        box, why = _inside(each.box, width, height)
        if not why and each.name not in numbers:
            why = f"its class {each.name!r} is not one of {', '.join(list(numbers)[:8])}{', ...' * (len(numbers) > 8)}"
        if why:
            notes.left_out[each.where] = why
            continue
        # Written coordinates are rounded, so less than a pixel beyond the image is not an error.
        if max(abs(a - b) for a, b in zip(box, each.box, strict=True)) > (1.0 if size else 1e-3):
            notes.cut.append(each.where)
        kept.append((each, box))
    if not kept:
        notes.empty.append(path.name)
    return Picture(
        path,
        number,
        size,
        np.array([box for _, box in kept], np.float64).reshape(-1, 4),
        np.array([numbers[each.name] for each, _ in kept], np.int64),
        np.array([each.crowd for each, _ in kept], np.bool_),
        tuple(each.outline for each, _ in kept),
    )


def unusable(path: Path, number: int, why: str) -> Picture:
    """An image from which nothing can be learned."""
    return Picture(path, number, None, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.bool_), wrong=why)


def _inside(box: tuple[float, ...], width: float, height: float) -> tuple[tuple[float, ...], str]:
    """The part of a box inside its image, and why it cannot be used (empty if it can)."""
    if len(box) != 4 or not all(map(isfinite, box)):
        return box, f"its sides are {', '.join(map(str, box)) or 'missing'}, expected four finite numbers"
    left, top, right, bottom = box
    stated = ", ".join(f"{side:g}" for side in box)
    if right <= left or bottom <= top:
        return box, f"it has no area (left, top, right, bottom: {stated})"
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        image = "the image" if (width, height) == (1, 1) else f"the {width:g} x {height:g} pixels of the image"
        return box, f"it lies outside {image} (left, top, right, bottom: {stated})"
    return (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)), ""


def _drawn(outlines: Sequence[Any], width: int, height: int, path: Path) -> NDArray[np.uint8]:
    """Masks `[boxes, height, width]` from COCO's outlines."""
    from pycocotools import mask

    drawn = np.zeros((len(outlines), height, width), np.uint8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        for number, outline in enumerate(outlines):
            try:
                drawn[number] = mask.decode(_run_lengths(mask, outline, width, height))
            except Exception as error:  # pycocotools raises errors of any kind
                raise DataError(
                    f"image {path}: the outline of its box number {number} is damaged ({one_line(error)}): fix it, or "
                    "remove the box"
                ) from error
    return drawn


def _run_lengths(mask: Any, outline: Any, width: int, height: int) -> Any:
    if isinstance(outline, list):
        return mask.merge(mask.frPyObjects(outline, height, width))
    if outline["size"] != [height, width]:
        raise ValueError(f"it has the size {outline['size']}, but the image {[height, width]}")
    return mask.frPyObjects(outline, height, width) if isinstance(outline["counts"], list) else outline
