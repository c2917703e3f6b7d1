"""Images and labels by name, and how they are prepared: a value that a run folder remembers."""

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

# Mirrored, they are others or none.
CHARACTERS = (*DRAWN, "torch/mnist", "torch/kmnist", "torch/qmnist")


@dataclass(frozen=True)
class DataConfig(Plain):
    """Which images, and how they become the input of a network: a plain value that survives JSON.

    Attributes:
        name: `"digits"`, `"letters_in_photos"`, the path of an image folder, or a kind of set and its name or path:
            `"torch/cifar10"`, `"hfds/NAME"` or `"hfds/FOLDER"` (Hugging Face), `"wds/FOLDER"` (tar shards);
            `"coco/FOLDER"`, `"voc/FOLDER"` or `"yolo/FOLDER"` (boxes), `"masks/FOLDER"` (a mask for each image).
        root: where a named set is stored; None where that goes without saying.
        image_size, channels, mean, std, interpolation, crop_pct, resize, fill: those of `Preprocessing`.
        classes: the class names, in the order of the labels; of a detector whose first output is for what is nothing,
            that is `"__background__"`.
        outlined: does each box come with a mask?
        ignored: of masks, the number of pixels that belong to no class.
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
        _ = self.preprocessing  # which checks the values

    def to_json(self) -> dict[str, Any]:
        """Lists, strings and numbers only, as `from_json` reads them; what is as for one class an image is not said."""
        plain = super().to_json()
        usual = {each.name: each.default for each in fields(self)}
        return {name: value for name, value in plain.items() if getattr(self, name) != usual[name]}

    @property
    def shown(self) -> str:
        """What the data says of its images: `"class"`, `"boxes"` or `"masks"`."""
        return shown_in(self.name)

    @property
    def preprocessing(self) -> Preprocessing:
        """All but where its images are."""
        known: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(Preprocessing)}
        known["classes"] = tuple(name for name in self.classes if name != BACKGROUND)
        return Preprocessing(**known)


# -- which images -----------------------------------------------------------------------------------------------


def class_names(
    name: str, *, root: str | Path | None = None, download: bool = False, ignored: int = NO_CLASS
) -> tuple[str, ...]:
    """The classes of a data set, in the order of their labels: what a model's `num_classes` must count.

    Detectors of torchvision with a class for what is nothing have one more: `"__background__"`, the first.

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
        raise DataError(f"data {name!r} has one class only, {', '.join(names)!r}: expected two or more")
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
    """How a model wants to see a data set: its own size, mean and crop, its number of channels, its form of a batch.

    Arguments:
        name: `"digits"` or `"letters_in_photos"`; the path of a folder that holds `train/` and `val/` (or
            `validation/`, `test/`) with one folder a class in each; `"torch/NAME"` (torchvision); `"hfds/NAME"` or
            `"hfds/FOLDER"` (what `datasets.load_dataset` takes); `"wds/FOLDER"` (tar shards with an `_info.json` as
            timm reads it); `"coco/FOLDER"`, `"voc/FOLDER"`, `"yolo/FOLDER"` (boxes), `"masks/FOLDER"` (docs/data.md).
        model: its first convolution tells the channels, the configuration of timm or transformers, or the detector of
            torchvision itself, the rest; ImageNet's otherwise.
        root: where a named set is stored, or is to be.
        image_size: in pixels; by default the model's own (32 for digits). For boxes and masks it may be a pair, height
            and width.
        resize: pixels of an image's shorter side, of which the central `image_size` are kept; by default timm's share.
        interpolation: `"bicubic"` or `"bilinear"`; by default timm's.
        download: fetch a named set that is not in `root`.
        ignored: in masks, the number of pixels that belong to no class, beside 255.

    Raises:
        DataError: a set that is unknown, missing or empty; a model for images of neither 1 nor 3 channels; a size that
            the model does not take; boxes for a model that is no detector.

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
    """With images of another size, where the model leaves that open."""
    if size is None:
        return asked
    sides = size if isinstance(size, tuple) else (size, size)
    if min(sides) < 1:
        raise DataError(f"image_size={size}: expected a number of pixels above 0, such as 224")
    if asked.resize == "crop" and not isinstance(size, int):
        raise DataError(f"image_size={size}: of images with one class each a square is cut out, expected one number")
    if asked.only and sides != asked.only:
        height, width = asked.only
        raise DataError(f"image_size={size}: the model resizes images to {height} x {width} by itself, leave it out")
    return replace(asked, image_size=size)


def _cropped(asked: Wanted, resize: int) -> Wanted:
    if asked.resize != "crop" or not isinstance(asked.image_size, int):
        raise DataError(f"resize={resize}: of images with boxes or masks nothing is cut off, leave it out")
    if resize < asked.image_size:
        raise DataError(f"resize={resize}: expected at least the image size, {asked.image_size} pixels")
    return replace(asked, crop_pct=asked.image_size / resize)


def input_shape(model: nn.Module) -> tuple[int, int]:
    """The number of channels that a model takes, and the image size it was made for.

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
    """One part of a data set, prepared: items are `[channels, height, width]` and an integer label, a mask
    `[height, width]`, or a dict with `"boxes"` and `"labels"`.

    Tar shards are a stream (an `IterableDataset`) that goes through each image once; all else is asked by number.

    Arguments:
        config: what `configure` returned.
        split: `"train"`, `"test"` or `"validation"` (a set that has only a test part beside the training part: that).
        transform: of an image, or of an image and its boxes or mask; by default resizing, a central crop and
            normalising, without any chance.
        download: fetch a named set that is not there.

    Raises:
        DataError: a set that is missing or empty, or whose classes are not those of `config`; and, when an item is
            asked for, an image that cannot be read.
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
    """Batches of one part for evaluation and calibration: `[batch, channels, size, size]` and `[batch]`, or in the form
    that `config` says.

    Arguments:
        config: what `configure` returned.
        split: `"train"` or `"validation"`.
        batch_size: images in a batch; the last one may have fewer.
        shuffle: in random order (tar shards: in random order of the shards, and well mixed inside).
        workers: processes that load images (of tar shards, no more than there are shards).
        download: fetch a named set that is not there.
        share: `(index, count)`, every `count`-th image from number `index` on: one of `count` shares that hold each
            image once.
        leave_out_damaged: batches are smaller by the images that cannot be read, which are an error otherwise.

    Raises:
        DataError: as for `open_data`; a batch size or number of workers that is too small; a share that is none.
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
    """Check that a network takes these images and has as many outputs as there are classes; of a detector that it takes
    them.

    Raises:
        DataError: with both numbers, or with what the network said of the image size.
    """
    output = check_input(network, config)
    output = logits_in(output["out"] if isinstance(output, Mapping) and "out" in output else output)
    if config.shown == "boxes" or not isinstance(output, Tensor):  # queries, say, of which a task makes classes
        return
    found = output.shape[1 if config.shown == "masks" else -1] if output.ndim > 1 else 1
    if found != len(config.classes):
        raise DataError(
            f"the network has {found} outputs, the data {config.name!r} has {len(config.classes)} classes: "
            f"build the model with num_classes={len(config.classes)}"
        )


def notes_of(batches: Any) -> str:
    """What there is to say of a loader's images: from which folder they are, classes that are missing, boxes that are
    not used as they stand. Empty where there is nothing.
    """
    data: Any = getattr(batches, "dataset", None)
    while data is not None and not isinstance(data, Boxes | Indexed):
        data = getattr(data, "dataset", None) or getattr(data, "data", None)  # of a `Subset`, a `Readable` set
    return "" if data is None else str(data.notes)


def check_input(network: nn.Module, config: DataConfig) -> Any:
    """Check that a network takes these images.

    Returns:
        What it gives for one that is black.

    Raises:
        DataError: with what the network said of the image size.
    """
    device = next((parameter.device for parameter in network.parameters()), None)
    shape = (1, config.channels, *config.preprocessing.sides)
    with evaluating(network), torch.no_grad():
        try:
            return network(torch.zeros(shape, device=device))
        except (RuntimeError, AssertionError) as error:
            said = str(error).strip().splitlines()[0]
            raise DataError(
                f"the network does not take images of shape {list(shape[1:])}: {said}{_built_for_one_size(network)}"
            ) from error


def _built_for_one_size(network: nn.Module) -> str:
    """How a network is made for another size, where its class is built for one (timm's transformers)."""
    built = any(hasattr(part, "img_size") for part in network.modules())
    return "; build it for that size, --model-kwargs img_size=64 (or img_size=[96,128])" * built


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Three numbers, or for grey images the mean of them."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
