"""Detectors as an exporter takes them: one tensor in, tensors out, without the suppression; and their meaning.

A detector of torchvision takes a list of images and returns a list of boxes whose number depends on the images, which
a graph cannot express. Its network with another forward (`exportable`) takes a batch of one size and returns boxes and
scores of all candidates; stages, weights and norms remain the network's own. Detectors of transformers return tensors
anyway.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

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
from .before_suppression import KINDS, BeforeSuppression, TwoSteps


def exportable(network: AdaptiveNetwork) -> AdaptiveNetwork:
    """The same network, whose outputs are tensors even if it is a detector; only its forward is replaced.

    Raises:
        ExportError: a detector with heads behind its suppression, or with code that is not torchvision's own.
    """
    model = network.model
    if answers_by_queries(model):
        return _with_forward(network, _map_of_queries)
    kind = next((kind for kind in KINDS if isinstance(model, kind)), None)
    if kind is None:
        return network
    forward = KINDS[kind]()
    forward.check(model)
    return _with_forward(network, forward)


def runnable(network: AdaptiveNetwork) -> AdaptiveNetwork:
    """The same network, whose outputs are tensors even if it is a detector: for this process, which runs any code.

    A detector that cannot be exported returns the objects: `boxes` `[batch, objects, 4]`, `scores` and `labels`
    `[batch, objects]`, padded with zeros.
    """
    found = detector_of(network.model)
    try:
        return exportable(network)
    except ExportError:
        if found is None or found.library != "torchvision":
            raise
        return _with_forward(network, _Found(found.lowest))


def suppresses_inside(network: AdaptiveNetwork) -> bool:
    """Whether it suppresses inside its graph, so that sizes there depend on the image.

    Arguments:
        network: what `exportable` returned.
    """
    return isinstance(_forward_of(network.model), TwoSteps)


def detections_of(network: AdaptiveNetwork, output: Any) -> Detections | None:
    """How the outputs become objects; None if it is not a detector.

    Arguments:
        network: what `exportable` returned.
        output: what it returned for any input.
    """
    model = network.model
    forward = _forward_of(model)
    if isinstance(forward, BeforeSuppression | _Found):
        return forward.detections(model)
    name = next((kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("transformers.")), "")
    if name not in _OF_TRANSFORMERS:
        return None
    queries = outputs_in(output)["logits"].shape[1]
    detections = _OF_TRANSFORMERS[name]
    chosen = detections.chosen or bool(getattr(model.config, "two_stage", False))
    return replace(detections, most=min(detections.most, queries), chosen=chosen)


def usual_outputs(network: AdaptiveNetwork, output: Any) -> tuple[str, ...] | None:
    """The names of the outputs that are needed; None if unknown.

    For a detector, those that objects are made of; for torchvision's segmentation networks, without the auxiliary head,
    which only serves training.
    """
    if (detections := detections_of(network, output)) is not None:
        return detections.outputs
    return ("out",) if isinstance(output, Mapping) and "out" in output and segments(network.model) else None


def usual_meanings(model: nn.Module) -> Meanings:
    """What outputs stand for, as far as a model's class implies it."""
    return {"": Meaning("classes")} if segments(model) else {}


def usual_preprocessing(model: nn.Module, size: tuple[int, int]) -> Preprocessing | None:
    """How images become the input of a detector or segmentation network, if its class implies it; None for others.

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
    """Height and width of the images that a detector or segmentation network expects; None for other models."""
    if (shown := _shown(model)) is None:
        return None
    size = wanted(model, shown).image_size
    return (size, size) if isinstance(size, int) else size


def _shown(model: nn.Module) -> str | None:
    """What the network predicts for images, in the terms of data sets, if its class implies it."""
    if detector_of(model) is not None:
        return "boxes"
    return "masks" if segments(model) else None


def class_names(model: Any) -> tuple[str, ...]:
    """The classes named in the config of a transformers model, in the order of its outputs; otherwise none."""
    names = getattr(getattr(model, "config", None), "id2label", None) if is_of_transformers(model) else None
    if not names or any(name == f"LABEL_{number}" for number, name in names.items()):
        return ()
    return tuple(str(names.get(number, number)) for number in range(max(names) + 1))


# -- before the suppression -----------------------------------------------------------------------------------------


def _with_forward(network: AdaptiveNetwork, forward: Any) -> AdaptiveNetwork:
    """The same network with another forward for its model."""

    def forward_of(model: nn.Module, x: Tensor) -> Any:
        return forward(model, x)

    forward_of.__wrapped__ = forward  # type: ignore[attr-defined] for _forward_of
    model = twin(network.model)
    model.__dict__["forward"] = MethodType(forward_of, model)
    other: Any = twin(network)
    other._modules["model"] = model
    state = other.__getstate__()  # without the sub-networks of the other forward
    other.__dict__.clear()
    other.__setstate__(state)
    return other


def _forward_of(model: nn.Module) -> Any:
    """The other forward of a model, if it has one."""
    return getattr(vars(model).get("forward"), "__wrapped__", None)


def _map_of_queries(model: Any, x: Tensor) -> dict[str, Tensor]:
    """For a model with query and mask logits: `out` `[batch, classes, height, width]`, logits of each position."""
    # The class's forward: the instance's is this function.
    found = type(model).forward(model, x)
    return {"out": semantic_map(found.class_queries_logits, found.masks_queries_logits)}


class _Found:
    """The forward of any detector including its suppression, its lists padded.

    Arguments:
        first: the number of the first class.
    """

    def __init__(self, first: int) -> None:
        self.first = first

    def __call__(self, model: Any, x: Tensor) -> dict[str, Tensor]:
        # The class's forward: the instance's is this function.
        found = type(model).forward(model, [*x])
        most = max(len(each["scores"]) for each in found)

        def filled(name: str) -> Tensor:
            parts = [each[name] for each in found]
            return torch.stack([torch.cat([part, part.new_zeros(most - len(part), *part.shape[1:])]) for part in parts])

        return {name: filled(name) for name in ("boxes", "scores", "labels")}

    def detections(self, model: Any) -> Detections:
        """Its outputs are the objects already."""
        # The limit is unknown, so a high one.
        most = getattr(getattr(model, "roi_heads", model), "detections_per_img", 1 << 20)
        return Detections(labels="labels", threshold=0.0, overlap=None, most=most, first=self.first)


_SET = Detections("pred_boxes", "logits", box_format="centres", activation="softmax", one_class=True, threshold=0.5,
                  overlap=None, most=1 << 20)  # fmt: skip
_HUNDRED = replace(_SET, activation="sigmoid", one_class=False, most=100)
_CHOSEN = replace(_HUNDRED, most=1 << 20, chosen=True)

# As the image processors of transformers post-process the outputs.
_OF_TRANSFORMERS = {
    **dict.fromkeys(("DetrForObjectDetection", "YolosForObjectDetection", "TableTransformerForObjectDetection"), _SET),
    **dict.fromkeys(
        ("ConditionalDetrForObjectDetection", "DeformableDetrForObjectDetection", "DabDetrForObjectDetection"), _HUNDRED
    ),
    **dict.fromkeys(("RTDetrForObjectDetection", "RTDetrV2ForObjectDetection", "DFineForObjectDetection"), _CHOSEN),
}
