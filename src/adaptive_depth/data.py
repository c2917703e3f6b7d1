"""Images and labels by timm's dataset names, and how they are prepared: a value that a run folder remembers."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.config import resolve_data_config, resolve_model_data_config
from timm.data.dataset_factory import _TORCH_BASIC_DS, create_dataset
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from .errors import DataError, one_line
from .modes import evaluating
from .network import AdaptiveNetwork

_SPLITS = {"train": ("train", "training"), "validation": ("val", "validation", "valid", "test")}  # sub-folders
CHARACTERS = ("digits", "torch/mnist", "torch/kmnist", "torch/qmnist")  # mirrored, they are others or none
_MODES = {1: "L", 3: "RGB"}
_KNOWN = (
    "'digits', a folder with train/ and val/ in it, a set of torchvision's such as "
    f"{', '.join(f'torch/{name}' for name in _TORCH_BASIC_DS)}, or 'hfds/NAME' from the Hugging Face hub"
)


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they become the input of a network: a plain value that survives JSON.

    Attributes:
        name: `"digits"`, a name of timm's (`"torch/cifar10"`), or the path of an image folder.
        root: where a named set is stored; None for digits and image folders.
        image_size: height and width in pixels after resizing.
        channels: 1 (grey) or 3 (colour); images are converted.
        mean, std: subtracted from, and divided out of, pixels between 0 and 1; one number a channel.
        interpolation: of the resizing, `"bicubic"` or `"bilinear"`.
        crop_pct: the part of a resized image's side that the central crop keeps in evaluation.
        classes: the class names, in the order of the labels.
    """

    name: str
    root: str | None
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    classes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Lists, strings and numbers only, as `from_json` reads them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> "DataConfig":
        """The inverse of `to_json`.

        Raises:
            DataError: a field that no configuration has, or one that is missing.
        """
        try:
            plain: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in config.items()
            }
            return cls(**plain)
        except (TypeError, AttributeError) as error:
            raise DataError(
                f"data configuration {config!r}: {error}; expected {', '.join(cls.__dataclass_fields__)}"
            ) from error


class Digits(Dataset[tuple[Any, int]]):
    """Scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, grey: real images that need no download.

    The split is fixed and has the same share of each digit in both parts: 1,297 images to train on, 500 never
    trained on. Each item is a `PIL.Image` (transformed where there is a transform) and its label.
    """

    classes = tuple("0123456789")

    def __init__(self, split: str) -> None:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits: Any = load_digits()
        parts = train_test_split(
            (digits.images * (255 / 16)).round().astype(np.uint8),
            digits.target,
            test_size=500,
            stratify=digits.target,
            random_state=0,
        )
        self.images, self.labels = (parts[0], parts[2]) if split == "train" else (parts[1], parts[3])
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.images[index])
        return self.transform(image) if self.transform else image, int(self.labels[index])


# -- which images -----------------------------------------------------------------------------------------------


def class_names(name: str, *, root: str | Path | None = None, download: bool = False) -> tuple[str, ...]:
    """The classes of a data set, in the order of their labels: what a model's `num_classes` must count.

    Raises:
        DataError: a set that is unknown, missing or empty.

    Example:
        >>> class_names("digits")
        ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    data = _open(name, root, "train", download)
    names = getattr(data, "classes", None) or getattr(getattr(data, "reader", None), "class_to_idx", None)
    if names is None:  # a set of the Hugging Face hub
        features = getattr(getattr(getattr(data, "reader", None), "dataset", None), "features", {})
        names = next((label.names for label in features.values() if hasattr(label, "names")), None)
    if not names:
        raise DataError(f"data {name!r} does not tell its classes: expected labelled images for classification")
    if len(names) < 2:
        raise DataError(f"data {name!r} has one class only, {names[0]!r}: expected two or more, a folder each")
    return tuple(str(each) for each in names)


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
        name: `"digits"`, a dataset name of timm's, or the path of a folder that holds `train/` and `val/` (or
            `validation/`, `test/`) with one folder a class in each.
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
    if channels not in _MODES:
        raise DataError(f"the model takes {channels} channels: expected 1 (grey) or 3 (colour)")
    if name == "digits":
        wanted |= {"input_size": (channels, 32, 32), "crop_pct": 1.0, "interpolation": "bilinear"}
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size={image_size}: expected a number of pixels above 0, such as 224")
    size = image_size or wanted["input_size"][-1]
    if resize is not None and resize < size:
        raise DataError(f"resize={resize}: expected at least the image size, {size} pixels")
    folder = Path(name).resolve() if _is_folder(name) else None
    return DataConfig(
        name=str(folder or name),
        root=str(Path(root).resolve()) if root is not None and folder is None else None,
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

    Arguments:
        config: what `configure` returned.
        split: `"train"` or `"validation"` (a set that has only a test part beside the training part: that).
        transform: of an image; by default resizing, a central crop and normalising, without any chance.
        download: fetch a named set that is not there.

    Raises:
        DataError: a set that is missing or empty, or whose classes are not those of `config`; and, when an item is
            asked for, an image that cannot be read.
    """
    data: Any = _open(config.name, config.root, split, download, config.classes)
    data.transform = transform or _transform(config)
    return data


def create_loader(
    config: DataConfig,
    split: str,
    *,
    batch_size: int = 64,
    shuffle: bool = False,
    workers: int = 0,
    download: bool = False,
) -> "DataLoader[tuple[Tensor, Tensor]]":
    """Batches of one part for evaluation and calibration, `[batch, channels, size, size]` and `[batch]`.

    Raises:
        DataError: as for `open_data`, or a batch size or number of workers that is too small.
    """
    if batch_size < 1 or workers < 0:
        raise DataError(f"batch_size={batch_size}, workers={workers}: expected at least 1 and at least 0")
    return DataLoader(
        open_data(config, split, download=download),
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )


def check_fit(network: nn.Module, config: DataConfig) -> None:
    """Check that a network takes these images and has as many outputs as there are classes.

    Raises:
        DataError: with both numbers, or with what the network said of the image size.
    """
    device = next((parameter.device for parameter in network.parameters()), None)
    shape = (1, config.channels, config.image_size, config.image_size)
    with evaluating(network), torch.no_grad():
        try:
            output = network(torch.zeros(shape, device=device))
        except (RuntimeError, AssertionError) as error:
            said = str(error).strip().splitlines()[0]
            raise DataError(f"the network does not take images of shape {list(shape[1:])}: {said}") from error
    if output.shape[-1] != len(config.classes):
        raise DataError(
            f"the network has {output.shape[-1]} outputs, the data {config.name!r} has {len(config.classes)} classes: "
            f"build the model with num_classes={len(config.classes)}"
        )


# -- opening ----------------------------------------------------------------------------------------------------


def _is_folder(name: str) -> bool:
    return name != "digits" and not name.lower().startswith(("torch/", "hfds/"))


def _open(
    name: str, root: str | Path | None, split: str, download: bool, classes: tuple[str, ...] | None = None
) -> Dataset[Any]:
    if split not in _SPLITS:
        raise DataError(f"split {split!r}: expected one of {', '.join(_SPLITS)}")
    if name == "digits":
        return Digits(split)
    if _is_folder(name):
        return _open_folder(name, split, classes)
    if root is None:
        raise DataError(
            f"data {name!r} needs a root: the folder in which the set is stored, or is to be (--root){_hint(name)}"
        )
    root = Path(root).expanduser()
    if not root.is_dir() and not download:
        raise DataError(f"root {str(root)!r} of data {name!r} is no folder: name another, or let it --download")
    try:
        return create_dataset(name, root=str(root), split=split, download=download)
    except Exception as error:  # whatever the many readers raise, the user needs the same answer
        if "Unknown torchvision dataset" in str(error):
            raise _unknown(name) from error
        raise DataError(
            f"data {name!r} cannot be read from {str(root)!r} (let it --download?): {one_line(error)}"
        ) from error


def _open_folder(name: str, split: str, classes: tuple[str, ...] | None) -> Dataset[Any]:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise _unknown(name)
    part = next((folder / each for each in _SPLITS[split] if (folder / each).is_dir()), None)
    if part is None:
        wanted = " or ".join(f"{each}/" for each in _SPLITS[split])
        raise DataError(f"folder {name!r} has no {split} part: expected {wanted} in it, with one folder a class")
    try:
        data: Any = create_dataset("", root=str(part), search_split=False)
    except RuntimeError as error:
        raise DataError(f"folder {str(part)!r} holds no images: expected one folder a class, with images") from error
    found = data.reader.class_to_idx
    if classes is not None and tuple(found) != classes:
        strange = sorted(set(found) - set(classes))
        if strange:
            raise DataError(f"folder {str(part)!r} has classes that were not trained on: {', '.join(strange[:5])}")
        numbers = {each: number for number, each in enumerate(classes)}
        data = create_dataset("", root=str(part), search_split=False, class_map=numbers)
    return _Folder(data.reader)


class _Folder(Dataset[tuple[Any, int]]):
    """The images of a folder; one that cannot be read is named, where timm would put its neighbour in its place."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        file, label = self.reader[index]
        try:
            with file, Image.open(file) as opened:
                image = opened.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            name = self.reader.filename(index, absolute=True)
            raise DataError(
                f"image {name} cannot be read ({error}): remove it, or put a whole one in its place"
            ) from error
        return self.transform(image) if self.transform else image, int(label)


def _unknown(name: str) -> DataError:
    return DataError(f"data {name!r} is neither a folder nor a known name: expected {_KNOWN}{_hint(name)}")


def _hint(name: str) -> str:
    known = ["digits", *(f"torch/{each}" for each in _TORCH_BASIC_DS)]
    near = [] if name in known else get_close_matches(name, known, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


# -- preparing --------------------------------------------------------------------------------------------------


class Convert:
    """Grey or colour, as the network wants it (a class, so that it reaches worker processes)."""

    def __init__(self, channels: int) -> None:
        self.mode = _MODES[channels]

    def __call__(self, image: Any) -> Any:
        return image.convert(self.mode)


def _transform(config: DataConfig) -> Any:
    prepare: Any = create_transform(
        (config.channels, config.image_size, config.image_size),
        interpolation=config.interpolation,
        crop_pct=config.crop_pct,
        mean=config.mean,
        std=config.std,
    )
    return transforms.Compose([Convert(config.channels), prepare])


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
