"""Batches of a detector: split into images and targets, and refused if nothing could be learned from them.

Everything is checked here, where it enters: labels of the background, or boxes in another format, would train without
an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert

from ..batches import described
from ..errors import DataError
from .detectors import Detector

_PAIR = (
    "expected (images, targets), a list of tensors [3, height, width] and a list of dicts with 'boxes' [n, 4] and "
    "'labels' [n], as a DataLoader yields them with collate_fn=lambda batch: tuple(zip(*batch))"
)
_DICT = (
    "expected a dict with 'pixel_values' [batch, 3, height, width] and 'labels', a list of dicts with 'boxes' [n, 4] "
    "(centre, width and height, from 0 to 1) and 'class_labels' [n], as image processors of transformers return it"
)
_OTHERS = ("image_id", "area", "iscrowd", "size", "orig_size")  # further entries of a target, not learned from

Target = dict[str, Any]


def images_in(batch: Any) -> list[Tensor]:
    """The images of a batch with or without targets: a list of tensors, or one tensor with all of them.

    Raises:
        DataError: anything else.
    """
    images = batch
    if isinstance(batch, tuple | list) and batch and not (isinstance(batch[0], Tensor) and batch[0].ndim == 3):
        images = batch[0]  # of a pair
    if isinstance(images, Tensor) and images.ndim == 4:
        images = list(images)
    if not (isinstance(images, tuple | list) and all(isinstance(each, Tensor) for each in images)):
        raise DataError(f"the loader yielded {described(batch)}: {_PAIR}")
    for number, image in enumerate(images):
        if image.ndim != 3 or not image.is_floating_point():
            raise DataError(
                f"image {number} of the batch is {list(image.shape)} of {str(image.dtype).removeprefix('torch.')}: "
                "expected [3, height, width] of floats from 0 to 1; "
                "torchvision.transforms.v2.ToDtype(torch.float32, scale=True) converts images of bytes"
            )
    return [_plain(image) for image in images]


def pairs(batch: Any, detector: Detector | None) -> tuple[list[Tensor], list[Target]]:
    """Images and checked targets of a batch in torchvision's format; boxes are corners in pixels.

    Raises:
        DataError: another format, no targets, or targets that do not fit.
    """
    is_pair = isinstance(batch, tuple | list) and len(batch) == 2 and not isinstance(batch[1], Tensor)
    if not is_pair or batch[1] is None or _is_sample(batch[1]):
        raise DataError(f"the loader yielded {_without_targets(batch)}: {_PAIR}")
    images, targets = images_in(batch), batch[1]
    if not (isinstance(targets, tuple | list) and all(isinstance(each, Mapping) for each in targets)):
        inside = next((type(each).__name__ for each in targets if not isinstance(each, Mapping)), "")
        of = f" with a {inside} in it" if isinstance(targets, tuple | list) else ""
        raise DataError(f"the loader yielded targets as {described(targets)}{of}: {_PAIR}")
    if len(images) != len(targets):
        raise DataError(f"the loader yielded {len(images)} images and {len(targets)} targets: expected one for each")
    found = [
        _in_pixels(_named(number, target, "labels"), target, image, detector)
        for number, (image, target) in enumerate(zip(images, targets, strict=True))
    ]
    _check_unit(images, found)
    if detector is not None and detector.normalises:
        _check_scale(images, detector)
    return images, found


def _without_targets(batch: Any) -> str:
    """What a batch is instead of a pair of images and targets, for an error."""
    if not isinstance(batch, Tensor | list | tuple):
        return described(batch)
    if not isinstance(batch, Tensor) and batch and all(_is_sample(each) for each in batch):
        return f"a list of {len(batch)} pairs of an image and its target, as in the data set"
    return "images without targets"


def _is_sample(value: Any) -> bool:
    """Is it an image and its target, as in a data set?"""
    pair = isinstance(value, tuple | list) and len(value) == 2
    return pair and isinstance(value[0], Tensor) and isinstance(value[1], Mapping)


def padded(batch: Mapping[str, Any], detector: Detector | None) -> tuple[dict[str, Any], list[Target]]:
    """The input and the checked targets of a batch in the format of transformers.

    Raises:
        DataError: no labels, or labels that do not fit.
    """
    given = {str(name): value for name, value in batch.items()}
    targets = given.get("labels")
    if not isinstance(given.get("pixel_values"), Tensor):
        raise DataError(f"the loader yielded {described(batch)}: {_DICT}")
    if not (isinstance(targets, tuple | list) and all(isinstance(each, Mapping) for each in targets)):
        received = "no labels" if targets is None else f"labels as {described(targets)}"
        raise DataError(f"the loader yielded {received}: {_DICT}")
    number = len(given["pixel_values"])
    if number != len(targets):
        raise DataError(f"the loader yielded {number} images and {len(targets)} targets: expected one for each")
    labels = [_relative(_named(n, target, "class_labels"), target, detector) for n, target in enumerate(targets)]
    return given | {"labels": labels}, labels


def as_padded(images: Sequence[Tensor], targets: Sequence[Target], detector: Detector) -> dict[str, Any]:
    """The input of a transformers detector, from images and boxes in pixels: images padded to one size.

    That is a multiple of 32, the coarsest grid of their bodies. `pixel_mask` is included if an image was padded and the
    model takes it. Boxes are relative to the padded size.
    """
    height, width = (32 * max(-(-image.shape[axis] // 32) for image in images) for axis in (1, 2))
    frame = torch.tensor([width, height, width, height])
    x: dict[str, Any] = {"pixel_values": torch.stack([_with_border(image, height, width) for image in images])}
    if detector.takes_mask and any(image.shape[1:] != (height, width) for image in images):
        x["pixel_mask"] = torch.stack([_with_border(torch.ones_like(i[0]), height, width).long() for i in images])
    x["labels"] = [
        {
            "class_labels": target["labels"],
            "boxes": box_convert(target["boxes"], "xyxy", "cxcywh") / frame.to(target["boxes"].device),
            "size": torch.tensor([height, width], device=target["boxes"].device),
            **{name: target[name] for name in ("image_id", "iscrowd") if name in target},
        }
        for target in targets
    ]
    return x


def _with_border(image: Tensor, height: int, width: int) -> Tensor:
    return F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]))


# -- one target -------------------------------------------------------------------------------------------------


def _named(number: int, target: Mapping[str, Any], labels: str) -> str:
    """Which image it is, for errors; raises if boxes or labels are missing, unless the image has neither."""
    known = f", image_id {_number(target['image_id'])}" if "image_id" in target else ""
    where = f"target {number} of the batch{known}"
    missing = [name for name in ("boxes", labels) if name not in target]
    if missing and not all(str(name) in _OTHERS for name in target):
        raise DataError(
            f"{where} has {', '.join(map(repr, target))}, but no {' and no '.join(map(repr, missing))}: expected "
            f"'boxes' [n, 4] and {labels!r} [n], both empty for an image without objects"
        )
    return where


def _number(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _both(where: str, target: Mapping[str, Any], name: str) -> tuple[Tensor, Tensor]:
    """Boxes `[n, 4]` in float32 or better, and labels `[n]` as integers."""
    boxes, labels = target.get("boxes", torch.zeros(0, 4)), target.get(name, torch.zeros(0, dtype=torch.long))
    if not (isinstance(boxes, Tensor) and isinstance(labels, Tensor)):
        raise DataError(
            f"{where} has boxes as a {type(boxes).__name__} and {name} as a {type(labels).__name__}: expected tensors"
        )
    # Data sets often have [0] instead of [0, 4] for an image without objects.
    if not boxes.numel() and not labels.numel():
        boxes, labels = boxes.reshape(0, 4), labels.reshape(0)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise DataError(
            f"{where} has boxes {list(boxes.shape)} and {name} {list(labels.shape)}: expected [n, 4] and [n]; if a "
            "DataLoader stacks the targets of several images into one tensor, give it collate_fn=lambda batch: "
            "tuple(zip(*batch))"
        )
    if labels.is_floating_point() and labels.numel():
        raise DataError(f"{where} has {name} of {labels.dtype}: expected whole numbers; convert them with .long()")
    # float16 has no odd pixels above 2,048, bfloat16 none above 256.
    kept = boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()
    if not torch.isfinite(kept).all():
        raise DataError(f"{where} has boxes that are not finite numbers: leave them out, or repair them")
    return kept, labels.long()


def _in_pixels(where: str, target: Mapping[str, Any], image: Tensor, detector: Detector | None) -> Target:
    """A checked target for torchvision."""
    corners = {"boxes": _corners(where, target["boxes"])} if "boxes" in target else {}
    boxes, labels = _both(where, {**target, **corners}, "labels")
    height, width = image.shape[1:]
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    if flat.any():
        raise DataError(
            f"{where} has the box {_first(boxes, flat)} without area: expected corners [x1, y1, x2, y2] with x1 < x2 "
            "and y1 < y2, in pixels; leave such boxes out, or convert [x, y, width, height] with "
            "torchvision.ops.box_convert(boxes, 'xywh', 'xyxy')"
        )
    size = torch.tensor([width, height], device=boxes.device)
    # A box may extend beyond the image (after a crop) but must not lie outside.
    away = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= size)).any(1)
    if away.any():
        raise DataError(
            f"{where} has the box {_first(boxes, away)} outside its image of {width} x {height} pixels: expected "
            "corners [x1, y1, x2, y2] in pixels of the image as passed; resize boxes with their images, and leave "
            "out those that a crop removed"
        )
    _check_labels(where, labels, detector, "labels")
    masks = target.get("masks")
    if isinstance(masks, Tensor) and (masks.shape != (len(boxes), height, width)):
        raise DataError(
            f"{where} has masks {list(masks.shape)} for {len(boxes)} boxes and an image of {height} x {width} pixels: "
            f"expected {[len(boxes), height, width]}; resize masks with their images"
        )
    rest = {str(name): _plain(value) for name, value in target.items() if isinstance(value, _KEPT)}
    return rest | {"boxes": boxes, "labels": labels}


_KEPT = (Tensor, bool, int, float, str)  # what can be kept for a later pass; polygons and the like are not needed


def _relative(where: str, target: Mapping[str, Any], detector: Detector | None) -> Target:
    """A checked target for transformers."""
    boxes, labels = _both(where, target, "class_labels")
    lost = ((boxes < -_ROUNDED) | (boxes > 1 + _ROUNDED)).any(1) | (boxes[:, 2:] <= 0).any(1)
    if lost.any():
        raise DataError(
            f"{where} has the box {_first(boxes, lost)}: expected [centre x, centre y, width, height] from 0 to 1 of "
            "the image's size, width and height above 0; divide pixels by the size, convert corners with "
            "torchvision.ops.box_convert(boxes, 'xyxy', 'cxcywh'), and leave out boxes without area"
        )
    _check_labels(where, labels, detector, "class_labels")
    rest = {str(name): _plain(value) for name, value in target.items() if isinstance(value, _KEPT)}
    return rest | {"boxes": boxes, "class_labels": labels}


_ROUNDED = 1e-3  # tolerance for rounded coordinates


def _corners(where: str, boxes: Any) -> Any:
    """Boxes as corners; torchvision's tv_tensors carry their format."""
    form = getattr(getattr(boxes, "format", None), "name", "XYXY")
    if form == "XYXY" or not isinstance(boxes, Tensor):
        return _plain(boxes)
    if form not in ("XYWH", "CXCYWH"):
        raise DataError(f"{where} has boxes in the format {form}: expected XYXY, boxes that are not rotated")
    return box_convert(_plain(boxes), form.lower(), "xyxy")


def _plain(value: Any) -> Any:
    """A tv_tensor as a tensor."""
    return value.as_subclass(Tensor) if isinstance(value, Tensor) and type(value) is not Tensor else value


def _first(boxes: Tensor, wrong: Tensor) -> list[float]:
    return [round(number, 4) for number in boxes[wrong][0].tolist()]


def _check_labels(where: str, labels: Tensor, detector: Detector | None, called: str) -> None:
    if not labels.numel():
        return
    lowest, classes = (0, None) if detector is None else (detector.lowest, detector.classes)
    low, high = torch.stack(labels.aminmax()).tolist()  # one transfer from the device, not two
    if low < lowest and low == 0:
        assert detector is not None
        raise DataError(
            f"{where} has the label 0, which is the background class of a {detector.name}: expected {called} from 1"
            f"{'' if classes is None else f' to {classes - 1}'}; add 1 to all labels, in every split"
        )
    if low < 0 or (classes is not None and high >= classes):
        name = "a detector" if detector is None else f"this {detector.name}"
        upto, fix = "", ""
        if detector is not None and classes is not None:
            built = "num_labels" if detector.library == "transformers" else "num_classes"
            why = " (class 0 is the background)" if lowest else ", or subtract 1 from labels that start at 1"
            upto, fix = f" to {classes - 1}", f"; build the model with {built}={high + 1}{why}"
        if low < 0:
            fix = "; leave out boxes without a class, with their labels"
        raise DataError(
            f"{where} has labels from {low} to {high}: expected {called} of {name}, from {lowest}{upto}{fix}"
        )


_FAR = 0.5  # how far an image may exceed 0 and 1: resizing and noise overshoot a little


def _check_scale(images: Sequence[Tensor], detector: Detector) -> None:
    """Refuse numbers that no image from 0 to 1 has: bytes as floats, or an image that is already normalised."""
    for number, image in enumerate(images):
        if not image.numel():
            continue
        low, high = torch.stack(image.detach().aminmax()).tolist()
        if low < -_FAR or high > 1 + _FAR:
            raise DataError(
                f"image {number} of the batch has numbers from {low:.4g} to {high:.4g}: expected 0 to 1, because a "
                f"{detector.name} normalises images itself (its `transform`); divide bytes by 255 "
                "(torchvision.transforms.v2.ToDtype(torch.float32, scale=True)), and leave Normalize out"
            )


def _check_unit(images: Sequence[Tensor], targets: Sequence[Target]) -> None:
    """Refuse boxes that all lie within the first pixel: they are relative to the image's size."""
    boxes = torch.cat([target["boxes"] for target in targets]) if targets else torch.zeros(0, 4)
    # In an image of a few pixels, such boxes may be correct.
    if len(boxes) and float(boxes.abs().amax()) <= 1 and min(min(image.shape[1:]) for image in images) > 8:
        raise DataError(
            "all boxes of this batch lie between 0 and 1: expected corners in pixels; multiply them by the image's "
            "width and height"
        )
