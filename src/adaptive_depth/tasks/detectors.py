"""Facts about a detector from its class: its library, its class numbers, where its features come from."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Literal

from torch import Tensor, nn

from ..hugging_face import image_processor_of, is_of_transformers

Library = Literal["torchvision", "transformers"]


@dataclass(frozen=True)
class Detector:
    """Facts about a detector.

    Attributes:
        name: of its class, for errors.
        library: its interface: `"torchvision"` (lists of images and of targets; losses in training mode, predictions
            in eval mode) or `"transformers"` (a dict with labels; always outputs, with a loss).
        lowest, classes: its class numbers range from `lowest` to below `classes`; None if unknown.
        backbone: the path of the module that returns its features; None if it has no separate one.
        config: of a model of transformers.
        takes_mask: whether it takes the `pixel_mask` of a padded batch.
        normalises: whether it certainly takes images from 0 to 1 and subtracts their mean itself.
    """

    name: str
    library: Library
    lowest: int = 0
    classes: int | None = None
    backbone: str | None = None
    config: Any = field(default=None, repr=False)
    takes_mask: bool = field(default=False, repr=False)
    normalises: bool = field(default=False, repr=False, compare=False)


def detector_of(model: nn.Module) -> Detector | None:
    """Facts about a model, or about the first detector inside it; None if there is none of these libraries.

    Example:
        >>> import torchvision
        >>> model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
        >>> detector_of(model)
        Detector(name='SSD', library='torchvision', lowest=1, classes=91, backbone='backbone')
        >>> detector_of(torchvision.models.resnet18())
    """
    for path, part in model.named_modules():
        found = _of_torchvision(path, part) or _of_transformers(path, part)
        if found is not None:
            return found
    return None


# -- torchvision ------------------------------------------------------------------------------------------------


def _known(module: str, name: str) -> type[nn.Module] | None:
    """A class of torchvision's detectors, if it is imported."""
    return getattr(sys.modules.get(f"torchvision.models.detection.{module}"), name, None)


def _is_any(part: nn.Module, *kinds: tuple[str, str]) -> bool:
    loaded = tuple(kind for kind in (_known(*each) for each in kinds) if kind is not None)
    return isinstance(part, loaded)


_RCNN, _SSD = ("generalized_rcnn", "GeneralizedRCNN"), ("ssd", "SSD")
_ONE_STAGE = (("retinanet", "RetinaNet"), ("fcos", "FCOS"))


def _of_torchvision(path: str, part: Any) -> Detector | None:
    if _is_any(part, _RCNN):
        scores = getattr(getattr(part.roi_heads, "box_predictor", None), "cls_score", None)
        classes, lowest = getattr(scores, "out_features", None), 1
    elif _is_any(part, _SSD):
        classes, lowest = getattr(getattr(part.head, "classification_head", None), "num_columns", None), 1
    elif _is_any(part, *_ONE_STAGE):
        classes, lowest = getattr(getattr(part.head, "classification_head", None), "num_classes", None), 0
    else:
        return None
    known = classes if isinstance(classes, int) else None
    backbone = _below(path, "backbone")
    return Detector(type(part).__name__, "torchvision", lowest, known, backbone, normalises=_normalises(part))


def _normalises(part: Any) -> bool:
    """A mean between 0 and 1 implies images from 0 to 1."""
    numbers = [getattr(getattr(part, "transform", None), name, None) for name in ("image_mean", "image_std")]
    mean, spread = ([each] if isinstance(each, int | float) else each or [0.0] for each in numbers)
    return all(0 < each < 1 for each in mean) and all(0 < each <= 1 for each in spread)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


@contextmanager
def losses_in_eval(*modules: nn.Module) -> Iterator[None]:
    """Inside, torchvision's detectors return losses although their norms, and everything else, are in eval mode.

    Only the modules that choose between losses and predictions are set to training mode, not their children; images
    are resized as in eval mode.
    """
    choosing = (_RCNN, _SSD, *_ONE_STAGE, ("rpn", "RegionProposalNetwork"), ("roi_heads", "RoIHeads"))
    parts = [part for module in modules for part in module.modules() if _is_any(part, *choosing)]
    before = [(part, part.training) for part in parts]
    for part in parts:
        part.training = True
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


# -- transformers -----------------------------------------------------------------------------------------------


def _of_transformers(path: str, part: Any) -> Detector | None:
    if not is_of_transformers(part):
        return None
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES as names

    known = {name for each in names.values() for name in ((each,) if isinstance(each, str) else each)}
    if not any(kind.__name__ in known and kind.__module__.startswith("transformers.") for kind in type(part).__mro__):
        return None
    # A convolutional body is a separate `backbone`; in a pure transformer the body is everything except the heads.
    inner = getattr(part, "base_model_prefix", "")
    bodies = [name for name, _ in part.named_modules() if name.rpartition(".")[2] == "backbone"]
    # The shortest path is the outermost.
    body = min(bodies, key=len, default=inner if isinstance(getattr(part, inner, None), nn.Module) else None)
    labels = getattr(part.config, "num_labels", None)
    backbone = None if body is None else _below(path, body)
    masked = "pixel_mask" in signature(part.forward).parameters
    return Detector(type(part).__name__, "transformers", 0, labels, backbone, part.config, masked)


def predictions_of(config: Any, logits: Tensor, boxes: Tensor, sizes: Tensor) -> list[dict[str, Tensor]]:
    """The outputs of a transformers model after its image processor; all queries, whatever their score.

    Arguments:
        config: of the model.
        logits: `[batch, queries, classes]`.
        boxes: `[batch, queries, 4]`, centre, width and height, from 0 to 1.
        sizes: `[batch, 2]`, height and width of each image.

    Returns:
        For each image `boxes` (corners, in pixels of `sizes`), `scores` and `labels`.
    """
    from types import SimpleNamespace

    kind = image_processor_of(config)
    return kind().post_process_object_detection(
        SimpleNamespace(logits=logits, pred_boxes=boxes), threshold=-1.0, target_sizes=sizes
    )
