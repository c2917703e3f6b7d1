"""CIFAR-10 at the resolution of a setting, in memory; batches are augmented there.

Two forms are read: the folder that torchvision makes (it downloads what is missing), and one `.npz` of re-compressed
photographs, with `train_jpeg` (their bytes, one after the other), `train_end` (where each ends), `train_labels`, and
the same of `test`. Accuracies on the two cannot be compared.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.datasets import CIFAR10

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)  # of the training part, for pixels from 0 to 255
VALIDATION = 5000  # the last of the training part: knobs are chosen on these, nothing is trained on them
PADDING = 16  # the part of a side by which crops move


@dataclass(frozen=True)
class Part:
    """Images `[samples, 3, size, size]`, uint8, and labels `[samples]`."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@cache
def load(source: Path, size: int, device: str) -> dict[str, Part]:
    """`"train"`, `"validation"` and `"test"`."""
    parts = {name: _read(source, name, size, device) for name in ("train", "test")}
    train = parts["train"]
    return {
        "train": Part(train.images[:-VALIDATION], train.labels[:-VALIDATION]),
        "validation": Part(train.images[-VALIDATION:], train.labels[-VALIDATION:]),
        "test": parts["test"],
    }


def describe(source: Path) -> str:
    return "CIFAR-10, JPEGs of lower quality" if source.suffix == ".npz" else "CIFAR-10"


def _read(source: Path, name: str, size: int, device: str) -> Part:
    if source.suffix == ".npz":
        packed = _packed(source)
        content, ends = packed[f"{name}_jpeg"].tobytes(), packed[f"{name}_end"].tolist()
        pictures = (Image.open(io.BytesIO(content[a:b])) for a, b in zip([0, *ends[:-1]], ends, strict=True))
        pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
        labels = packed[f"{name}_labels"]
    else:
        images = _downloaded(source, name)
        pixels, labels = images.data, np.array(images.targets)
    shrunk = [
        F.interpolate(torch.from_numpy(some).permute(0, 3, 1, 2).float(), size=size, mode="area").round().byte()
        for some in np.split(pixels, 10)
    ]
    return Part(torch.cat(shrunk).to(device), torch.from_numpy(labels.astype(np.int64)).to(device))


def _packed(source: Path) -> dict[str, np.ndarray]:
    if not source.exists():
        raise SystemExit(f"--data {source} does not exist: name the folder of CIFAR-10 (downloaded), or an .npz")
    wanted = [f"{name}_{what}" for name in ("train", "test") for what in ("jpeg", "end", "labels")]
    try:
        packed = np.load(source)
    except (OSError, ValueError, BadZipFile) as error:
        raise SystemExit(
            f"--data {source} is not an .npz ({type(error).__name__}): expected {', '.join(wanted)}"
        ) from error
    if missing := [name for name in wanted if name not in packed]:
        raise SystemExit(f"--data {source} has no {', '.join(missing)}: expected the arrays {', '.join(wanted)}")
    return {name: packed[name] for name in wanted}


def _downloaded(source: Path, name: str) -> CIFAR10:
    try:
        return CIFAR10(source, train=name == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise SystemExit(
            f"CIFAR-10 is not in --data {source} and could not be downloaded ({error}): unpack "
            f"cifar-10-python.tar.gz there, so that {source / CIFAR10.base_folder} is a folder"
        ) from error


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images.float() - mean) / std


class Shuffled:
    """Training batches in a new order each epoch, mirrored and shifted at random; black comes in from the sides.

    Arguments:
        count: images in an epoch, drawn anew for each.
        sizes: resolutions to draw from, one a batch; that of the images alone where none are given.
    """

    def __init__(self, part: Part, count: int, batch_size: int, sizes: tuple[int, ...] = ()) -> None:
        self.part, self.count, self.batch_size = part, min(count, len(part)), batch_size
        self.sizes = sizes

    def __len__(self) -> int:
        return max(1, self.count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.part.images, self.part.labels
        size = images.shape[-1]
        by = max(1, size // PADDING)
        for index in torch.randperm(len(self.part))[: self.count].split(self.batch_size)[: len(self)]:
            place = index.to(images.device)
            x = F.pad(images[place], (by, by, by, by))
            top, left = torch.randint(2 * by + 1, (2,)).tolist()
            x = x[:, :, top : top + size, left : left + size]
            mirrored = (torch.rand(len(index), 1, 1, 1) < 0.5).to(x.device)
            x = normalised(torch.where(mirrored, x.flip(-1), x))
            if self.sizes:
                x = resized(x, self.sizes[int(torch.randint(len(self.sizes), ()))])
            yield x, labels[place]


def resized(x: Tensor, size: int) -> Tensor:
    return x if x.shape[-1] == size else F.interpolate(x, size=size, mode="area")


def in_order(part: Part, size: int | None = None, batch_size: int = 500) -> list[tuple[Tensor, Tensor]]:
    """Batches to evaluate on, without augmentation."""
    pairs = zip(part.images.split(batch_size), part.labels.split(batch_size), strict=True)
    return [(resized(normalised(x), size or x.shape[-1]), y) for x, y in pairs]
