"""name → images of one split with labels: a class (digits, folders, sets of torchvision and Hugging Face, tar shards),
boxes (COCO, VOC, YOLO) or a class for each pixel (masks).
"""

from collections.abc import Callable
from pathlib import Path

from ...errors import DataError
from ...registry import Registry
from .boxes import BACKGROUND, Boxes
from .coco import open_coco
from .digits import Digits
from .folders import DRAWN, TORCHVISION, open_folder, open_torchvision, unknown
from .hugging_face import open_hugging_face
from .indexed import SPLITS, Indexed
from .letters_in_photos import LettersInPhotos
from .loading import Collate, Loader, Readable, joined, readable
from .masks import NO_CLASS, Masked, open_masks
from .shards import Shards, open_shards
from .voc import open_voc
from .yolo import open_yolo

__all__ = [
    "BACKGROUND",
    "DRAWN",
    "NO_CLASS",
    "SPLITS",
    "TORCHVISION",
    "Boxes",
    "Collate",
    "Digits",
    "ImageSet",
    "Indexed",
    "LettersInPhotos",
    "Loader",
    "Masked",
    "Readable",
    "Shards",
    "joined",
    "locate",
    "open_set",
    "readable",
    "shown_in",
]

ImageSet = Digits | LettersInPhotos | Indexed | Shards | Boxes | Masked
# (what follows the prefix, root, split, download, the classes trained on) → a set
Opener = Callable[[str, Path | None, str, bool, tuple[str, ...] | None], ImageSet]
_NAMED: dict[str, Callable[[str], ImageSet]] = dict(zip(DRAWN, (Digits, LettersInPhotos), strict=True))
KINDS: Registry[Opener] = Registry("data", DataError)
KINDS.register("torch")(open_torchvision)
KINDS.register("hfds")(open_hugging_face)
KINDS.register("wds")(open_shards)
BOXES: Registry[Callable[[Path, str, tuple[str, ...] | None], Boxes]] = Registry("data", DataError)
BOXES.register("coco")(open_coco)
BOXES.register("voc")(open_voc)
BOXES.register("yolo")(open_yolo)
_MASKS = "masks"
_IN_FOLDERS = ("wds", *BOXES, _MASKS)


def shown_in(name: str) -> str:
    """How a set is labelled: by `"class"` (one per image), `"boxes"` or `"masks"` (a class for each pixel).

    Example:
        >>> shown_in("digits"), shown_in("coco/data/dogs"), shown_in("masks/streets")
        ('class', 'boxes', 'masks')
    """
    kind, _ = _kind(name)
    return "boxes" if kind in BOXES else "masks" if kind == _MASKS else "class"


def open_set(
    name: str,
    root: str | Path | None,
    split: str,
    download: bool,
    classes: tuple[str, ...] | None = None,
    ignored: int = NO_CLASS,
) -> ImageSet:
    """One split of a named set; its labels are indices of `classes`, or of its own ones, and in masks `ignored`.

    Raises:
        DataError: a set that is unknown, missing or empty, or has classes that are not in `classes`.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    if name in _NAMED:
        if split == "test":
            raise DataError(f"data {name!r} has no test part: expected split='validation', which is held out")
        return _NAMED[name](split)
    kind, rest = _kind(name)
    if kind is None:
        return open_folder(name, split, classes)
    place = None if root is None else Path(root).expanduser()
    if kind in KINDS:
        return KINDS[kind](rest, place, split, download, classes)
    folder = (place or Path()) / Path(rest).expanduser()
    return open_masks(folder, split, classes, ignored) if kind == _MASKS else BOXES[kind](folder, split, classes)


def locate(name: str, root: str | Path | None) -> tuple[str, str | None]:
    """Name and root in a form that can be stored: paths that are valid from any working directory.

    Example:
        >>> locate("torch/mnist", None)
        ('torch/mnist', None)
    """
    kind, rest = _kind(name)
    absolute = None if root is None else Path(root).expanduser().resolve()
    path = Path(rest).expanduser()
    if name not in _NAMED and kind is None:
        return str(path.resolve()), None
    if kind in _IN_FOLDERS:
        return f"{kind}/{((absolute or Path()) / path).resolve()}", None
    if kind == "hfds" and path.is_dir():
        name = f"hfds/{path.resolve()}"
    return name, None if absolute is None else str(absolute)


def _kind(name: str) -> tuple[str | None, str]:
    prefix, slash, rest = name.partition("/")
    kind = prefix.lower()
    if slash and kind in (*KINDS, *_IN_FOLDERS):
        if not rest and kind not in _IN_FOLDERS:  # their folder may be the root
            raise unknown(name)
        return kind, rest
    return None, name
