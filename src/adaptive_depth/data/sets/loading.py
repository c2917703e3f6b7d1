"""Loaders for both kinds of sets: indexed ones and streams."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ...errors import DataError

Batch = tuple[Tensor, Tensor]


class Loader(DataLoader[Any]):
    """A DataLoader with one-line errors, even from worker processes, and with full batches from streams.

    Each worker leaves a rest that fills no batch: here these are joined, so that the number of batches matches the
    length.
    """

    def __len__(self) -> int:
        if isinstance(self.dataset, IterableDataset) and self.batch_size:
            return -(-len(self.dataset) // self.batch_size)  # type: ignore[arg-type]
        return super().__len__()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches: Any = super().__iter__()
        if isinstance(self.dataset, IterableDataset) and self.batch_size:
            batches = joined(batches, self.batch_size)
        try:
            yield from batches
            return
        except DataError as error:
            _, _, said = str(error).rpartition(f"{DataError.__name__}: ")  # a worker's traceback precedes it
            error.__traceback__ = None  # it keeps the workers' iterator alive: without it they end here, not later
        del batches
        raise DataError(said.strip())


class Readable(Dataset[Any]):
    """The items of a set; in place of one that cannot be read, its index and the error."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.data[index]
        except DataError as error:
            return index, error


def readable(items: list[Any]) -> list[Any]:
    """The items of a `Readable` set that could be read."""
    return [item for item in items if not isinstance(item[1], DataError)]


class Collate:
    """A batch of items: images and labels, or masks, stacked; or lists.

    Arguments:
        lists: return a tuple of images and one of targets, as detectors take them, whose boxes differ in number.
        leave_out: leave out items of a `Readable` set that could not be read.
    """

    def __init__(self, *, lists: bool = False, leave_out: bool = False) -> None:
        self.lists, self.leave_out = lists, leave_out

    def __call__(self, items: list[Any]) -> Any:
        whole = readable(items) if self.leave_out else items
        if self.lists:
            return tuple(zip(*whole, strict=True)) or ((), ())
        return default_collate(whole) if whole else (torch.empty(0), torch.empty(0, dtype=torch.int64))


def joined(
    batches: Iterable[Batch], size: int, finish: Callable[[Tensor, Tensor], Batch] = lambda x, y: (x, y)
) -> Iterator[Batch]:
    """The same items in full batches: full ones unchanged, smaller ones joined and finished.

    The last one may be smaller, and is not finished.

    Example:
        >>> [len(x) for x, _ in joined([(torch.ones(n), torch.ones(n)) for n in (2, 3, 2, 2)], 3)]
        [3, 3, 3]
    """
    rest: list[Batch] = []
    for x, y in batches:
        if len(x) == size:
            yield x, y
            continue
        rest.append((x, y))
        if sum(len(images) for images, _ in rest) >= size:
            images, labels = (torch.cat(part) for part in zip(*rest, strict=True))
            yield finish(images[:size], labels[:size])
            rest = [(images[size:], labels[size:])] if len(images) > size else []
    if rest:
        images, labels = (torch.cat(part) for part in zip(*rest, strict=True))
        yield images, labels
