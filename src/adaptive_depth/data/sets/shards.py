"""Tar shards in WebDataset's format, with timm's `_info.json`: read as a stream, shard by shard."""

import copy
import random
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from ...errors import DataError, one_line
from ...packages import hint
from ...schema import Count, Open, Text, from_plain, parse_json, read_json
from .indexed import agree, decode, names_in_order, pick_split, unreadable

_INFO = ("_info.json", "info.json")
_IMAGES = ("jpg", "jpeg", "png", "webp")
_LONGEST = 200  # characters of a file's path in the folder: systems do not allow much more
_SHUFFLED = 4096  # encoded images in each worker's shuffle buffer
_FORM = (
    '{"splits": {"train": {"filenames": ["train-0000.tar", ...], "shard_lengths": [1000, ...], "num_samples": 20000}, '
    '"validation": {...}}, "classes": ["cat", "dog", ...]}'
)


@dataclass(frozen=True)
class Shard:
    """A tar file, its number of samples, and the number of its first one within the split."""

    path: Path
    length: int
    first: int


@dataclass(frozen=True)
class Told(Open):
    """The entry of a split in `_info.json`."""

    filenames: tuple[Text, ...]
    shard_lengths: tuple[Count, ...]
    num_samples: Count
    alt_label: str | None = None


class Shards(IterableDataset[tuple[Any, int]]):
    """Images and labels of a split in the order of its shards, each once over all workers of a loader.

    Arguments:
        shards: what to read.
        classes: those that labels index.
        numbers: for each class of the shards, its index in `classes`.
        field: of a sample's .json file, with the label; if empty, the label is in the .cls file.

    Raises:
        DataError: while iterating, for a sample that is damaged or missing.
    """

    def __init__(
        self, shards: tuple[Shard, ...], classes: tuple[str, ...], numbers: tuple[int, ...], field: str = ""
    ) -> None:
        self.shards, self.classes, self.numbers, self.field = shards, classes, numbers, field
        self.transform: Any = None
        self.share = (0, 1)
        self.damaged_too = True
        self.order: str | None = None  # seed of the random order; None is the order of the files

    def __len__(self) -> int:
        index, count = self.share
        return sum(
            len(range(_next(shard.first, index, count), shard.first + shard.length, count)) for shard in self.shards
        )

    def part(self, index: int, count: int) -> "Shards":
        """Every `count`-th sample, starting with number `index`."""
        chosen = copy.copy(self)
        chosen.share = (index, count)
        return chosen

    def readable(self) -> "Shards":
        """The same without the samples that cannot be read."""
        chosen = copy.copy(self)
        chosen.damaged_too = False
        return chosen

    def shuffled(self, seed: int, index: int = 0, count: int = 1, *, again: int = 0) -> "Shards":
        """Every `count`-th shard in an order given by the seed; `again` changes only the order inside them."""
        shards = list(self.shards)
        random.Random(seed).shuffle(shards)
        chosen = copy.copy(self)
        chosen.shards = tuple(shards[index::count])
        chosen.order = f"{seed} {index} {again}"
        return chosen

    def workers(self, wanted: int) -> int:
        """How many processes can share the work: each reads whole shards."""
        return min(wanted, len(self.shards))

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        for _, item in self.read():
            if not isinstance(item, DataError):
                yield item
            elif self.damaged_too:
                raise item

    def read(self) -> Iterator[tuple[str, tuple[Any, int] | DataError]]:
        """The name of each sample with its image and label, or with the error why it has none."""
        from webdataset.filters import shuffle

        worker = get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker else (0, 1)
        samples: Any = chain.from_iterable(map(self._samples, self.shards[index::count]))
        if self.order is not None:
            chance = random.Random(f"{self.order} {index}")
            samples = shuffle(_SHUFFLED, initial=_SHUFFLED // 4, rng=chance)(samples)
        for name, sample in samples:
            yield name, sample if isinstance(sample, DataError) else self._item(name, sample)

    def _samples(self, shard: Shard) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
        """The samples in a tar file, not yet decoded; then an error for each missing one."""
        from webdataset.tariterators import group_by_keys, tar_file_expander

        problems: list[str] = []

        def note(error: Exception) -> bool:
            problems.append(str(error.args[0]).split(" @ ")[0] if error.args else type(error).__name__)
            return True  # continue

        index, count = self.share
        read = 0
        try:
            with shard.path.open("rb") as stream:
                files = tar_file_expander([{"url": str(shard.path), "stream": stream}], handler=note)
                for sample in group_by_keys(files, handler=note):
                    if read == shard.length:
                        raise DataError(
                            f"shard {shard.path} holds more than the {read} samples in _info.json: correct the number "
                            "there"
                        )
                    if (shard.first + read) % count == index:
                        yield f"{shard.path.name}/{sample['__key__']}", sample
                    read += 1
        except OSError as error:
            problems.append(one_line(error))
        reason = f"ends after {read} of the {shard.length} samples in _info.json"
        told = f" ({problems[-1]})" if problems else ""
        for missing in range(read, shard.length):
            if (shard.first + missing) % count == index:
                yield (
                    f"{shard.path.name}, sample {missing}",
                    DataError(f"shard {shard.path} {reason}{told}: replace it"),
                )

    def _item(self, name: str, sample: Mapping[str, Any]) -> tuple[Any, int] | DataError:
        kind = next((each for each in _IMAGES if each in sample), None)
        if kind is None:
            return DataError(f"sample {name} holds no image: expected a file that ends with {', '.join(_IMAGES)}")
        label = _label(sample, self.field)
        if label is None or label not in range(len(self.numbers)):
            given = "no label" if label is None else f"the label {label}"
            where = f"in {self.field!r} of its .json file" if self.field else "in its .cls file"
            return DataError(f"sample {name} has {given}: expected a number from 0 to {len(self.numbers) - 1} {where}")
        try:
            image = decode(BytesIO(sample[kind]))
        except Exception as error:  # noqa: BLE001  decoders raise errors of any kind
            return unreadable(name, error)
        return self.transform(image) if self.transform else image, self.numbers[label]


def open_shards(
    name: str,
    root: Path | None,
    split: str,
    download: bool,  # noqa: ARG001  shards are read where they are
    classes: tuple[str, ...] | None,
) -> Shards:
    """A split of a folder of tar shards.

    `_info.json` lists the files of each split and their numbers of samples, as for timm's reader; in addition
    `"classes"` (names) or `"class_map"` (a number for each name). Without these, all labels are read once and their
    numbers are the names.

    Raises:
        DataError: `webdataset` is not installed; a folder, a split or shards that are missing; an `_info.json` that is
            missing or incomplete; classes that are not in `classes`.
    """
    folder = (root or Path()) / Path(name).expanduser()
    what = f"data 'wds/{name}'"
    try:
        import webdataset  # noqa: F401
    except ImportError as error:
        raise DataError(f"{what} needs {hint(error, 'data')}") from error
    if not folder.is_dir():
        raise DataError(f"{what}: there is no folder {str(folder)!r}; expected one with tar shards and _info.json")
    info = _read_info(folder)
    file = str(folder / _INFO[0])
    splits = info.get("splits")
    if not isinstance(splits, dict):
        raise DataError(f"{file} has no splits: expected {_FORM}")
    part = pick_split(splits, split, what)
    shards = _shards(folder, splits[part], f"split {part!r} of {file}")
    field = str(splits[part].get("alt_label") or "")
    found = _named_classes(info, file)
    if found is None:
        found = classes if classes is not None else _numbered_classes(shards, field, what)
    wanted = found if classes is None else classes
    return Shards(shards, wanted, agree(found, wanted, what), field)


def _read_info(folder: Path) -> dict[str, Any]:
    path = next((folder / each for each in _INFO if (folder / each).is_file()), None)
    if path is None:
        raise DataError(f"folder {str(folder)!r} has no _info.json: expected {_FORM}")
    info = read_json(path, DataError, f"expected {_FORM}")
    if not isinstance(info, dict):
        raise DataError(f"{path} holds a {type(info).__name__}: expected {_FORM}")
    return info


def _shards(folder: Path, told: Any, what: str) -> tuple[Shard, ...]:
    try:
        part = from_plain(Told, told, DataError, what)
    except DataError as error:
        raise DataError(f"{error}, as in {_FORM}") from error
    files, lengths, total = part.filenames, part.shard_lengths, part.num_samples
    if not files or len(files) != len(lengths) or sum(lengths) != total:
        raise DataError(
            f"{what} has {len(files)} filenames, {len(lengths)} shard_lengths with the sum {sum(lengths)}, and "
            f"num_samples={total}: expected one length for each file, and their sum"
        )
    missing = [file for file in files if "\0" in file or len(file) > _LONGEST or not (folder / file).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} shards of {what} do not exist: {', '.join(missing[:3])}; expected them in "
            f"{str(folder)!r}"
        )
    firsts = accumulate(lengths[:-1], initial=0)
    return tuple(Shard(folder / file, *more) for file, *more in zip(files, lengths, firsts, strict=True))


def _named_classes(info: Mapping[str, Any], file: str) -> tuple[str, ...] | None:
    names, numbers = info.get("classes"), info.get("class_map")
    if isinstance(names, list) and len({str(each) for each in names}) == len(names):
        return tuple(str(each) for each in names)
    if names is not None:
        raise DataError(f'"classes" in {file} is {names!r}: expected a list of names, each once')
    if numbers is None:
        return None
    if not isinstance(numbers, dict) or not all(isinstance(each, int) for each in numbers.values()):
        raise DataError(f'"class_map" in {file} is {numbers!r}: expected a number for each name')
    return names_in_order(numbers, f'"class_map" in {file}')


def _numbered_classes(shards: tuple[Shard, ...], field: str, what: str) -> tuple[str, ...]:
    """Names by number, up to the largest label, which needs to read all labels (without their images)."""
    highest = -1
    for shard in shards:
        state = shard.path.stat()
        highest = max(highest, _highest_label(shard.path, field, state.st_mtime_ns, state.st_size))
    if highest < 0:
        where = f"{field!r} in .json files" if field else ".cls files that hold a number"
        raise DataError(f"{what} has no labels: expected {where}, or another kind of set")
    return tuple(str(number) for number in range(highest + 1))


@lru_cache(maxsize=100_000)
def _highest_label(path: Path, field: str, changed: int, size: int) -> int:  # noqa: ARG001  changed files are read again
    ending, highest = "json" if field else "cls", -1
    with suppress(tarfile.TarError, OSError), tarfile.open(path) as tar:  # damage is reported when iterating
        for member in tar:
            content = tar.extractfile(member) if member.name.lower().endswith(f".{ending}") else None
            if content is not None:
                highest = max(highest, -1 if (label := _label({ending: content.read()}, field)) is None else label)
    return highest


def _label(sample: Mapping[str, Any], field: str) -> int | None:
    """The number that labels a sample; None if there is none."""
    try:
        return int(parse_json(sample["json"], DataError, "", "")[field] if field else sample["cls"])
    except (KeyError, ValueError, TypeError):
        return None


def _next(first: int, index: int, count: int) -> int:
    """The first number from `first` on that is `index` modulo `count`."""
    return first + (index - first) % count
