"""Training images as a recipe wants them: augmented, mixed, shared out to processes, the damaged ones left out."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.data.distributed_sampler import RepeatAugSampler
from timm.data.transforms import str_to_interp_mode
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, default_collate
from torchvision import transforms
from torchvision.transforms import v2

from ..data import CHARACTERS, Convert, DataConfig, open_data
from ..errors import DataError
from .processes import Processes
from .recipe import Recipe


class TrainingBatches:
    """Batches `[batch, channels, size, size]` and labels of one process, anew in every epoch.

    The order of an epoch follows from the recipe's seed and the epoch's number alone. An image that cannot be read is
    left out of its batch, and `damaged` tells it with the reason.

    Arguments:
        config: which images.
        recipe: how they are prepared; each batch is one part of a step (`batch_size / accumulate / processes`).
        workers: processes that load images.
        download: fetch a named set that is not there.

    Raises:
        DataError: a set that is missing or empty, or smaller than one step.
    """

    def __init__(self, config: DataConfig, recipe: Recipe, *, workers: int = 0, download: bool = False) -> None:
        processes = Processes()
        size, rest = divmod(recipe.batch_size, recipe.accumulate * processes.count)
        if rest:
            raise DataError(
                f"batch_size={recipe.batch_size} cannot be shared out to {processes.count} processes in "
                f"{recipe.accumulate} parts: choose a multiple of both"
            )
        data = open_data(config, "train", transform=training_transform(config, recipe), download=download)
        length = len(data)  # type: ignore[arg-type]
        self.sampler = RepeatAugSampler(
            data, processes.count, processes.index, num_repeats=recipe.repeats, selected_round=0
        )
        self.order = _Remembering(self.sampler, min(size, len(self.sampler)))
        if length < processes.count:
            raise DataError(f"{length} training images are fewer than {processes.count} processes")
        self.loader = DataLoader(
            _Readable(data),
            batch_sampler=self.order,
            collate_fn=_Collate(_mixing(recipe, len(config.classes))),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
        )
        self.seed, self.limit, self.images = recipe.seed or 0, recipe.skip_damaged, length
        self.damaged: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.order)

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(1_000_003 * self.seed + epoch)

    def indices(self, batch: int) -> list[int]:
        """Which images of the set the batch of this number (from 0) of this epoch holds."""
        return self.order.drawn[batch]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, damaged in self.loader:
            self.damaged.update(damaged)
            if len(self.damaged) > self.limit * self.images:
                told = "; ".join(f"{name}: {reason}" for name, reason in list(self.damaged.items())[:3])
                raise DataError(
                    f"{len(self.damaged)} of {self.images} training images cannot be read, more than the share of "
                    f"skip_damaged={self.limit} ({told}): put whole ones in their places, or allow a larger share"
                )
            if images is not None:
                yield images


class _Remembering(BatchSampler):
    """Batches of indices; the last one only where it is full, for BatchNorm cannot learn from a single image."""

    def __init__(self, sampler: Any, size: int) -> None:
        super().__init__(sampler, size, drop_last=True)
        self.drawn: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        self.drawn = []
        for indices in super().__iter__():
            self.drawn.append(indices)
            yield indices


class _Readable(Dataset[Any]):
    """The items of a set; where one cannot be read, the error in its place."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.data[index]
        except DataError as error:
            return index, error


class _Collate:
    """A batch of what could be read, mixed; and what could not."""

    def __init__(self, mix: Callable[..., Any] | None) -> None:
        self.mix = mix

    def __call__(self, items: list[Any]) -> tuple[Any, dict[str, str]]:
        damaged = {f"image {item[0]}": str(item[1]) for item in items if isinstance(item[1], DataError)}
        whole = [item for item in items if not isinstance(item[1], DataError)]
        if len(whole) < 2:  # nothing that BatchNorm could learn from
            return None, damaged
        images, labels = default_collate(whole)
        return (self.mix(images, labels) if self.mix else (images, labels)), damaged


def _mixing(recipe: Recipe, classes: int) -> Callable[..., Any] | None:
    """Mixup and CutMix, one of them for each batch."""
    kinds: list[Any] = [v2.MixUp(alpha=recipe.mixup, num_classes=classes)] if recipe.mixup else []
    kinds += [v2.CutMix(alpha=recipe.cutmix, num_classes=classes)] if recipe.cutmix else []
    return v2.RandomChoice(kinds) if kinds else None


def training_transform(config: DataConfig, recipe: Recipe) -> Callable[[Any], Tensor]:
    """How an image becomes an input `[channels, size, size]` in training."""
    size = recipe.image_size or config.image_size
    interpolation: Any = str_to_interp_mode(recipe.interpolation or config.interpolation)
    kind = recipe.augment or ("characters" if config.name.lower() in CHARACTERS else "crop")
    steps: list[Any] = [Convert(config.channels)]
    if kind in ("none", "characters"):
        steps.append(transforms.Resize((size, size), interpolation))
        if kind == "characters":  # on the image itself: the border is black
            steps.append(transforms.RandomCrop(size, padding=max(1, size // 8)))
    else:
        steps.append(transforms.RandomResizedCrop(size, (recipe.crop_scale, 1.0), interpolation=interpolation))
        steps.append(transforms.RandomHorizontalFlip())
    if kind == "trivial":
        steps.append(transforms.TrivialAugmentWide(interpolation=interpolation))
    if kind == "rand":
        steps.append(transforms.RandAugment(interpolation=interpolation))
    steps += [transforms.ToTensor(), transforms.Normalize(config.mean, config.std)]
    if recipe.random_erasing:
        steps.append(transforms.RandomErasing(recipe.random_erasing))
    return transforms.Compose(steps)
