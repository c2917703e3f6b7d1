"""Boxes in COCO's format: a JSON file for each split, beside its images.

torchvision's own reader prints while reading, and stops at the first damaged entry.
"""

import json
import re
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...errors import DataError, one_line
from ...schema import read_bytes
from .boxes import Boxes, Marked, Notes, agreed, pictured, split_folders
from .indexed import SPLITS

_MOST = 1 << 31  # bytes: instances_train2017.json has 450 MB
_FORM = (
    "expected annotations/instances_train2017.json and train2017/ with its images (or annotations/train.json and "
    "train/, or train/_annotations.coco.json with the images beside it), and the same for val"
)


def open_coco(folder: Path, split: str, classes: tuple[str, ...] | None) -> Boxes:
    """A split of a folder in COCO's format. Classes are its categories, in the order of their ids.

    Raises:
        DataError: a file that is missing or damaged, images that are in none of the usual places; classes that are not
            in `classes`; no boxes.
    """
    file = _file(folder, split)
    what = f"{split} part {str(file)!r}"
    content = _content(file)
    found = {each["id"]: str(each["name"]) for each in sorted(content["categories"], key=lambda each: each["id"])}
    if len(set(found.values())) < len(content["categories"]):
        raise DataError(f"{what} has categories with the same name or id ({', '.join(found.values())}): use each once")
    marked, notes = _marked(content, found, file.name), Notes()
    used = {each.name for those in marked.values() for each in those} & set(found.values())
    chosen, numbers = agreed(list(found.values()), classes, what, used)
    for number in set(marked) - {each["id"] for each in content["images"]}:
        notes.boxes += len(marked[number])
        notes.left_out |= {each.where: f"there is no image {number!r}" for each in marked[number]}
    place = _place(folder, file, content["images"])
    pictures = [
        pictured(
            place / each["file_name"], each["id"], (each["width"], each["height"]), marked[each["id"]], numbers, notes
        )
        for each in sorted(content["images"], key=lambda each: each["id"])
    ]
    return Boxes(pictures, chosen, notes, what)


def _file(folder: Path, split: str) -> Path:
    """The annotations of a split: by their name, or the only JSON file in the split's folder."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {str(folder)!r}: {_FORM}")
    names = "|".join(SPLITS[split])
    named = re.compile(rf"(instances_|instances-)?({names})\d*", re.IGNORECASE)
    for place in (folder / "annotations", folder):
        found = sorted(path for path in place.glob("*.json") if named.fullmatch(path.stem))
        best = [path for path in found if path.stem.startswith("instances")] or found
        if len(best) > 1:
            raise DataError(
                f"{place} has several {split} parts, {', '.join(path.name for path in best)}: keep only one"
            )
        if best:
            return best[0]
    inside = [path for part in split_folders(folder, split) for path in part.glob("*.json")]
    if len(inside) == 1:
        return inside[0]
    raise DataError(f"folder {str(folder)!r} has no {split} part: {_FORM}")


def _place(folder: Path, file: Path, images: list[dict[str, Any]]) -> Path:
    """The folder that file names refer to: the first of the usual ones that holds some of the images."""
    part = re.sub(r"^instances[_-]", "", file.stem)
    places = [file.parent, folder / part, folder / "images" / part, folder / "images", folder]
    for place in dict.fromkeys(places):
        if any((place / each["file_name"]).is_file() for each in images[:100]):
            return place
    first = images[0]["file_name"] if images else "an image"
    raise DataError(
        f"{first!r} of {file} is in none of {', '.join(map(str, dict.fromkeys(places)))}: put the images there"
    )


def _marked(content: dict[str, Any], found: dict[Any, str], file: str) -> dict[Any, list[Marked]]:
    """The boxes of each image, by its id."""
    marked: dict[Any, list[Marked]] = defaultdict(list)
    for place, each in enumerate(content["annotations"]):
        told = each if isinstance(each, dict) else {}
        image, category = _key(told.get("image_id")), _key(told.get("category_id"))
        name = found.get(category, f"of id {told.get('category_id')}")
        box, outline = told.get("bbox"), told.get("segmentation")
        sides = tuple(float(side) for side in box if _is_number(side)) if isinstance(box, list) else ()
        if len(sides) == 4:
            left, top, width, height = sides
            sides = (left, top, left + width, top + height)
        where = f"{file}, annotation {told.get('id', f'number {place}')} ({name})"
        marked[image].append(Marked(where, sides, name, bool(told.get("iscrowd")), _outline(outline)))
    return marked


def _outline(value: Any) -> Any:
    """COCO's polygons or run lengths, if well-formed; else None."""
    if isinstance(value, list):
        polygons = [each for each in value if isinstance(each, list) and len(each) >= 6 and all(map(_is_number, each))]
        return polygons or None
    right = (
        isinstance(value, dict) and isinstance(value.get("counts"), list | str) and isinstance(value.get("size"), list)
    )
    return value if right else None


def _content(file: Path) -> dict[str, Any]:
    try:
        state = file.stat()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({one_line(error)})") from error
    return _parsed(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2)  # both splits; they are large
def _parsed(file: Path, changed: int, size: int) -> dict[str, Any]:  # noqa: ARG001  a changed file is read again
    fix = 'expected {"images": [...], "annotations": [...], "categories": [...]}, as in COCO'
    try:
        content = json.loads(read_bytes(file, DataError, fix, _MOST))
    except (RecursionError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({one_line(error)}): {fix}") from error
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in lists):
        raise DataError(f"{file} holds no lists of {', '.join(lists)}: {fix}")
    for name, fits, expected in (
        ("categories", _is_category, 'entries such as {"id": 1, "name": "cat"}'),
        ("images", _is_image, 'entries such as {"id": 1, "file_name": "1.jpg", "width": 640, "height": 480}'),
    ):
        wrong = next((n for n, each in enumerate(content[name]) if not fits(each)), None)
        if wrong is not None:
            raise DataError(f"{file}: {name}[{wrong}] is {str(content[name][wrong])[:100]}: expected {expected}")
    return content


def _key(value: Any) -> int | None:
    return value if type(value) is int else None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_category(each: Any) -> bool:
    return isinstance(each, dict) and type(each.get("id")) is int and isinstance(each.get("name"), str)


def _is_image(each: Any) -> bool:
    sides = isinstance(each, dict) and all(
        type(each.get(side)) is int and each[side] > 0 for side in ("width", "height")
    )
    return (
        sides
        and type(each.get("id")) is int
        and isinstance(each.get("file_name"), str)
        and "\0" not in each["file_name"]
    )
