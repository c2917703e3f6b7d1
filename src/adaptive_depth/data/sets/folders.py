"""Folders of images, and torchvision's sets, both through timm's factory."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from timm.data.dataset_factory import _TORCH_BASIC_DS, create_dataset
from timm.data.readers import get_img_extensions

from ...errors import DataError, FetchError, one_line
from .indexed import SPLITS, Indexed

TORCHVISION = tuple(f"torch/{name}" for name in _TORCH_BASIC_DS)
DRAWN = ("digits", "letters_in_photos")  # from files that dependencies ship: they need no root
_KNOWN = (
    f"a folder with train/ and val/ in it, {', '.join(DRAWN)}, torch/NAME (such as {TORCHVISION[0]}), hfds/NAME, or "
    "wds/, coco/, voc/, yolo/ or masks/ before the path of a folder (docs/data.md)"
)


def open_folder(name: str, split: str, classes: tuple[str, ...] | None) -> Indexed:
    """A folder that holds `train/` and `val/` (or another name of a split), with one folder per class in each.

    Raises:
        DataError: no such folder, split or images; classes that are not in `classes`.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise unknown(name)
    parts = [folder / each for each in SPLITS[split] if (folder / each).is_dir()]
    part = next(iter(parts), None)
    if part is None:
        wanted = " or ".join(f"{each}/" for each in SPLITS[split])
        inside = [each for each in sorted(folder.iterdir()) if any((each / part).is_dir() for part in SPLITS[split])]
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise DataError(
            f"folder {name!r} has no {split} part: expected {wanted} in it, with one folder per class{hint}"
        )
    what = f"folder {str(part)!r}"
    _check_layout(part, what)
    try:
        data: Any = create_dataset("", root=str(part), search_split=False)
    except RuntimeError as error:
        raise DataError(f"{what} holds no images: expected one folder per class, with images") from error
    found = tuple(data.reader.class_to_idx)
    notes = [f"taken from {part.name}/; those in {each.name}/ are not used" for each in parts[1:]]
    notes += [f"taken from {part}/"] if part.name == "test" and split == "validation" else []
    if missing := [each for each in classes or () if each not in found]:
        more = f" and {len(missing) - 5} more classes" * (len(missing) > 5)
        notes.append(f"none of the class{'es' * (len(missing) > 1)} {', '.join(missing[:5])}{more}")
    return Indexed(data.reader, found, classes, what, "\n".join(notes))


def _check_layout(part: Path, what: str) -> None:
    """
    Raises:
        DataError: images outside the folders of classes, which would be ignored; a folder without images.
    """
    inside = sorted(part.iterdir())
    loose = [each.name for each in inside if each.is_file() and each.suffix.lower() in get_img_extensions()]
    if loose:
        raise DataError(
            f"{what} holds images itself ({loose[0]}{f' and {len(loose) - 1} more' * (len(loose) > 1)}): expected them "
            "in one folder per class, such as cats/ and dogs/; move them"
        )
    for each in inside:
        hidden = each.name.startswith(".") or not each.is_dir()
        if not hidden and not any(file.suffix.lower() in get_img_extensions() for file in each.rglob("*")):
            raise DataError(
                f"{what} has a folder {each.name!r} without images: expected images of that class, or remove the folder"
            )


def open_torchvision(
    name: str, root: Path | None, split: str, download: bool, classes: tuple[str, ...] | None
) -> Indexed:
    """A set of torchvision, stored in a root folder.

    Raises:
        DataError: a set that is unknown, missing, or does not list its classes; classes that are not in `classes`.
    """
    name = f"torch/{name}"
    if root is None:
        raise DataError(
            f"data {name!r} needs a root: the folder in which the set is stored, or will be (--root){_hint(name)}"
        )
    if not root.is_dir() and not download:
        raise FetchError(f"root {str(root)!r} of data {name!r} is not a folder: choose another, or use --download")
    try:
        data: Any = create_dataset(name, root=str(root), split=split, download=download)
    except Exception as error:  # readers raise errors of any kind, and all need the same advice
        if "Unknown torchvision dataset" in str(error):
            raise unknown(name) from error
        kind = DataError if download else FetchError
        raise kind(f"data {name!r} cannot be read from {str(root)!r} (use --download?): {one_line(error)}") from error
    found = getattr(data, "classes", None) or getattr(data, "class_to_idx", None)
    if not found:
        raise DataError(f"data {name!r} does not list its classes: expected labelled images for classification")
    return Indexed(_Torchvision(data, name), tuple(str(each) for each in found), classes, f"data {name!r}")


class _Torchvision:
    """A set of torchvision as a reader."""

    def __init__(self, data: Any, name: str) -> None:
        self.data, self.name = data, name

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.data[index]

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:  # noqa: ARG002
        return f"{index} of {self.name}"


def unknown(name: str) -> DataError:
    """The error for an unknown name."""
    hint = _hint(name) or f": expected {_KNOWN}"
    return DataError(f"data {name!r} is neither a folder nor a known name{hint}")


def _hint(name: str) -> str:
    known = [*DRAWN, *TORCHVISION]
    near = [] if name in known else get_close_matches(name, known, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
