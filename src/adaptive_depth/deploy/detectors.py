"""Detectors as an exporter takes them: one tensor in, tensors out, all but the suppression; and what these stand for.

A detector of torchvision takes a list of images and returns a list of boxes whose number depends on the images, which
no graph holds. Its network with another forward (`exportable`) takes a batch of one size and returns boxes and scores
of all candidates; all else, stages, weights and norms, is the network's own. Detectors of transformers return tensors
anyway.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import clip_boxes_to_image

from ..batches import outputs_in
from ..core.network import AdaptiveNetwork
from ..core.views import twin
from ..data.wanted import channels_of, wanted
from ..errors import ExportError
from ..hugging_face import is_of_transformers
from ..meaning import Detections, Meaning, Meanings
from ..preprocessing import Preprocessing
from ..tasks.detectors import detector_of
from ..tasks.segmentation import answers_by_queries, segments, semantic_map

_OWN = ("forward", "postprocess_detections")  # what a subclass of the user's may compute otherwise


def exportable(network: AdaptiveNetwork) -> AdaptiveNetwork:
    """The same network, whose outputs are tensors where it is a detector; it shares all but its forward.

    Raises:
        ExportError: a detector whose suppression stands in its middle; a subclass with a forward of its own.
    """
    model = network.model
    if isinstance(model, GeneralizedRCNN):
        raise ExportError(
            f"a {type(model).__name__} suppresses proposals in its middle, and how many are left depends on the image, "
            "so no graph of fixed sizes holds it: run it in torch, network(images, skip=...); or export a detector of "
            "one step, RetinaNet, FCOS, SSD or SSDlite, or one of transformers"
        )
    if answers_by_queries(model):
        return _with_forward(network, _map_of_queries)
    kind = next((kind for kind in _KINDS if isinstance(model, kind)), None)
    if kind is None:
        return network
    if own := [name for name in _OWN if getattr(type(model), name) is not getattr(kind, name) or name in vars(model)]:
        raise ExportError(
            f"{type(model).__name__} has a {own[0]} of its own, and what it does before its suppression is not known: "
            f"expected that of {kind.__name__}; or a model whose forward returns tensors"
        )
    return _with_forward(network, _BeforeSuppression(_KINDS[kind]))


def detections_of(network: AdaptiveNetwork, output: Any) -> Detections | None:
    """How the outputs become objects; None of what is no detector.

    Arguments:
        network: what `exportable` returned.
        output: what it returned for any input.
    """
    model = network.model
    forward = getattr(vars(model).get("forward"), "__wrapped__", None)
    if isinstance(forward, _BeforeSuppression):
        return forward.detections(model)
    name = next((kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("transformers.")), "")
    if name not in _OF_TRANSFORMERS:
        return None
    queries = outputs_in(output)["logits"].shape[1]
    detections = _OF_TRANSFORMERS[name]
    chosen = detections.chosen or bool(getattr(model.config, "two_stage", False))
    return replace(detections, most=min(detections.most, queries), chosen=chosen)


def usual_outputs(network: AdaptiveNetwork, output: Any) -> tuple[str, ...] | None:
    """The names of the outputs that are needed; None of a model of which that is not known.

    Of a detector those that objects are made of; of a segmentation network of torchvision not that of its second head,
    which is there for training.
    """
    if (detections := detections_of(network, output)) is not None:
        return detections.outputs
    return ("out",) if isinstance(output, Mapping) and "out" in output and segments(network.model) else None


def usual_meanings(model: nn.Module) -> Meanings:
    """What outputs stand for, as far as the class of a model says."""
    return {"": Meaning("classes")} if segments(model) else {}


def usual_preprocessing(model: nn.Module, size: tuple[int, int]) -> Preprocessing | None:
    """How images become the input of a detector or a segmentation network, as far as its class says; None of others.

    Arguments:
        size: height and width of the input in pixels.
    """
    if (shown := _shown(model)) is None:
        return None
    asked = wanted(model, shown)
    height, width = size
    return Preprocessing(
        width if height == width else size,
        channels_of(model),
        asked.mean,
        asked.std,
        asked.interpolation,
        resize=asked.resize,
        fill=asked.fill,
    )


def usual_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width of the images that a detector or a segmentation network wants; None of other models."""
    if (shown := _shown(model)) is None:
        return None
    size = wanted(model, shown).image_size
    return (size, size) if isinstance(size, int) else size


def _shown(model: nn.Module) -> str | None:
    """What the network says of images, as data sets name it, where its class tells."""
    if detector_of(model) is not None:
        return "boxes"
    return "masks" if segments(model) else None


def class_names(model: Any) -> tuple[str, ...]:
    """The classes that the config of a model of transformers names, in the order of its outputs; else none."""
    names = getattr(getattr(model, "config", None), "id2label", None) if is_of_transformers(model) else None
    if not names or any(name == f"LABEL_{number}" for number, name in names.items()):
        return ()
    return tuple(str(names.get(number, number)) for number in range(max(names) + 1))


# -- before the suppression -----------------------------------------------------------------------------------------


def _with_forward(network: AdaptiveNetwork, forward: Any) -> AdaptiveNetwork:
    """The same network with another forward of its model."""

    def forward_of(model: nn.Module, x: Tensor) -> Any:
        return forward(model, x)

    forward_of.__wrapped__ = forward  # type: ignore[attr-defined] so that it is found again
    model = twin(network.model)
    model.__dict__["forward"] = MethodType(forward_of, model)
    other: Any = twin(network)
    other._modules["model"] = model
    state = other.__getstate__()  # without the sub-networks of the other forward
    other.__dict__.clear()
    other.__setstate__(state)
    return other


def _map_of_queries(model: Any, x: Tensor) -> dict[str, Tensor]:
    """Of a model that compares queries with masks: `out` `[batch, classes, height, width]`, as logits of each place."""
    found = type(model).forward(model, x)
    return {"out": semantic_map(found.class_queries_logits, found.masks_queries_logits)}


class _Places:
    """What is the same for all images of one size.

    Attributes:
        image: height and width of an image, resized.
        anchors: `[candidates, 4]`, in pixels of that.
        levels: how many of them there are on each level of the pyramid.
    """

    def __init__(self, image: tuple[int, int], anchors: Tensor, levels: tuple[int, ...]) -> None:
        self.image, self.anchors, self.levels = image, anchors, levels


class _BeforeSuppression:
    """The forward of a detector of one step, up to its suppression: `[batch, 3, height, width]`, pixels from 0 to 1, to
    `boxes` `[batch, candidates, 4]` in pixels of the input and `scores` `[batch, candidates, classes]`.

    The detector's own resizing and normalising are in it.

    Arguments:
        decode: (model, outputs of its heads, anchors of each image, one after the other) → boxes, scores.
    """

    def __init__(self, kind: "_Kind") -> None:
        self.kind = kind
        self._places: dict[tuple[Any, ...], _Places] = {}  # not a part of a graph: made once, by the first input

    def __call__(self, model: Any, x: Tensor) -> dict[str, Tensor]:
        if x.ndim != 4 or x.shape[1] != 3:
            raise ExportError(f"{type(model).__name__} received {list(x.shape)}: expected [batch, 3, height, width]")
        size = (x.shape[2], x.shape[3])
        image, padded = _sizes(model.transform, *size)
        images = model.transform.normalize(x)
        if image != size:
            images = nn.functional.interpolate(images, size=image, mode="bilinear", align_corners=False)
        if padded != image:
            images = nn.functional.pad(images, (0, padded[1] - image[1], 0, padded[0] - image[0]))
        features = model.backbone(images)
        features = [features] if isinstance(features, Tensor) else list(features.values())
        heads = model.head(features)
        places = self._at(model, images, image, features)
        boxes, scores = self.kind.decode(model, heads, places.anchors)
        boxes = clip_boxes_to_image(boxes, image)
        if image != size:
            height, width = (before / after for before, after in zip(size, image, strict=True))
            boxes = boxes * torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
        return {"boxes": boxes, "scores": scores}

    def _at(self, model: Any, images: Tensor, image: tuple[int, int], features: list[Tensor]) -> _Places:
        sizes = tuple(tuple(level.shape[2:]) for level in features)
        key = (image, tuple(images.shape[2:]), sizes, images.device, images.dtype)
        if key not in self._places:
            one = ImageList(images[:1], [image])
            (anchors,) = model.anchor_generator(one, features)
            cells = [height * width for height, width in sizes]
            levels = tuple(cell * len(anchors) // sum(cells) for cell in cells) if self.kind.by_level else ()
            self._places[key] = _Places(image, anchors.detach().clone(), levels)
        return self._places[key]

    def detections(self, model: Any) -> Detections:
        """Of the size that ran last."""
        return Detections(
            threshold=model.score_thresh,
            overlap=model.nms_thresh,
            most=model.detections_per_img,
            candidates=model.topk_candidates,
            levels=[*self._places.values()][-1].levels,
            first=self.kind.first,
        )


def _sizes(transform: Any, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width to which a detector resizes an image, and to which it pads it then."""
    one = torch.empty(3, height, width, device="meta")
    resized, _ = transform.resize(one, None)
    image = (resized.shape[1], resized.shape[2])
    padded = transform.batch_images([resized], size_divisible=transform.size_divisible)
    return image, (padded.shape[2], padded.shape[3])


class _Kind:
    """What is a detector's own.

    Arguments:
        decode: (model, outputs of its heads, anchors `[candidates, 4]`) → boxes and scores of a batch.
        by_level: are candidates picked from each level of the pyramid? Else of each class.
        first: the number of the first class.
    """

    def __init__(self, decode: Callable[[Any, Any, Tensor], tuple[Tensor, Tensor]], *, by_level: bool, first: int = 0):
        self.decode, self.by_level, self.first = decode, by_level, first


def _decoded(model: Any, codes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes `[batch, candidates, 4]` of what a head says of each anchor."""
    every = anchors.expand(codes.shape[0], -1, -1).reshape(-1, 4)
    return model.box_coder.decode_single(codes.reshape(-1, 4), every).reshape(codes.shape)


def _of_retinanet(model: Any, heads: dict[str, Tensor], anchors: Tensor) -> tuple[Tensor, Tensor]:
    return _decoded(model, heads["bbox_regression"], anchors), heads["cls_logits"].sigmoid()


def _of_fcos(model: Any, heads: dict[str, Tensor], anchors: Tensor) -> tuple[Tensor, Tensor]:
    scores = torch.sqrt(heads["cls_logits"].sigmoid() * heads["bbox_ctrness"].sigmoid())
    return model.box_coder.decode(heads["bbox_regression"], anchors), scores


def _of_ssd(model: Any, heads: dict[str, Tensor], anchors: Tensor) -> tuple[Tensor, Tensor]:
    scores = heads["cls_logits"].softmax(-1)[..., 1:]  # the first class is the background
    return _decoded(model, heads["bbox_regression"], anchors), scores


_KINDS: dict[Any, _Kind] = {
    RetinaNet: _Kind(_of_retinanet, by_level=True),
    FCOS: _Kind(_of_fcos, by_level=True),
    SSD: _Kind(_of_ssd, by_level=False, first=1),
}

_SET = Detections("pred_boxes", "logits", box_format="centres", activation="softmax", one_class=True, threshold=0.5,
                  overlap=None, most=1 << 20)  # fmt: skip
_HUNDRED = replace(_SET, activation="sigmoid", one_class=False, most=100)
_CHOSEN = replace(_HUNDRED, most=1 << 20, chosen=True)

# What the image processors of transformers make of the outputs.
_OF_TRANSFORMERS = {
    **dict.fromkeys(("DetrForObjectDetection", "YolosForObjectDetection", "TableTransformerForObjectDetection"), _SET),
    **dict.fromkeys(
        ("ConditionalDetrForObjectDetection", "DeformableDetrForObjectDetection", "DabDetrForObjectDetection"), _HUNDRED
    ),
    **dict.fromkeys(("RTDetrForObjectDetection", "RTDetrV2ForObjectDetection", "DFineForObjectDetection"), _CHOSEN),
}
