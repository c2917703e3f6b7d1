"""Images with a mask each, a picture of the same size whose pixels are the numbers of classes."""

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

NO_CLASS = 255  # what masks hold, by custom, where a pixel belongs to no class
_IMAGE_FOLDERS = ("images", "image", "img", "imgs", "JPEGImages")
_MASK_FOLDERS = ("masks", "mask", "annotations", "labels", "SegmentationClass")
_NUMBERS = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L")  # Pillow's modes of one number a pixel
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
        classes: those that the pixels become numbers of; by default `found`.
        ignored: the number of pixels that belong to no class, beside 255; both become this one.
        what: the set, as errors call it.

    Raises:
        DataError: classes that are none of `classes`; when an item is asked for, an image or a mask that is missing or
            cannot be read, a mask of another size than its image, or with numbers beyond the classes.
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
        except Exception as error:  # whatever a decoder stumbles over
            raise unreadable(str(path), error) from error
        pixels = read_mask(mask_path)
        height, width = pixels.shape
        if (width, height) != image.size:
            raise DataError(
                f"mask {mask_path} has {width} x {height} pixels, its image {path} {image.width} x {image.height}: "
                "remove both, or make the mask anew"
            )
        numbers = self._numbered(pixels, mask_path)
        small = min(self.ignored, numbers.min()) >= 0 and max(self.ignored, numbers.max()) <= 255
        mask = Mask(torch.from_numpy(numbers.astype(np.uint8 if small else np.int32)))
        return self.transform(image, mask) if self.transform else (image, mask)

    def _numbered(self, pixels: NDArray[np.int64], path: Path) -> NDArray[np.int64]:
        """The numbers of `classes`, and the ignored one."""
        counted = (pixels != self.ignored) & (pixels != NO_CLASS)
        strange = np.setdiff1d(pixels[counted], np.arange(len(self.numbers)))
        if len(strange):
            given, last = ", ".join(map(str, strange[:5])), len(self.numbers) - 1
            others = f" or {self.ignored}" if self.ignored != NO_CLASS else ""
            raise DataError(
                f"mask {path} has the numbers {given}: expected 0 to {last} for the classes, and {NO_CLASS}{others} "
                "for pixels of none; name its class in classes.txt, or, where it stands for no class, say so with the "
                f'task (--task "segmentation(ignore_index={int(strange[-1])})")'
            )
        return np.where(counted, self.numbers[np.where(counted, pixels, 0)], self.ignored)


def open_masks(folder: Path, split: str, classes: tuple[str, ...] | None, ignored: int) -> Masked:
    """A split of a folder of images and masks. `classes.txt` names the classes, else the numbers in the masks do.

    Raises:
        DataError: folders that are missing or empty; classes that are none of `classes`.
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
    """The numbers of a mask, `[height, width]`: of a palette the index, not its colour.

    Raises:
        DataError: missing, no image, or one of colours.
    """
    try:
        with path.open("rb") as file, Image.open(file) as opened:
            if opened.mode in _NUMBERS:
                return np.asarray(opened).astype(np.int64)
            mode = opened.mode
    except Exception as error:  # whatever a decoder stumbles over
        raise DataError(
            f"mask {path} cannot be read ({one_line(error)}): remove its image, or put a whole one there"
        ) from error
    raise DataError(
        f"mask {path} is a picture of mode {mode}: expected one number a pixel (mode L or P), as in a PNG file of "
        "indices"
    )


def _pairs(folder: Path, split: str) -> list[tuple[Path, Path]]:
    """The images of a split in the order of their names, and where their masks are or should be."""
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
    """The folders of images and of masks of a split, in either order of the two names."""
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
    """Names by number, up to the highest in the masks, which takes a look at every one."""
    highest = -1
    for _, path in pairs:
        state = path.stat() if path.is_file() else None
        if state is not None:
            highest = max(highest, _highest(path, ignored, state.st_mtime_ns, state.st_size))
    if highest < 1:
        raise DataError(
            f"the masks of {len(pairs)} images, such as {pairs[0][1]}, name {highest + 1 or 'no'} class beside "
            f"{NO_CLASS} (pixels of none): expected two or more, numbered from 0, such as 0 and 1 in place of 0 and 255"
        )
    return tuple(str(number) for number in range(highest + 1))


@lru_cache(maxsize=1 << 18)
def _highest(path: Path, ignored: int, changed: int, size: int) -> int:  # noqa: ARG001  of this state of the file
    try:
        pixels = read_mask(path)
    except DataError:  # what is damaged is told when it is read
        return -1
    return int(pixels[(pixels != ignored) & (pixels != NO_CLASS)].max(initial=-1))
