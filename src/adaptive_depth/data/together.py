"""How an image and its annotations become an input and a target that stay aligned."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.tv_tensors import Mask

from ..errors import DataError
from ..preprocessing import Convert, Preprocessing
from .sets import NO_CLASS

AUGMENTED = ("crop", "flip", "none")


class Together:
    """Turns an image and a target into an input `[channels, height, width]` and its target, both plain tensors.

    Arguments:
        preprocessing: its size and normalisation; nothing of an image is cropped.
        ignored: the number in a mask outside the image.
        augment: torchvision transforms (v2) before that.

    Example:
        >>> from torchvision.tv_tensors import BoundingBoxes
        >>> prepare = Together(Preprocessing(32, 3, mean=(0.0,) * 3, std=(1.0,) * 3, resize="stretch"))
        >>> boxes = BoundingBoxes([[0.0, 0.0, 30.0, 20.0]], format="XYXY", canvas_size=(40, 60))
        >>> x, y = prepare(Image.new("L", (60, 40)), {"boxes": boxes, "labels": torch.tensor([1])})
        >>> x.shape, y["boxes"]
        (torch.Size([3, 32, 32]), tensor([[ 0.,  0., 16., 16.]]))
    """

    def __init__(
        self, preprocessing: Preprocessing, ignored: int = NO_CLASS, augment: Sequence[v2.Transform] = ()
    ) -> None:
        self.preprocessing, self.augment = preprocessing, tuple(augment)
        self.convert, self.fill = Convert(preprocessing.channels), {Mask: ignored, Image.Image: preprocessing.colour}
        self.mean, self.std = (torch.tensor(each)[:, None, None] for each in (preprocessing.mean, preprocessing.std))

    def __call__(self, image: Image.Image, target: Any) -> tuple[Tensor, Any]:
        image = self.convert(image)
        for step in self.augment:
            image, target = step(image, target)
        place = self.preprocessing.place(*image.size)
        (width, height), (right, below) = place.resized, (place.frame[n] - place.resized[n] for n in range(2))
        interpolation = InterpolationMode(self.preprocessing.interpolation)
        image, target = _Resize([height, width], interpolation)(image, target)
        if right or below:
            image, target = v2.Pad([0, 0, right, below], self.fill)(image, target)
        pixels = v2.functional.pil_to_tensor(image).float().div_(255).sub_(self.mean).div_(self.std)
        return pixels, _plain(target)


class _Resize(v2.Resize):
    """Samples masks at pixel centres, as for images; v2's own samples at the upper left, up to half a pixel away."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, Mask):
            return super().transform(inpt, params)
        layers = inpt.reshape(-1, *inpt.shape[-2:])
        resized = v2.functional.resize_image(layers, self.size, InterpolationMode.NEAREST_EXACT)
        return Mask(resized.reshape(*inpt.shape[:-2], *resized.shape[-2:]))


def _plain(target: Any) -> Any:
    """A target of plain tensors."""
    if isinstance(target, Mask):
        return target.as_subclass(Tensor).long()
    return {name: each.as_subclass(Tensor) if isinstance(each, Tensor) else each for name, each in target.items()}


def augmentation(kind: str, target: str, smallest: float) -> list[v2.Transform]:
    """The random part of the preparation for training.

    Arguments:
        kind: `"crop"` (a random crop, flipped or not), `"flip"` or `"none"`.
        target: `"boxes"` or `"masks"`.
        smallest: the smallest fraction of an image's area that a crop keeps.

    Raises:
        DataError: a kind that would change images but not their annotations.
    """
    if kind not in AUGMENTED:
        raise DataError(
            f"augment={kind!r} needs images with one class: expected one of {', '.join(AUGMENTED)} for {target}"
        )
    flip: list[v2.Transform] = [] if kind == "none" else [v2.RandomHorizontalFlip()]
    if kind != "crop":
        return flip
    if target == "masks":
        return [_Part(smallest), *flip]
    # Boxes whose centre is cropped off are dropped, the others clipped.
    return [
        v2.RandomIoUCrop(min_scale=sqrt(smallest)),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(labels_getter=_labels),
        *flip,
    ]


class _Part(v2.RandomResizedCrop):
    """A random crop of an image with about its aspect ratio, not yet resized."""

    def __init__(self, smallest: float) -> None:
        super().__init__(1, scale=(smallest, 1.0))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.functional.get_size(flat_inputs[0])
        # Relative to the image's own ratio, where that of torchvision is absolute.
        self._log_ratio = torch.log(torch.tensor([0.75, 4 / 3]) * (width / height))
        self.ratio = (0.75 * width / height, 4 / 3 * width / height)
        return super().make_params(flat_inputs)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(v2.functional.crop, inpt, **params)


def _labels(inputs: Any) -> list[Tensor]:
    """The entries of a target with one value per box."""
    _, target = inputs
    return [target[name] for name in ("labels", "iscrowd")]
