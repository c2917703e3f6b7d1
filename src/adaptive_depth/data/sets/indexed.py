"""Indexed images, as in every kind of set except tar shards; and checks common to all kinds."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch.utils.data import Dataset

from ...errors import DataError, one_line
from ...preprocessing import in_mode

# Their names in sets, preferred ones first.
SPLITS = {"train": ("train", "training"), "validation": ("val", "validation", "valid", "test"), "test": ("test",)}


class Reader(Protocol):
    """The protocol of timm's readers: an image (or its open file) and its label, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str: ...


class Indexed(Dataset[tuple[Any, int]]):
    """The images of a reader; one that cannot be read is reported, where timm would silently use its neighbour.

    Arguments:
        reader: of images, labelled with indices of `found`.
        found: its classes.
        classes: those that the labels will index; by default `found`.
        what: the set's name in errors.
        notes: notes on it for the user.

    Raises:
        DataError: classes that are not in `classes`; and, when an item is read, an image that cannot be read or has no
            label.
    """

    def __init__(
        self, reader: Reader, found: Sequence[str], classes: tuple[str, ...] | None, what: str, notes: str = ""
    ) -> None:
        self.reader, self.what, self.notes = reader, what, notes
        self.classes = tuple(found) if classes is None else classes
        self.numbers = agree(found, self.classes, what)
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        try:
            opened, label = self.reader[index]
            image = decode(opened)
        except Exception as error:  # decoders raise errors of any kind
            raise unreadable(self.reader.filename(index, absolute=True), error) from error
        if label not in range(len(self.numbers)):
            name = self.reader.filename(index, absolute=True)
            raise DataError(
                f"image {name} has the label {label!r}: expected a number from 0 to {len(self.numbers) - 1}; "
                "remove it, or label it"
            )
        return self.transform(image) if self.transform else image, self.numbers[int(label)]


def decode(file: Any) -> Image.Image:
    """An image in colour, from an open file (which is closed); an image is returned unchanged."""
    if isinstance(file, Image.Image):
        return file
    with file, Image.open(file) as opened:
        return in_mode(opened, "RGB")


def unreadable(name: str, error: BaseException) -> DataError:
    """The error of one image that cannot be read."""
    return DataError(f"image {name} cannot be read ({one_line(error)}): remove or replace it")


def agree(found: Sequence[str], classes: Sequence[str], what: str) -> tuple[int, ...]:
    """The index of each class of `found` in `classes`.

    Raises:
        DataError: a class that is not in `classes`.

    Example:
        >>> agree(["cat", "dog"], ["bird", "cat", "dog"], "the set")
        (1, 2)
    """
    numbers = {name: number for number, name in enumerate(classes)}
    strange = sorted(set(found) - set(numbers))
    if strange:
        raise DataError(f"{what} has classes that were not trained on: {', '.join(strange[:5])}")
    return tuple(numbers[name] for name in found)


def pick_split(present: Iterable[str], split: str, what: str) -> str:
    """A set's name for a split.

    Raises:
        DataError: it has none; with those that exist.
    """
    present = list(present)
    for name in SPLITS[split]:
        if name in present:
            return name
    raise DataError(
        f"{what} has no {split} split: expected one named {' or '.join(SPLITS[split])}, "
        f"found {', '.join(present) or 'none'}"
    )


def names_in_order(numbers: Mapping[str, int], what: str) -> tuple[str, ...]:
    """The names of classes in the order of their numbers.

    Raises:
        DataError: numbers that are not 0, 1, 2, ...
    """
    names = sorted(numbers, key=lambda name: numbers[name])
    if [numbers[name] for name in names] != list(range(len(names))):
        raise DataError(f"{what} numbers its classes {sorted(numbers.values())}: expected 0, 1, 2, ... once each")
    return tuple(names)


def is_path(text: str) -> bool:
    """Does this look like a path rather than a name?"""
    return text.startswith((".", "/", "~")) or Path(text).is_absolute()
