"""Images with a mask each, a picture of the same size whose pixels are class numbers."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset
from torchvision.tv_tensors import Mask

from ...errors import DataError, one_line
from ...schema import read_bytes
from .boxes import IMAGES, split_folders
from .indexed import agree, decode, unreadable

NO_CLASS = 255  # the usual number in masks for pixels that belong to no class
_IMAGE_FOLDERS = ("images", "image", "img", "imgs", "JPEGImages")
_MASK_FOLDERS = ("masks", "mask", "annotations", "labels", "SegmentationClass")
_NUMBERS = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L")  # Pillow's modes with one number per pixel
_FORM = (
    "expected images/train/ and masks/train/ (or train/images/ and train/masks/) and the same for val, with a mask of "
    "the same name for each image, and the names of classes in classes.txt"
)


class Masked(Dataset[tuple[Any, Any]]):
    """Images and their masks: an item is a `PIL.Image` and a mask `[height, width]`, as transforms of torchvision take
    them.

    Arguments:
        pairs: the file of each image and of its mask.
        found: the set's own classes.
        classes: those that the pixels will index; by default `found`.
        ignored: the number of pixels that belong to no class, besides 255; both become this one.
        what: the set's name in errors.

    Raises:
        DataError: classes that are not in `classes`; when an item is read, an image or a mask that is missing or cannot
            be read, a mask of another size than its image, or with numbers beyond the classes.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        found: Sequence[str],
        classes: tuple[str, ...] | None,
        ignored: int,
        what: str,
    ) -> None:
        self.pairs, self.ignored, self.what = pairs, ignored, what
        self.classes = tuple(found) if classes is None else classes
        self.numbers = np.array(agree(found, self.classes, what), np.int64)
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, mask_path = self.pairs[index]
        try:
            image = decode(path.open("rb"))
        except Exception as error:  # decoders raise errors of any kind
            raise unreadable(str(path), error) from error
        pixels = read_mask(mask_path)
        height, width = pixels.shape
        if (width, height) != image.size:
            raise DataError(
                f"mask {mask_path} has {width} x {height} pixels, but its image {path} {image.width} x "
                f"{image.height}: remove both, or redo the mask"
            )
        numbers = self._numbered(pixels, mask_path)
        small = min(self.ignored, numbers.min()) >= 0 and max(self.ignored, numbers.max()) <= 255
        mask = Mask(torch.from_numpy(numbers.astype(np.uint8 if small else np.int32)))
        return self.transform(image, mask) if self.transform else (image, mask)

    def _numbered(self, pixels: NDArray[np.int64], path: Path) -> NDArray[np.int64]:
        """Indices of `classes`, and the ignored number."""
        counted = (pixels != self.ignored) & (pixels != NO_CLASS)
        strange = np.setdiff1d(pixels[counted], np.arange(len(self.numbers)))
        if len(strange):
            given, last = ", ".join(map(str, strange[:5])), len(self.numbers) - 1
            others = f" or {self.ignored}" if self.ignored != NO_CLASS else ""
            raise DataError(
                f"mask {path} has the numbers {given}: expected 0 to {last} for the classes, and {NO_CLASS}{others} "
                "for pixels of none; name its class in classes.txt or, if it stands for no class, set it in the task "
                f'(--task "segmentation(ignore_index={int(strange[-1])})")'
            )
        return np.where(counted, self.numbers[np.where(counted, pixels, 0)], self.ignored)


def open_masks(folder: Path, split: str, classes: tuple[str, ...] | None, ignored: int) -> Masked:
    """A split of a folder of images and masks. Classes are named by `classes.txt`, else by the numbers in the masks.

    Raises:
        DataError: folders that are missing or empty; classes that are not in `classes`.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {str(folder)!r}: {_FORM}")
    pairs = _pairs(folder, split)
    names = folder / "classes.txt"
    if names.is_file():
        text = read_bytes(names, DataError, "expected the name of a class in each line").decode(errors="replace")
        found = tuple(line.strip() for line in text.splitlines() if line.strip())
        if len(set(found)) < len(found):
            raise DataError(f"{names} has a name twice: expected each class once, in the order of their numbers")
    else:
        found = classes or _numbered(_pairs(folder, "train"), ignored)
    return Masked(pairs, found, classes, ignored, f"the {split} part of folder {str(folder)!r}")


def read_mask(path: Path) -> NDArray[np.int64]:
    """The numbers of a mask, `[height, width]`: with a palette the index, not its colour.

    Raises:
        DataError: missing, not an image, or a colour image.
    """
    try:
        with path.open("rb") as file, Image.open(file) as opened:
            if opened.mode in _NUMBERS:
                return np.asarray(opened).astype(np.int64)
            mode = opened.mode
    except Exception as error:  # decoders raise errors of any kind
        raise DataError(
            f"mask {path} cannot be read ({one_line(error)}): remove its image, or replace the mask"
        ) from error
    raise DataError(
        f"mask {path} is a picture of mode {mode}: expected one number per pixel (mode L or P), as in a PNG file of "
        "indices"
    )


def _pairs(folder: Path, split: str) -> list[tuple[Path, Path]]:
    """The images of a split, sorted by name, and where their masks are or should be."""
    found = next(iter(_places(folder, split)), None)
    if found is None:
        raise DataError(f"folder {str(folder)!r} has no {split} part: {_FORM}")
    images, masks = found
    files = [path for path in sorted(images.iterdir()) if path.suffix.lower() in IMAGES]
    if not files:
        raise DataError(f"{images} holds no images: expected files that end with {', '.join(IMAGES)}")
    there = {path.stem: path for path in sorted(masks.iterdir()) if path.suffix.lower() in IMAGES}
    if not any(path.stem in there for path in files):
        raise DataError(f"no image of {images} has a mask of its name in {masks}, such as {files[0].stem}.png: {_FORM}")
    return [(path, there.get(path.stem, masks / f"{path.stem}.png")) for path in files]


def _places(folder: Path, split: str) -> list[tuple[Path, Path]]:
    """The folders of images and of masks of a split, such as train/images/ or images/train/."""
    inner = [(a, b) for part in split_folders(folder, split) for a, b in _both(part)]
    outer = [
        (a[0], b[0])
        for images, masks in _both(folder)
        if (a := split_folders(images, split)) and (b := split_folders(masks, split))
    ]
    return inner + outer


def _both(place: Path) -> list[tuple[Path, Path]]:
    images = [place / name for name in _IMAGE_FOLDERS if (place / name).is_dir()]
    masks = [place / name for name in _MASK_FOLDERS if (place / name).is_dir()]
    return [(images[0], masks[0])] if images and masks else []


def _numbered(pairs: Sequence[tuple[Path, Path]], ignored: int) -> tuple[str, ...]:
    """Names by number, up to the highest in the masks, which needs to read all of them."""
    highest = -1
    for _, path in pairs:
        state = path.stat() if path.is_file() else None
        if state is not None:
            highest = max(highest, _highest(path, ignored, state.st_mtime_ns, state.st_size))
    if highest < 1:
        raise DataError(
            f"the masks of {len(pairs)} images, such as {pairs[0][1]}, have {highest + 1 or 'no'} class besides "
            f"{NO_CLASS} (pixels of none): expected two or more, numbered from 0, such as 0 and 1 instead of 0 and 255"
        )
    return tuple(str(number) for number in range(highest + 1))


@lru_cache(maxsize=1 << 18)
def _highest(path: Path, ignored: int, changed: int, size: int) -> int:  # noqa: ARG001  a changed file is read again
    try:
        pixels = read_mask(path)
    except DataError:  # damage is reported when the mask is needed
        return -1
    return int(pixels[(pixels != ignored) & (pixels != NO_CLASS)].max(initial=-1))
