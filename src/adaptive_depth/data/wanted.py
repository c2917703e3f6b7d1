"""The inputs that models expect: the size of images, their normalisation, and the format of boxes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.config import resolve_data_config, resolve_model_data_config
from torch import nn
from torchvision.models import get_model_builder

from ..core.network import AdaptiveNetwork
from ..errors import DataError
from ..hugging_face import image_processor_of, is_of_transformers
from ..tasks.detectors import detector_of
from .sets import BACKGROUND

_USUAL = 512  # pixels of an image with boxes or a mask, if unknown
_ZEROS, _ONES = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # a mean and a std that change nothing


@dataclass(frozen=True)
class Wanted:
    """The images that a model expects: fields of `Preprocessing`, and the only size that it takes, height and width."""

    image_size: int | tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    resize: str = "stretch"
    fill: tuple[float, ...] = ()
    only: tuple[int, int] | None = None


def plain_model(model: nn.Module) -> nn.Module:
    """The model itself, adapted or not."""
    return model.model if isinstance(model, AdaptiveNetwork) else model


def channels_of(model: nn.Module) -> int:
    """Those of its first convolution; 3 if it has none."""
    convolution = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    return 3 if convolution is None else convolution.in_channels


def wanted(model: nn.Module, shown: str) -> Wanted:
    """The images that a model expects, according to timm, torchvision or transformers; else as usual on ImageNet.

    Arguments:
        model: adapted or not.
        shown: how the data is labelled: by `"class"`, `"boxes"` or `"masks"`.

    Raises:
        DataError: boxes for a model that is not a detector of torchvision or transformers that learns from boxes.
    """
    model = plain_model(model)
    if shown == "boxes":
        return _of_a_detector(model)
    usual = _of_timm(model)
    if shown == "class":
        return usual
    known = _of_a_processor(model)
    if known is not None:
        return known
    size = usual.image_size if getattr(model, "pretrained_cfg", None) else _USUAL
    return Wanted(size, usual.mean, usual.std)


def keeps_background(model: nn.Module) -> bool:
    """Is the first class of this detector the background, so that its classes count from 1?"""
    known = detector_of(plain_model(model))
    return known is not None and known.lowest == 1


def with_background(model: nn.Module, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes in the order of a detector's outputs."""
    return (BACKGROUND, *classes) if keeps_background(model) else classes


def arguments_for(
    name: str, classes: tuple[str, ...], size: int | tuple[int, int] | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments with which `create_model` builds a named model for these classes and images of this size.

    Arguments:
        name: as for `create_model`.
        classes: of the data.
        size: of the images, if requested.
        given: the user's own arguments, which take precedence.

    Example:
        >>> arguments_for("resnet18", ("cat", "dog"), 64, {})
        {'num_classes': 2}
        >>> arguments_for("torchvision/fasterrcnn_resnet50_fpn", ("cat", "dog"), (240, 320), {"box_nms_thresh": 0.6})
        {'num_classes': 3, 'min_size': 240, 'max_size': 320, 'box_nms_thresh': 0.6}
    """
    library, _, short = name.rpartition("/")
    if library == "transformers":
        named = {"id2label": dict(enumerate(classes)), "label2id": {each: n for n, each in enumerate(classes)}}
        config = given.get("config", {})
        fields = config if isinstance(config, dict) else config.to_dict() if hasattr(config, "to_dict") else None
        if fields is None:
            return dict(given)  # create_model will report what is wrong with it
        own = "id2label" in fields or "num_labels" in fields
        return {**given, "config": fields if own else fields | named}
    kind = _detector(short) if library == "torchvision" else ""
    if not kind:
        return {"num_classes": len(classes), **given}
    arguments = {"num_classes": len(classes) + (kind in _WITH_BACKGROUND)}
    if size is not None and kind not in _OF_ONE_SIZE:  # so that the model has nothing to resize
        sides = size if isinstance(size, tuple) else (size, size)
        arguments |= {"min_size": min(sides), "max_size": max(sides)}
    return {**arguments, **given}


def _detector(short: str) -> str:
    """The module of a torchvision detector, such as `"faster_rcnn"`; empty for any other or unknown model."""
    try:
        module = get_model_builder(short).__module__
    except ValueError:
        return ""
    package, _, kind = module.rpartition(".")
    return kind if package == "torchvision.models.detection" else ""


_WITH_BACKGROUND = ("faster_rcnn", "mask_rcnn", "keypoint_rcnn", "ssd", "ssdlite")  # must agree with `keeps_background`
_OF_ONE_SIZE = ("ssd", "ssdlite")


def draws_masks(model: nn.Module) -> bool:
    """Does this detector learn a mask for each box?"""
    heads = getattr(plain_model(model), "roi_heads", None)
    return heads is not None and bool(heads.has_mask())


def _of_timm(model: nn.Module) -> Wanted:
    named = bool(getattr(model, "pretrained_cfg", None))
    told: dict[str, Any] = resolve_model_data_config(model) if named else resolve_data_config({"in_chans": 3})
    return Wanted(told["input_size"][-1], told["mean"], told["std"], told["interpolation"], told["crop_pct"], "crop")


def _of_a_detector(model: nn.Module) -> Wanted:
    known = detector_of(model)
    if known is not None and known.library == "torchvision" and hasattr(model, "transform"):
        return _of_torchvision(model)
    if known is not None and known.library == "transformers":
        return _of_a_processor(model) or Wanted(_USUAL, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    raise DataError(
        f"the data has boxes, but a {type(model).__name__} is not a detector with a known format of boxes: "
        "expected one of torchvision, such as torchvision/fcos_resnet50_fpn, or a class of transformers that ends with "
        "ForObjectDetection; train any other in Python, ad.train(net, loader, task=...)"
    )


def _of_torchvision(model: nn.Module) -> Wanted:
    """It normalises images itself; they come in its size, so that nothing is left to resize."""
    if getattr(getattr(model, "roi_heads", None), "has_keypoint", bool)():
        raise DataError(
            f"a {type(model).__name__} learns keypoints, which the command line cannot read: train it in Python, "
            "ad.train(net, loader)"
        )
    resizes: Any = model.transform
    if resizes.fixed_size is not None:
        width, height = resizes.fixed_size
        return Wanted((height, width), _ZEROS, _ONES, only=(height, width))
    # It pads with zeros after normalising, so with the mean before that.
    return Wanted(resizes.min_size[-1], _ZEROS, _ONES, resize="letterbox", fill=tuple(resizes.image_mean))


def _of_a_processor(model: Any) -> Wanted | None:
    """The defaults of a transformers model's image processor, but with one size, whatever the aspect ratio."""
    told = image_processor_of(model.config) if is_of_transformers(model) else None
    if told is None:
        return None
    own: Any = getattr(model.config, "image_size", None)  # of its positions
    sides: Any = tuple(own) if isinstance(own, list | tuple) else own
    if not sides:
        size = told.size or {}
        sides = size.get("height") or size.get("shortest_edge") or _USUAL
    normalised = told.do_normalize is not False and told.image_mean is not None
    mean, std = (told.image_mean or (), told.image_std or ()) if normalised else (_ZEROS, _ONES)
    return Wanted(sides, tuple(mean), tuple(std), told.resample.name.lower())
