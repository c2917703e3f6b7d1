"""Training images as a recipe specifies: augmented, mixed, distributed over processes, without damaged ones."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice
from typing import Any, Protocol

import torch
from timm.data.distributed_sampler import RepeatAugSampler
from timm.data.transforms import str_to_interp_mode
from torch import Tensor
from torch.utils.data import BatchSampler, IterableDataset, default_collate
from torchvision import transforms
from torchvision.transforms import v2

from ..core.distributed import Distributed
from ..data import CHARACTERS, DataConfig, open_data
from ..data.sets import Boxes, Collate, Loader, Readable, Shards, joined, readable
from ..data.together import Together, augmentation
from ..errors import DataError
from ..preprocessing import Convert
from .recipe import Recipe


class TrainingBatches:
    """Batches of one process, reshuffled every epoch: `[batch, channels, size, size]` and labels, or in the form that
    `config` specifies.

    The order of an epoch depends only on the recipe's seed and the epoch's number (for tar shards, which are read as a
    stream, also on the number of workers). An image that cannot be read is left out and listed in `damaged` with the
    reason; likewise a box that marks nothing, in `notes`.

    Arguments:
        config: which images.
        recipe: how they are prepared; each batch is one part of a step (`batch_size / accumulate / processes`).
        workers: processes that load images (for tar shards, no more than there are shards).
        download: download a named set that is missing.

    Raises:
        DataError: a set that is missing or empty, or smaller than one step; fewer tar shards than processes, or tar
            shards with `repeats`; more boxes that mark nothing than `skip_damaged` allows; boxes or masks with a
            preparation for images of one class each.
    """

    def __init__(self, config: DataConfig, recipe: Recipe, *, workers: int = 0, download: bool = False) -> None:
        processes = Distributed()
        size, rest = divmod(recipe.batch_size, recipe.accumulate * processes.count)
        if rest:
            raise DataError(
                f"batch_size={recipe.batch_size} cannot be split over {processes.count} processes in "
                f"{recipe.accumulate} parts: choose a multiple of both"
            )
        each, together = _preparing(config, recipe)
        data: Any = open_data(config, "train", transform=each, download=download)
        if len(data) < processes.count:
            raise DataError(f"there are {len(data)} training images for {processes.count} processes: expected more")
        self.seed, self.limit, self.images = recipe.seed or 0, recipe.skip_damaged, len(data)
        self.damaged: dict[str, str] = {}
        self.notes = data.notes if isinstance(data, Boxes) else None
        self._check_boxes()
        if isinstance(data, Shards):
            assert isinstance(together, _Finish)
            self.source: _Source = _Streamed(data, recipe, size, workers, together, processes)
        else:
            self.source = _ByNumber(data, recipe, size, workers, together, processes)

    def __len__(self) -> int:
        return len(self.source)

    def set_epoch(self, epoch: int) -> None:
        self.source.set_seed(1_000_003 * self.seed + epoch)  # no two pairs of seed and epoch share a number

    @property
    def indices(self) -> Callable[[int], list[int]] | None:
        """Returns the images of the set in a batch of this epoch, by its number (from 0); None for tar shards."""
        return self.source.indices

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from islice(self.source.batches(self._note), len(self))

    def _check_boxes(self) -> None:
        notes = self.notes
        if notes is not None and len(notes.left_out) > self.limit * notes.boxes:
            raise DataError(
                f"{str(notes).splitlines()[0]}. That is more than skip_damaged={self.limit} allows: fix the "
                "annotations, or allow a larger share"
            )

    def _note(self, damaged: dict[str, str]) -> None:
        self.damaged.update(damaged)
        if len(self.damaged) > self.limit * self.images:
            told = "; ".join(f"{name}: {reason}" for name, reason in list(self.damaged.items())[:3])
            raise DataError(
                f"{len(self.damaged)} of {self.images} training images cannot be read, more than "
                f"skip_damaged={self.limit} allows ({told}): replace them, or allow a larger share"
            )


_Finished = Callable[[list[Any]], Any]  # a batch of items


class _Source(Protocol):
    """Where the batches of an epoch come from."""

    @property
    def indices(self) -> Callable[[int], list[int]] | None: ...

    def __len__(self) -> int: ...

    def set_seed(self, seed: int) -> None: ...

    def batches(self, note: Callable[[dict[str, str]], None]) -> Iterator[tuple[Tensor, Tensor]]: ...


# -- images by number -------------------------------------------------------------------------------------------


class _ByNumber:
    """All images in random order; a batch with a damaged one is smaller."""

    def __init__(
        self, data: Any, recipe: Recipe, size: int, workers: int, together: _Finished, processes: Distributed
    ) -> None:
        # selected_round=0 uses all images, where timm's default drops some.
        self.sampler = RepeatAugSampler(
            data, processes.count, processes.index, num_repeats=recipe.repeats, selected_round=0
        )
        self.order = _Remembering(self.sampler, min(size, len(self.sampler)))
        self.loader = Loader(
            Readable(data),
            batch_sampler=self.order,
            collate_fn=_Collate(together, 1 if isinstance(data, Boxes) else 2),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        return len(self.order)

    def set_seed(self, seed: int) -> None:
        self.sampler.set_epoch(seed)

    def indices(self, batch: int) -> list[int]:
        return self.order.drawn[batch]

    def batches(self, note: Callable[[dict[str, str]], None]) -> Iterator[tuple[Tensor, Tensor]]:
        for images, damaged in self.loader:
            note(damaged)
            if images is not None:
                yield images


class _Remembering(BatchSampler):
    """Batches of indices; the last one only if full, because BatchNorm cannot learn from a single image."""

    def __init__(self, sampler: Any, size: int) -> None:
        super().__init__(sampler, size, drop_last=True)
        self.drawn: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        self.drawn = []
        for indices in super().__iter__():
            self.drawn.append(indices)
            yield indices


class _Collate:
    """A finished batch of the images that could be read, and those that could not."""

    def __init__(self, together: _Finished, least: int) -> None:
        self.together, self.least = together, least

    def __call__(self, items: list[Any]) -> tuple[Any, dict[str, str]]:
        damaged = {f"image {item[0]}": str(item[1]) for item in items if isinstance(item[1], DataError)}
        whole = readable(items)
        if len(whole) < self.least:  # nothing that BatchNorm could learn from
            return None, damaged
        return self.together(whole), damaged


# -- tar shards -------------------------------------------------------------------------------------------------


class _Streamed:
    """Each process reads its own shards, dealt again every epoch and split over its workers.

    All batches are full, and every process has the same number. A process whose shards hold fewer readable images goes
    through them again; one whose shards hold more leaves some for another epoch.
    """

    indices = None

    def __init__(
        self, data: Shards, recipe: Recipe, size: int, workers: int, together: "_Finish", processes: Distributed
    ) -> None:
        if recipe.repeats > 1:
            raise DataError(
                f"repeats={recipe.repeats}: repeated augmentation needs access to images by number, but "
                "tar shards are a stream; use repeats=1, an image folder or a Hugging Face set"
            )
        if len(data.shards) < processes.count:
            raise DataError(
                f"{processes.count} processes cannot share {len(data.shards)} tar shards: write at least as many shards"
            )
        self.data, self.workers, self.together, self.processes = data, workers, together, processes
        images = len(data) // processes.count
        self.size, self.seed = min(size, images), 0
        self.count = images // self.size

    def __len__(self) -> int:
        return self.count

    def set_seed(self, seed: int) -> None:
        self.seed = seed

    def batches(self, note: Callable[[dict[str, str]], None]) -> Iterator[tuple[Tensor, Tensor]]:
        return joined(self._parts(note), self.size, self.together.finish)

    def _parts(self, note: Callable[[dict[str, str]], None]) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless: finished full batches, and the workers' unfinished remainders.

        Later rounds through the shards only fill up what the first left, so then images come one by one.
        """
        for again in count():
            some, size = False, 1 if again else self.size
            data = self.data.shuffled(self.seed, self.processes.index, self.processes.count, again=again)
            for part, damaged in Loader(
                _Parts(data, size, None if again else self.together),
                batch_size=None,
                num_workers=data.workers(self.workers),
                pin_memory=torch.cuda.is_available(),
            ):
                note(damaged)
                if part is not None:
                    some = True
                    yield part
            if not some:
                raise DataError(f"none of the {len(data)} training images of this process can be read")


class _Parts(IterableDataset[Any]):
    """What a worker yields from its shards: full batches, then the unfinished rest; and what could not be read."""

    def __init__(self, data: Shards, size: int, together: "_Finish | None") -> None:
        self.data, self.size, self.together = data, size, together

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, Tensor] | None, dict[str, str]]]:
        whole: list[Any] = []
        damaged: dict[str, str] = {}
        for name, item in self.data.read():
            if isinstance(item, DataError):
                damaged[name] = str(item)
                continue
            whole.append(item)
            if len(whole) == self.size:
                yield self.together(whole) if self.together else default_collate(whole), damaged
                whole, damaged = [], {}
        if whole:
            images, labels = default_collate(whole)
            yield (images, labels), damaged
        else:
            yield None, damaged


# -- preparing --------------------------------------------------------------------------------------------------


class _Numbers:
    """Pixels from 0 to 255, of an image or of a batch at once, as normalised numbers."""

    def __init__(self, config: DataConfig) -> None:
        self.mean, self.std = (torch.tensor(each)[:, None, None] for each in (config.mean, config.std))

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.float().div_(255).sub_(self.mean).div_(self.std)


class _Finish:
    """The part of the preparation that is cheaper for a whole batch: numbers, then mixup or CutMix."""

    def __init__(self, steps: list[Callable[[Tensor], Tensor]], recipe: Recipe, classes: int) -> None:
        self.steps = steps
        kinds: list[Any] = [v2.MixUp(alpha=recipe.mixup, num_classes=classes)] if recipe.mixup else []
        kinds += [v2.CutMix(alpha=recipe.cutmix, num_classes=classes)] if recipe.cutmix else []
        self.mix = v2.RandomChoice(kinds) if kinds else None  # one of them for each batch

    def __call__(self, items: list[Any]) -> tuple[Tensor, Tensor]:
        return self.finish(*default_collate(items))

    def finish(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        for step in self.steps:
            images = step(images)
        return self.mix(images, labels) if self.mix else (images, labels)


def _preparing(config: DataConfig, recipe: Recipe) -> tuple[Callable[..., Any], _Finished]:
    """The preparation of each image, and that of a batch."""
    if config.shown != "class":
        return _with_what_is_marked(config, recipe), Collate(lists=config.shown == "boxes")
    steps, last = _augmenting(config, recipe), [_Numbers(config)]
    if recipe.random_erasing:  # rectangles of normalised images, another one in each
        steps, last = [*steps, *last, transforms.RandomErasing(recipe.random_erasing)], []
    return transforms.Compose(steps), _Finish(last, recipe, len(config.classes))


def _with_what_is_marked(config: DataConfig, recipe: Recipe) -> Together:
    """How an image and its boxes or its mask become an input and a target in training."""
    for name in ("random_erasing", "mixup", "cutmix"):
        if getattr(recipe, name):
            raise DataError(
                f"{name}={getattr(recipe, name)} changes images but not their annotations: leave it out, because "
                f"the data {config.name!r} has {config.shown}"
            )
    usual = "flip" if config.shown == "boxes" else "crop"
    augment = augmentation(recipe.augment or usual, config.shown, recipe.crop_scale)
    prepared = config.preprocessing
    if recipe.image_size is not None:
        prepared = replace(prepared, image_size=recipe.image_size)
    return Together(prepared, config.ignored, augment)


def training_transform(config: DataConfig, recipe: Recipe) -> Callable[[Any], Tensor]:
    """How an image becomes an input `[channels, size, size]` in training, except mixing."""
    each, together = _preparing(config, recipe)
    assert isinstance(together, _Finish)
    return transforms.Compose([each, *together.steps])


def _augmenting(config: DataConfig, recipe: Recipe) -> list[Any]:
    size: Any = recipe.image_size or config.image_size
    interpolation: Any = str_to_interp_mode(recipe.interpolation or config.interpolation)
    kind = recipe.augment or ("characters" if config.name.lower() in CHARACTERS else "crop")
    steps: list[Any] = [Convert(config.channels)]
    if kind in ("none", "flip", "characters"):
        steps.append(transforms.Resize((size, size), interpolation))
        if kind == "flip":
            steps.append(transforms.RandomHorizontalFlip())
        if kind == "characters":  # on the image itself: the border is black
            steps.append(transforms.RandomCrop(size, padding=max(1, size // 8)))
    else:
        steps.append(transforms.RandomResizedCrop(size, (recipe.crop_scale, 1.0), interpolation=interpolation))
        steps.append(transforms.RandomHorizontalFlip())
    if kind == "trivial":
        steps.append(transforms.TrivialAugmentWide(interpolation=interpolation))
    if kind == "rand":
        steps.append(transforms.RandAugment(interpolation=interpolation))
    return [*steps, transforms.PILToTensor()]
