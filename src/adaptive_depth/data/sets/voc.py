"""Boxes in PASCAL VOC's format: `JPEGImages/`, an XML file for each in `Annotations/`, lists in `ImageSets/Main/`.

torchvision's own reader needs the challenge's folders of years around these.
"""

from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from ...errors import DataError, one_line
from ...schema import read_bytes
from .boxes import IMAGES, Boxes, Marked, Notes, Picture, agreed, pictured, unusable
from .indexed import SPLITS

_MOST = 1 << 20  # bytes of an annotation
_FORM = "expected JPEGImages/, Annotations/ with an .xml file for each image, and ImageSets/Main/train.txt and val.txt"


def open_voc(folder: Path, split: str, classes: tuple[str, ...] | None) -> Boxes:
    """A split of a folder in VOC's format. Classes are the names in the annotations of the training split.

    Raises:
        DataError: folders or a list that are missing; classes that are not in `classes`; no boxes.
    """
    what = f"folder {str(folder)!r}"
    missing = [name for name in ("JPEGImages", "Annotations", "ImageSets/Main") if not (folder / name).is_dir()]
    if missing:
        raise DataError(f"{what} has no {' and no '.join(missing)}: {_FORM}")
    what, notes = f"the {split} part of {what}", Notes()
    names = _names(folder, split)
    read = [_read(folder / "Annotations" / f"{name}.xml") for name in names]
    chosen, numbers = agreed(sorted({each.name for _, marked, _ in read for each in marked}), classes, what)
    pictures = [
        _picture(folder, name, n, content, numbers, notes)
        for n, (name, content) in enumerate(zip(names, read, strict=True))
    ]
    return Boxes(pictures, chosen, notes, what)


_Read = tuple[tuple[int, int] | None, tuple[Marked, ...], str]  # size, objects, what is wrong


def _names(folder: Path, split: str) -> list[str]:
    lists = folder / "ImageSets" / "Main"
    path = next((lists / f"{each}.txt" for each in SPLITS[split] if (lists / f"{each}.txt").is_file()), None)
    if path is None:
        wanted = " or ".join(f"{each}.txt" for each in SPLITS[split])
        raise DataError(f"{lists} has no {split} list: expected {wanted}, with the name of an image on each line")
    text = read_bytes(path, DataError, "expected the name of an image on each line").decode(errors="replace")
    return [line.split()[0] for line in text.splitlines() if line.strip()]


def _picture(folder: Path, name: str, number: int, content: _Read, numbers: dict[str, int], notes: Notes) -> Picture:
    files = [folder / "JPEGImages" / f"{name}{ending}" for ending in IMAGES]
    path = next((each for each in files if each.is_file()), files[0])
    size, marked, wrong = content
    if wrong:
        return unusable(path, number, f"image {path}: {wrong}")
    if size is None and path.is_file():  # some tools write zeros
        try:
            with Image.open(path) as opened:
                size = opened.size
        except Exception as error:  # noqa: BLE001  decoders raise errors of any kind
            return unusable(path, number, f"image {path} cannot be read ({one_line(error)})")
    # A missing image is reported when it is read; until then no box is clipped.
    return pictured(path, number, size or (1 << 14, 1 << 14), marked, numbers, notes)


def _read(path: Path) -> _Read:
    try:
        state = path.stat()
    except OSError:
        return None, (), f"its annotation {path} is missing: write one, or remove the image from the list"
    return _parsed(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1 << 18)
def _parsed(path: Path, changed: int, size: int) -> _Read:  # noqa: ARG001  a changed file is read again
    try:
        root = ElementTree.fromstring(
            read_bytes(path, DataError, "fix it", _MOST), ElementTree.XMLParser(target=_WithoutEntities())
        )
        told = root.find("size")
        sides = tuple(int(float(told.findtext(side, "0"))) for side in ("width", "height")) if told is not None else ()
        marked = tuple(_object(each, f"{path.name}, object {n}") for n, each in enumerate(root.iter("object"), 1))
    except (ElementTree.ParseError, DataError, ValueError, OverflowError, LookupError) as error:
        return (
            None,
            (),
            f"its annotation {path} is damaged ({one_line(error)}): fix it, or remove the image from the list",
        )
    return ((sides[0], sides[1]) if len(sides) == 2 and min(sides) > 0 else None), marked, ""


def _object(element: ElementTree.Element, where: str) -> Marked:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"{where} has no name")
    sides = [element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    box = tuple(float(side) for side in sides if side is not None and side.strip())
    return Marked(f"{where} ({name})", box, name, (element.findtext("difficult") or "0").strip() == "1")


class _WithoutEntities(ElementTree.TreeBuilder):
    """Refuses a document type, and with it entities, which can expand a short file into a huge one."""

    def doctype(self, name: str, pubid: str, system: str) -> None:  # noqa: ARG002  as ElementTree calls it
        raise DataError("it declares a document type, which no annotation needs")
