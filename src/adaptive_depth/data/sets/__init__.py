"""name → labelled images of one split: digits, folders, sets of torchvision and Hugging Face, tar shards."""

from collections.abc import Callable
from pathlib import Path

from ...errors import DataError
from ...registry import Registry
from .digits import Digits
from .folders import DRAWN, TORCHVISION, open_folder, open_torchvision, unknown
from .hugging_face import open_hugging_face
from .indexed import SPLITS, Indexed
from .letters_in_photos import LettersInPhotos
from .loading import Loader, Readable, collate_readable, joined, readable
from .shards import Shards, open_shards

__all__ = [
    "DRAWN",
    "SPLITS",
    "TORCHVISION",
    "Digits",
    "ImageSet",
    "Indexed",
    "LettersInPhotos",
    "Loader",
    "Readable",
    "Shards",
    "collate_readable",
    "joined",
    "locate",
    "open_set",
    "readable",
]

ImageSet = Digits | LettersInPhotos | Indexed | Shards
# (what follows the prefix, root, split, download, the classes trained on) → a set
Opener = Callable[[str, Path | None, str, bool, tuple[str, ...] | None], ImageSet]
_NAMED: dict[str, Callable[[str], ImageSet]] = dict(zip(DRAWN, (Digits, LettersInPhotos), strict=True))
KINDS: Registry[Opener] = Registry("data", DataError)
KINDS.register("torch")(open_torchvision)
KINDS.register("hfds")(open_hugging_face)
KINDS.register("wds")(open_shards)


def open_set(
    name: str, root: str | Path | None, split: str, download: bool, classes: tuple[str, ...] | None = None
) -> ImageSet:
    """One split of a named set; its labels are numbers of `classes`, or of its own ones.

    Raises:
        DataError: a set that is unknown, missing or empty, or has classes that are none of `classes`.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    if name in _NAMED:
        return _NAMED[name](split)
    kind, rest = _kind(name)
    if kind is None:
        return open_folder(name, split, classes)
    return KINDS[kind](rest, None if root is None else Path(root).expanduser(), split, download, classes)


def locate(name: str, root: str | Path | None) -> tuple[str, str | None]:
    """Name and root as they can be remembered: paths that hold wherever the next program is started.

    Example:
        >>> locate("torch/mnist", None)
        ('torch/mnist', None)
    """
    kind, rest = _kind(name)
    absolute = None if root is None else Path(root).expanduser().resolve()
    path = Path(rest).expanduser()
    if name not in _NAMED and kind is None:
        return str(path.resolve()), None
    if kind == "wds":
        return f"wds/{((absolute or Path()) / path).resolve()}", None
    if kind == "hfds" and path.is_dir():
        name = f"hfds/{path.resolve()}"
    return name, None if absolute is None else str(absolute)


def _kind(name: str) -> tuple[str | None, str]:
    prefix, slash, rest = name.partition("/")
    kind = prefix.lower()
    if slash and kind in KINDS:
        if not rest and kind != "wds":  # whose folder may be the root
            raise unknown(name)
        return kind, rest
    return None, name
