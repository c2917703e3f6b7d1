"""Boxes in YOLO's format: `images/`, and in `labels/` a text file for each, with a class and a box per line."""

import re
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

from ...errors import DataError, one_line
from ...schema import read_bytes, read_yaml
from .boxes import IMAGES, Boxes, Marked, Notes, Picture, agreed, pictured, split_folders, unusable
from .indexed import SPLITS

_MOST = 1 << 20  # bytes of a text file
_LINE = "expected lines such as '0 0.5 0.5 0.2 0.3': a class number, centre x and y, width and height, from 0 to 1"
_FORM = (
    "expected images/train/ and labels/train/ (or train/images/ and train/labels/) and the same for val, or a "
    "data.yaml with their paths"
)


def open_yolo(folder: Path, split: str, classes: tuple[str, ...] | None) -> Boxes:
    """A split of a folder in YOLO's format. Classes are named by `data.yaml` or `classes.txt`, else by their numbers.

    An image without a text file has no boxes. A line with more than five numbers is a polygon, whose box is used.

    Raises:
        DataError: folders or names that are missing or damaged; classes that are not in `classes`; no boxes.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {str(folder)!r}: {_FORM}")
    told = _told(folder)
    images = _images(folder, told, split)
    read = [_read(path) for path in images]
    what, notes = f"the {split} part of folder {str(folder)!r}", Notes()
    found = _names(folder, told) or _numbered(folder, told)
    chosen, by_name = agreed(found, classes, what)
    numbers = {str(number): by_name[name] for number, name in enumerate(found)}
    pictures = [
        _picture(path, n, *content, numbers, notes) for n, (path, content) in enumerate(zip(images, read, strict=True))
    ]
    return Boxes(pictures, chosen, notes, what)


# -- which images -----------------------------------------------------------------------------------------------


def _told(folder: Path) -> dict[str, Any]:
    """The content of `data.yaml`, if there is one."""
    path = next(
        (folder / name for name in ("data.yaml", "data.yml", "dataset.yaml") if (folder / name).is_file()), None
    )
    if path is None:
        return {}
    content = read_yaml(path, DataError, "expected lines such as 'train: images/train' and 'names: [cat, dog]'")
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}: expected lines such as 'names: [cat, dog]'")
    return content


def _images(folder: Path, told: dict[str, Any], split: str) -> list[Path]:
    """The images of a split, sorted by name."""
    named = next((told[name] for name in SPLITS[split] if told.get(name)), None)
    places = [_place(folder, told.get("path"), str(each)) for each in _listed(named)] if named else []
    places = places or _usual_places(folder, split)
    if not places:
        raise DataError(f"folder {str(folder)!r} has no {split} part: {_FORM}")
    found = [path for place in places for path in sorted(place.iterdir()) if path.suffix.lower() in IMAGES]
    if not found:
        raise DataError(
            f"{', '.join(map(str, places))} holds no images: expected files that end with {', '.join(IMAGES)}"
        )
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _place(folder: Path, base: Any, named: str) -> Path:
    """A folder in `data.yaml`, relative to its `path` or to the file (some tools write one `../` too many)."""
    inside = named.removeprefix("../")
    tried = [folder / str(base or ".") / named, folder / named, folder / inside]
    place = next((each for each in tried if each.is_dir()), None)
    if place is None:
        raise DataError(f"data.yaml in {str(folder)!r} has the path {named!r}, which is not a folder: {_FORM}")
    return place / "images" if (place / "images").is_dir() else place


def _usual_places(folder: Path, split: str) -> list[Path]:
    found = split_folders(folder / "images", split) or [each / "images" for each in split_folders(folder, split)]
    return [each for each in found if each.is_dir()]


def _names(folder: Path, told: dict[str, Any]) -> tuple[str, ...]:
    """The class names in `data.yaml` or `classes.txt`; empty if neither has any."""
    names = told.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise DataError(f"data.yaml in {str(folder)!r} numbers its names {list(names)}: expected 0, 1, 2, ...")
        names = [names[number] for number in range(len(names))]
    if names is None:
        path = next(
            (each / "classes.txt" for each in (folder, folder / "labels") if (each / "classes.txt").is_file()), None
        )
        text = b"" if path is None else read_bytes(path, DataError, "expected the name of a class on each line", _MOST)
        names = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    if not isinstance(names, list) or len({str(each) for each in names}) < len(names):
        raise DataError(f"data.yaml or classes.txt in {str(folder)!r} has names={names!r}: expected a list, each once")
    return tuple(str(each) for each in names)


def _numbered(folder: Path, told: dict[str, Any]) -> tuple[str, ...]:
    """Names by number, up to the highest in both splits: not every class is in each."""
    count = told.get("nc")
    if type(count) is not int:
        places = [path for split in ("train", "validation") for path in _images(folder, told, split)]
        count = 1 + max((int(each.name) for path in places for each in _read(path)[0]), default=-1)
    return tuple(str(number) for number in range(count))


# -- what is on them --------------------------------------------------------------------------------------------

_Read = tuple[tuple[Marked, ...], str]  # boxes, what is wrong


def _picture(
    path: Path, number: int, marked: tuple[Marked, ...], wrong: str, numbers: dict[str, int], notes: Notes
) -> Picture:
    if wrong:
        return unusable(path, number, f"image {path}: {wrong}")
    return pictured(path, number, None, marked, numbers, notes)


def _read(image: Path) -> _Read:
    """The boxes of an image, whose text file is at the same place in `labels/` as it in `images/`, or beside it."""
    parts = list(image.with_suffix(".txt").parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    path = Path(*parts)
    try:
        state = path.stat()
    except OSError:
        return (), ""
    return _parsed(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1 << 18)
def _parsed(path: Path, changed: int, size: int) -> _Read:  # noqa: ARG001  a changed file is read again
    marked: list[Marked] = []
    try:
        text = read_bytes(path, DataError, "fix it", _MOST).decode()
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                marked.append(_box(line.split(), f"{path.name}, line {number}"))
    except (DataError, ValueError) as error:
        return (), f"its annotation {path} is damaged ({one_line(error)}): {_LINE}"
    return tuple(marked), ""


def _box(words: list[str], where: str) -> Marked:
    if not re.fullmatch(r"\d{1,6}", words[0]):
        raise ValueError(f"{where} begins with {words[0]!r} instead of a class number")
    numbers = [float(word) for word in words[1:]]
    if not all(map(isfinite, numbers)) or len(numbers) < 4 or (len(numbers) > 4 and len(numbers) % 2):
        raise ValueError(f"{where} has {len(words)} numbers")
    if max(map(abs, numbers)) > 2:  # probably a box in pixels
        raise ValueError(f"{where} has the number {max(numbers, key=abs):g}")
    if len(numbers) > 4:
        xs, ys = numbers[::2], numbers[1::2]
        return Marked(where, (min(xs), min(ys), max(xs), max(ys)), words[0])
    x, y, width, height = numbers
    return Marked(where, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), words[0])
