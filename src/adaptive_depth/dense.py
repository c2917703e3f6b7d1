"""Facts about torchvision's detectors and segmentation networks: how they are built, and how they differ."""

from typing import Any

import torchvision
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

DETECTION, SEGMENTATION = "torchvision.models.detection.", "torchvision.models.segmentation."
FROZEN = "frozen_norms"  # an argument of `create_model`
_BUILDERS = {  # prefixes of the names of their builders, by class
    "FasterRCNN": ("fasterrcnn_",),
    "MaskRCNN": ("maskrcnn_",),
    "KeypointRCNN": ("keypointrcnn_",),
    "RetinaNet": ("retinanet_",),
    "FCOS": ("fcos_",),
    "SSD": ("ssd300_", "ssdlite320_"),
    "FCN": ("fcn_",),
    "DeepLabV3": ("deeplabv3_",),
    "LRASPP": ("lraspp_",),
}
_SAID_AT = (  # attributes that reveal arguments of the builder
    ("roi_heads.box_predictor.cls_score.out_features", "num_classes"),
    ("roi_heads.keypoint_predictor.kps_score_lowres.out_channels", "num_keypoints"),
    ("head.classification_head.num_classes", "num_classes"),
    ("head.classification_head.num_columns", "num_classes"),
    ("classifier.low_classifier.out_channels", "num_classes"),
    ("classifier.4.out_channels", "num_classes"),
)


def is_detector(model: nn.Module) -> bool:
    """Is it a detector of torchvision, which takes a list of images?"""
    return type(model).__module__.startswith(DETECTION) and hasattr(model, "transform")


def freeze_norms(model: Any, eps: float | None) -> None:
    """Freeze the BatchNorms in a detector's body, as with torchvision's trained weights; not if `eps` is None."""
    if eps is None:
        return
    for module in list(model.backbone.body.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(child.num_features, float(eps)).to(child.weight)
                frozen.load_state_dict(child.state_dict())
                module._modules[name] = frozen


def brought_along(model: nn.Module) -> dict[str, Any]:
    """What torchvision builds differently with trained weights: frozen norms in a detector's body, a second head for
    the loss of a segmentation network.

    Example:
        >>> from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large
        >>> brought_along(deeplabv3_mobilenet_v3_large(weights_backbone=None, aux_loss=True))
        {'aux_loss': True}
    """
    body = _reached(model, "backbone.body")
    parts = body.modules() if isinstance(body, nn.Module) else ()
    frozen = next((part for part in parts if isinstance(part, FrozenBatchNorm2d)), None)
    second_head = _reached(model, "aux_classifier") is not None
    return ({} if frozen is None else {FROZEN: frozen.eps}) | ({"aux_loss": True} if second_head else {})


def builders_of(model: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments that may build a detector or a segmentation network; none for all others."""
    kind, module = type(model).__name__, type(model).__module__
    if not module.startswith((DETECTION, SEGMENTATION)) or kind not in _BUILDERS:
        return []
    names = [name for name in torchvision.models.list_models() if name.startswith(_BUILDERS[kind])]
    said = {name: value for path, name in _SAID_AT if (value := _reached(model, path)) is not None}
    arguments = brought_along(model) | said
    sizes = {name: _reached(model, f"transform.{name}") for name in ("min_size", "max_size")}
    further = [sizes] if kind != "SSD" and None not in sizes.values() else []
    return [(name, arguments | more) for name in names for more in ({}, *further)]


def same_options(built: nn.Module, model: nn.Module) -> bool:
    """Does a detector choose boxes as another one does? `repr` does not show, for example, how many are kept."""
    return not is_detector(model) or _options(built) == _options(model)


def _options(model: nn.Module) -> dict[str, dict[str, Any]]:
    return {
        path: {name: each for name, each in vars(part).items() if name != "training" and _is_plain(each)}
        for path, part in model.named_modules()
    }


def _is_plain(value: Any) -> bool:
    """Plain values and lists of them: anchors, kept in lists of tensors, are derived from plain values."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | None)


def _reached(model: Any, path: str) -> Any:
    """The value at the end of a path of attributes; None if one is missing."""
    for name in path.split("."):
        model = getattr(model, name, None)
    return model
