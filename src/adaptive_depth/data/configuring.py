"""Images and labels by name, and how they are prepared: a value that a run folder stores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from ..batches import logits_in
from ..errors import DataError
from ..modes import evaluating
from ..preprocessing import MODES, Preprocessing
from ..schema import Plain
from .sets import (
    BACKGROUND,
    DRAWN,
    NO_CLASS,
    Boxes,
    Collate,
    ImageSet,
    Indexed,
    Loader,
    Readable,
    Shards,
    locate,
    open_set,
    shown_in,
)
from .sets import Digits as Digits
from .together import Together
from .wanted import Wanted, channels_of, draws_masks, wanted, with_background

# Mirroring would change or destroy these characters.
CHARACTERS = (*DRAWN, "torch/mnist", "torch/kmnist", "torch/qmnist")


@dataclass(frozen=True)
class DataConfig(Plain):
    """Which images, and how they become the input of a network: a plain value that survives JSON.

    Attributes:
        name: `"digits"`, `"letters_in_photos"`, the path of an image folder, or a kind of set and its name or path:
            `"torch/cifar10"`, `"hfds/NAME"` or `"hfds/FOLDER"` (Hugging Face), `"wds/FOLDER"` (tar shards);
            `"coco/FOLDER"`, `"voc/FOLDER"` or `"yolo/FOLDER"` (boxes), `"masks/FOLDER"` (a mask for each image).
        root: where a named set is stored; None if it needs none.
        image_size, channels, mean, std, interpolation, crop_pct, resize, fill: those of `Preprocessing`.
        classes: the class names, in the order of the labels; for a detector whose first output is the background, the
            first is `"__background__"`.
        outlined: whether each box comes with a mask.
        ignored: in masks, the number of pixels that belong to no class.
    """

    reading_error = DataError

    name: str
    root: str | None
    image_size: int | tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    classes: tuple[str, ...]
    resize: str = "crop"
    fill: tuple[float, ...] = ()
    outlined: bool = False
    ignored: int = NO_CLASS

    def __post_init__(self) -> None:
        _ = self.preprocessing  # checks the values

    def to_json(self) -> dict[str, Any]:
        """Lists, strings and numbers only, as `from_json` reads them; without fields at their default."""
        plain = super().to_json()
        usual = {each.name: each.default for each in fields(self)}
        return {name: value for name, value in plain.items() if getattr(self, name) != usual[name]}

    @property
    def shown(self) -> str:
        """How the data is labelled: by `"class"`, `"boxes"` or `"masks"`."""
        return shown_in(self.name)

    @property
    def preprocessing(self) -> Preprocessing:
        """Everything except where the images are."""
        known: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(Preprocessing)}
        known["classes"] = tuple(name for name in self.classes if name != BACKGROUND)
        return Preprocessing(**known)


# -- which images -----------------------------------------------------------------------------------------------


def class_names(
    name: str, *, root: str | Path | None = None, download: bool = False, ignored: int = NO_CLASS
) -> tuple[str, ...]:
    """The classes of a data set, in the order of their labels: a model's `num_classes` is their number.

    Detectors of torchvision with a background class have one more: `"__background__"`, the first.

    Arguments:
        name, root, download: as for `configure`.
        ignored: in masks, the number of pixels that belong to no class.

    Raises:
        DataError: a set that is unknown, missing or empty.

    Example:
        >>> class_names("digits")
        ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    data = open_set(name, root, "train", download, ignored=ignored)
    names = data.classes
    if len(names) < 2 and not isinstance(data, Boxes):
        raise DataError(f"data {name!r} has only one class, {', '.join(names)!r}: expected two or more")
    return names


def configure(
    name: str,
    model: nn.Module,
    *,
    root: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    download: bool = False,
    ignored: int = NO_CLASS,
) -> DataConfig:
    """How to prepare a data set for a model: its size, mean and crop, its number of channels, its format of a batch.

    Arguments:
        name: `"digits"` or `"letters_in_photos"`; the path of a folder that holds `train/` and `val/` (or
            `validation/`, `test/`) with one folder per class in each; `"torch/NAME"` (torchvision); `"hfds/NAME"` or
            `"hfds/FOLDER"` (what `datasets.load_dataset` takes); `"wds/FOLDER"` (tar shards with an `_info.json` as
            for timm); `"coco/FOLDER"`, `"voc/FOLDER"`, `"yolo/FOLDER"` (boxes), `"masks/FOLDER"` (docs/data.md).
        model: its first convolution determines the channels; its configuration in timm or transformers, or the
            torchvision detector itself, the rest; else as usual on ImageNet.
        root: where a named set is stored, or will be.
        image_size: in pixels; by default the model's own (32 for digits). For boxes and masks it may be a pair, height
            and width.
        resize: pixels of an image's shorter side before the central crop to `image_size`; by default timm's ratio.
        interpolation: `"bicubic"` or `"bilinear"`; by default timm's.
        download: download a named set that is not in `root`.
        ignored: in masks, the number of pixels that belong to no class, besides 255.

    Raises:
        DataError: a set that is unknown, missing or empty; a model for images of neither 1 nor 3 channels; a size that
            the model does not take; boxes for a model that is not a detector.

    Example:
        >>> import timm
        >>> config = configure("digits", timm.create_model("resnet18", in_chans=1))
        >>> config.channels, config.image_size, len(config.classes)
        (1, 32, 10)
    """
    classes, shown = class_names(name, root=root, download=download, ignored=ignored), shown_in(name)
    channels, asked = channels_of(model), wanted(model, shown)
    if channels not in MODES:
        raise DataError(f"the model takes {channels} channels: expected 1 (grey) or 3 (colour)")
    if name in DRAWN:
        asked = replace(asked, image_size=32, crop_pct=1.0, interpolation="bilinear")
    asked = _sized(asked, image_size)
    if resize is not None:
        asked = _cropped(asked, resize)
    name, place = locate(name, root)
    return DataConfig(
        name=name,
        root=place,
        image_size=asked.image_size,
        channels=channels,
        mean=_per_channel(asked.mean, channels),
        std=_per_channel(asked.std, channels),
        interpolation=interpolation or asked.interpolation,
        crop_pct=asked.crop_pct,
        classes=with_background(model, classes) if shown == "boxes" else classes,
        resize=asked.resize,
        fill=asked.fill,
        outlined=shown == "boxes" and draws_masks(model),
        ignored=ignored if shown == "masks" else NO_CLASS,
    )


def _sized(asked: Wanted, size: int | tuple[int, int] | None) -> Wanted:
    """The same with images of another size, if the model allows it."""
    if size is None:
        return asked
    sides = size if isinstance(size, tuple) else (size, size)
    if min(sides) < 1:
        raise DataError(f"image_size={size}: expected a number of pixels above 0, such as 224")
    if asked.resize == "crop" and not isinstance(size, int):
        raise DataError(f"image_size={size}: images with one class each are cropped to a square, expected one number")
    if asked.only and sides != asked.only:
        height, width = asked.only
        raise DataError(f"image_size={size}: the model itself resizes images to {height} x {width}, leave it out")
    return replace(asked, image_size=size)


def _cropped(asked: Wanted, resize: int) -> Wanted:
    if asked.resize != "crop" or not isinstance(asked.image_size, int):
        raise DataError(f"resize={resize}: images with boxes or masks are not cropped, leave it out")
    if resize < asked.image_size:
        raise DataError(f"resize={resize}: expected at least the image size, {asked.image_size} pixels")
    return replace(asked, crop_pct=asked.image_size / resize)


def input_shape(model: nn.Module) -> tuple[int, int]:
    """The number of channels that a model takes, and its native image size.

    Example:
        >>> import timm
        >>> input_shape(timm.create_model("resnet18", in_chans=1))
        (1, 224)
    """
    size = wanted(model, "class").image_size
    assert isinstance(size, int)
    return channels_of(model), size


def open_data(
    config: DataConfig, split: str, *, transform: Callable[..., Any] | None = None, download: bool = False
) -> Dataset[Any]:
    """One split of a data set, prepared: items are `[channels, height, width]` and an integer label, a mask
    `[height, width]`, or a dict with `"boxes"` and `"labels"`.

    Tar shards are a stream (an `IterableDataset`) that yields each image once; all other sets are indexed.

    Arguments:
        config: what `configure` returned.
        split: `"train"`, `"test"` or `"validation"` (the test split of sets that have no other besides training).
        transform: of an image, or of an image and its boxes or mask; by default resizing, a central crop and
            normalising, without randomness.
        download: download a named set that is missing.

    Raises:
        DataError: a set that is missing or empty, or whose classes are not those of `config`; and, when an item is
            read, an image that cannot be.
    """
    return _open(config, split, transform, download)


def _open(
    config: DataConfig, split: str, transform: Callable[..., Any] | None = None, download: bool = False
) -> ImageSet:
    data = open_set(config.name, config.root, split, download, config.classes, config.ignored)
    alone = config.shown == "class"
    usual = config.preprocessing.transform() if alone else Together(config.preprocessing, config.ignored)
    data.transform = transform or usual
    if isinstance(data, Boxes):
        data.crowds = split != "train"
        if config.outlined:
            data.learn_masks()
    return data


def create_loader(
    config: DataConfig,
    split: str,
    *,
    batch_size: int = 64,
    shuffle: bool = False,
    workers: int = 0,
    download: bool = False,
    share: tuple[int, int] = (0, 1),
    leave_out_damaged: bool = False,
) -> "DataLoader[Any]":
    """Batches of one split for evaluation and calibration: `[batch, channels, size, size]` and `[batch]`, or in the
    format that `config` specifies.

    Arguments:
        config: what `configure` returned.
        split: `"train"` or `"validation"`.
        batch_size: images in a batch; the last one may have fewer.
        shuffle: in random order (tar shards: in random order of the shards, and well mixed inside).
        workers: processes that load images (for tar shards, no more than there are shards).
        download: download a named set that is missing.
        share: `(index, count)`, every `count`-th image starting with number `index`: one of `count` disjoint shares.
        leave_out_damaged: leave out images that cannot be read, so that batches are smaller; by default an error.

    Raises:
        DataError: as for `open_data`; a batch size or number of workers that is too small; an invalid share.
    """
    index, count = share
    if batch_size < 1 or workers < 0:
        raise DataError(f"batch_size={batch_size}, workers={workers}: expected at least 1 and at least 0")
    if not 0 <= index < count:
        raise DataError(f"share={share}: expected (index, count) with an index from 0 to count - 1, such as (0, 1)")
    data: Any = _open(config, split, download=download)
    if isinstance(data, Shards):
        data, workers = data.part(index, count), data.workers(workers)
        if shuffle:
            data = data.shuffled(int(torch.empty((), dtype=torch.int64).random_().item()))
    elif count > 1:
        data = Subset(data, range(index, len(data), count))
    streamed = isinstance(data, Shards)
    if leave_out_damaged:
        data = data.readable() if streamed else Readable(data)
    return Loader(
        data,
        batch_size=batch_size,
        shuffle=shuffle and not streamed,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        collate_fn=Collate(lists=config.shown == "boxes", leave_out=leave_out_damaged),
    )


def check_fit(network: nn.Module, config: DataConfig) -> None:
    """Check that a network takes these images and has as many outputs as there are classes; for a detector, only the
    former.

    Raises:
        DataError: with both numbers, or with the network's error about the image size.
    """
    output = check_input(network, config)
    output = logits_in(output["out"] if isinstance(output, Mapping) and "out" in output else output)
    if config.shown == "boxes" or not isinstance(output, Tensor):  # such as queries, which a task turns into classes
        return
    found = output.shape[1 if config.shown == "masks" else -1] if output.ndim > 1 else 1
    if found != len(config.classes):
        raise DataError(
            f"the network has {found} outputs, but the data {config.name!r} has {len(config.classes)} classes: "
            f"build the model with num_classes={len(config.classes)}"
        )


def notes_of(batches: Any) -> str:
    """Notes on a loader's images: the folder they are from, missing classes, boxes that are left out or clipped. Empty
    if there are none.
    """
    data: Any = getattr(batches, "dataset", None)
    while data is not None and not isinstance(data, Boxes | Indexed):
        data = getattr(data, "dataset", None) or getattr(data, "data", None)  # of a `Subset`, a `Readable` set
    return "" if data is None else str(data.notes)


def check_input(network: nn.Module, config: DataConfig) -> Any:
    """Check that a network takes these images.

    Returns:
        Its output for a black one.

    Raises:
        DataError: with the network's error about the image size.
    """
    device = next((parameter.device for parameter in network.parameters()), None)
    shape = (1, config.channels, *config.preprocessing.sides)
    with evaluating(network), torch.no_grad():
        try:
            return network(torch.zeros(shape, device=device))
        except (RuntimeError, AssertionError) as error:  # timm asserts the size, torch raises for shapes
            said = str(error).strip().splitlines()[0]
            raise DataError(
                f"the network does not take images of shape {list(shape[1:])}: {said}{_built_for_one_size(network)}"
            ) from error


def _built_for_one_size(network: nn.Module) -> str:
    """How to build a network for another size, if its class needs that (timm's transformers)."""
    built = any(hasattr(part, "img_size") for part in network.modules())
    return "; build it for that size, --model-kwargs img_size=64 (or img_size=[96,128])" * built


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Three numbers, or for grey images the mean of them."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
