"""Images and labels by timm's dataset names, and how they are prepared: a value that a run folder remembers."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from timm.data.config import resolve_data_config, resolve_model_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from ..core.network import AdaptiveNetwork
from ..errors import DataError
from ..modes import evaluating
from ..preprocessing import MODES, Preprocessing
from ..schema import Plain
from .sets import DRAWN, ImageSet, Loader, Readable, Shards, collate_readable, locate, open_set
from .sets import Digits as Digits

# Mirrored, they are others or none.
CHARACTERS = (*DRAWN, "torch/mnist", "torch/kmnist", "torch/qmnist")


@dataclass(frozen=True)
class DataConfig(Plain):
    """Which images, and how they become the input of a network: a plain value that survives JSON.

    Attributes:
        name: `"digits"`, `"letters_in_photos"`, the path of an image folder, or a kind of set and its name or path:
            `"torch/cifar10"`, `"hfds/NAME"` or `"hfds/FOLDER"` (Hugging Face), `"wds/FOLDER"` (tar shards).
        root: where a named set is stored; None where that goes without saying.
        image_size: height and width in pixels after resizing.
        channels: 1 (grey) or 3 (colour); images are converted.
        mean, std: subtracted from, and divided out of, pixels between 0 and 1; one number a channel.
        interpolation: of the resizing, `"bicubic"` or `"bilinear"`.
        crop_pct: the part of a resized image's side that the central crop keeps in evaluation.
        classes: the class names, in the order of the labels.
    """

    reading_error = DataError

    name: str
    root: str | None
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        _ = self.preprocessing  # which checks the values

    @property
    def preprocessing(self) -> Preprocessing:
        """All but where its images are."""
        known = [each.name for each in fields(Preprocessing) if hasattr(self, each.name)]
        return Preprocessing(**{name: getattr(self, name) for name in known})


# -- which images -----------------------------------------------------------------------------------------------


def class_names(name: str, *, root: str | Path | None = None, download: bool = False) -> tuple[str, ...]:
    """The classes of a data set, in the order of their labels: what a model's `num_classes` must count.

    Raises:
        DataError: a set that is unknown, missing or empty.

    Example:
        >>> class_names("digits")
        ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    names = open_set(name, root, "train", download).classes
    if len(names) < 2:
        raise DataError(f"data {name!r} has one class only, {', '.join(names)!r}: expected two or more")
    return names


def configure(
    name: str,
    model: nn.Module,
    *,
    root: str | Path | None = None,
    image_size: int | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    download: bool = False,
) -> DataConfig:
    """How a model wants to see a data set: its own size, mean and crop from timm, its number of channels.

    Arguments:
        name: `"digits"` or `"letters_in_photos"`; the path of a folder that holds `train/` and `val/` (or
            `validation/`, `test/`) with one folder a class in each; `"torch/NAME"` (torchvision); `"hfds/NAME"` or
            `"hfds/FOLDER"` (what `datasets.load_dataset` takes); `"wds/FOLDER"` (tar shards with an `_info.json` as
            timm reads it).
        model: its first convolution tells the channels, timm's configuration the rest; ImageNet's otherwise.
        root: where a named set is stored, or is to be.
        image_size: in pixels; by default the model's own (32 for digits).
        resize: pixels of an image's shorter side, of which the central `image_size` are kept; by default timm's share.
        interpolation: `"bicubic"` or `"bilinear"`; by default timm's.
        download: fetch a named set that is not in `root`.

    Raises:
        DataError: a set that is unknown, missing or empty; a model for images of neither 1 nor 3 channels.

    Example:
        >>> import timm
        >>> config = configure("digits", timm.create_model("resnet18", in_chans=1))
        >>> config.channels, config.image_size, len(config.classes)
        (1, 32, 10)
    """
    classes = class_names(name, root=root, download=download)
    channels, wanted = _channels(model), _wanted(model)
    if channels not in MODES:
        raise DataError(f"the model takes {channels} channels: expected 1 (grey) or 3 (colour)")
    if name in DRAWN:
        wanted |= {"input_size": (channels, 32, 32), "crop_pct": 1.0, "interpolation": "bilinear"}
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size={image_size}: expected a number of pixels above 0, such as 224")
    size = image_size or wanted["input_size"][-1]
    if resize is not None and resize < size:
        raise DataError(f"resize={resize}: expected at least the image size, {size} pixels")
    name, place = locate(name, root)
    return DataConfig(
        name=name,
        root=place,
        image_size=size,
        channels=channels,
        mean=_per_channel(wanted["mean"], channels),
        std=_per_channel(wanted["std"], channels),
        interpolation=interpolation or wanted["interpolation"],
        crop_pct=size / resize if resize else wanted["crop_pct"],
        classes=classes,
    )


def input_shape(model: nn.Module) -> tuple[int, int]:
    """The number of channels that a model takes, and the image size it was made for.

    Example:
        >>> import timm
        >>> input_shape(timm.create_model("resnet18", in_chans=1))
        (1, 224)
    """
    return _channels(model), _wanted(model)["input_size"][-1]


def open_data(
    config: DataConfig, split: str, *, transform: Callable[[Any], Tensor] | None = None, download: bool = False
) -> Dataset[Any]:
    """One part of a data set, prepared: items are `[channels, size, size]` and an integer label.

    Tar shards are a stream (an `IterableDataset`) that goes through each image once; all else is asked by number.

    Arguments:
        config: what `configure` returned.
        split: `"train"` or `"validation"` (a set that has only a test part beside the training part: that).
        transform: of an image; by default resizing, a central crop and normalising, without any chance.
        download: fetch a named set that is not there.

    Raises:
        DataError: a set that is missing or empty, or whose classes are not those of `config`; and, when an item is
            asked for, an image that cannot be read.
    """
    return _open(config, split, transform, download)


def _open(
    config: DataConfig, split: str, transform: Callable[[Any], Tensor] | None = None, download: bool = False
) -> ImageSet:
    data = open_set(config.name, config.root, split, download, config.classes)
    data.transform = transform or config.preprocessing.transform()
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
) -> "DataLoader[tuple[Tensor, Tensor]]":
    """Batches of one part for evaluation and calibration, `[batch, channels, size, size]` and `[batch]`.

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
        collate_fn=collate_readable if leave_out_damaged else None,
    )


def check_fit(network: nn.Module, config: DataConfig) -> None:
    """Check that a network takes these images and has as many outputs as there are classes.

    Raises:
        DataError: with both numbers, or with what the network said of the image size.
    """
    output = check_input(network, config)
    if output.shape[-1] != len(config.classes):
        raise DataError(
            f"the network has {output.shape[-1]} outputs, the data {config.name!r} has {len(config.classes)} classes: "
            f"build the model with num_classes={len(config.classes)}"
        )


def check_input(network: nn.Module, config: DataConfig) -> Any:
    """Check that a network takes these images.

    Returns:
        What it gives for one that is black.

    Raises:
        DataError: with what the network said of the image size.
    """
    device = next((parameter.device for parameter in network.parameters()), None)
    shape = (1, config.channels, config.image_size, config.image_size)
    with evaluating(network), torch.no_grad():
        try:
            return network(torch.zeros(shape, device=device))
        except (RuntimeError, AssertionError) as error:
            said = str(error).strip().splitlines()[0]
            raise DataError(f"the network does not take images of shape {list(shape[1:])}: {said}") from error


def _channels(model: nn.Module) -> int:
    convolution = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    return 3 if convolution is None else convolution.in_channels


def _wanted(model: nn.Module) -> dict[str, Any]:
    """What timm knows of a model's preprocessing; for others what is usual on ImageNet."""
    plain = model.model if isinstance(model, AdaptiveNetwork) else model
    if getattr(plain, "pretrained_cfg", None):
        return resolve_model_data_config(plain)
    return resolve_data_config({"in_chans": 3})


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Three numbers, or for grey images the mean of them."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
