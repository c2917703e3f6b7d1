"""The body of a detector or of a segmentation network: what provides features to the rest, and is split by default.

It is recognised by its class if a library defines it, even inside a custom model; else by its name.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from timm.models._features import FeatureDictNet, FeatureGetterNet, FeatureHookNet
from torch import nn
from torch.utils._pytree import tree_leaves
from torchvision.models._utils import IntermediateLayerGetter

from ..dense import DETECTION, SEGMENTATION
from ..errors import StagesError
from ..modes import evaluating, without_fast_paths
from .calls import fresh
from .plan import Run

WHOLE = ("",)  # search the whole model for stages
Within = str | Sequence[str] | None
LIBRARIES = ("torchvision.models.", "timm.", "transformers.", "segmentation_models_pytorch.")
_CLASSIFIERS = ("torchvision.models.", "timm.models.")
_FEATURES = (IntermediateLayerGetter, FeatureDictNet, FeatureHookNet, FeatureGetterNet)
_LOADED = (  # classes of libraries that this one does not import
    ("transformers.backbone_utils", "BackboneMixin"),
    ("segmentation_models_pytorch.encoders._base", "EncoderMixin"),
    ("segmentation_models_pytorch.encoders.timm_universal", "TimmUniversalEncoder"),
    ("segmentation_models_pytorch.encoders.timm_vit", "TimmViTEncoder"),
)
_HELD_AT = {  # the name of the complete network inside a wrapper that only selects its features
    "FeatureGetterNet": "model",
    "FeatureHookNet": "body",
    "TimmUniversalEncoder": "model",
    "TimmViTEncoder": "model",
    "TimmBackbone": "_backbone",
}


def searched(model: nn.Module, within: Within = None) -> tuple[str, ...]:
    """The paths below which to look for stages.

    Arguments:
        model: any.
        within: as for `adapt`.

    Raises:
        StagesError: a path that the model does not have, or paths that overlap.

    Example:
        >>> import torchvision
        >>> searched(torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None))
        ('backbone',)
        >>> searched(torchvision.models.resnet18())
        ('',)
    """
    if within is None:
        return bodies_of(model) or WHOLE
    paths = (within,) if isinstance(within, str) else tuple(within) if isinstance(within, Sequence) else ()
    if not paths or not all(isinstance(path, str) for path in paths):
        raise StagesError(f"within={within!r}: expected the path of a module such as 'backbone.body', or several")
    # Includes all paths of a shared module, because a user may name any.
    known = dict(model.named_modules(remove_duplicate=False))
    names = {id(part): path for path, part in model.named_modules()}  # the first path of a module at two places
    for path in paths:
        if path not in known:
            near = get_close_matches(path, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(_children(model))}"
            raise StagesError(f"within={path!r}, which {type(model).__name__} does not have: {hint}")
        # With the dots, so that "layer1" does not contain "layer10".
        outer = next((other for other in paths if other != path and f"{path}.".startswith(f"{other}.")), None)
        outer = "" if "" in paths and path else outer
        if outer is not None or paths.count(path) > 1:
            raise StagesError(f"within={within!r}: {path!r} lies inside {outer or path!r}; name one of them")
    return tuple(names[id(known[path])] for path in paths)


def bodies_of(model: nn.Module) -> tuple[str, ...]:
    """The paths of a model's body, or of its bodies; none if it is a classifier, or a body itself.

    Example:
        >>> import torchvision
        >>> bodies_of(torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights_backbone=None))
        ('backbone',)
    """
    # A custom subclass of a library's detector also counts.
    origins = [kind.__module__ for kind in type(model).__mro__]
    dense = any(origin.startswith((DETECTION, SEGMENTATION)) for origin in origins)
    if _hands_out_features(model) or (origins[0].startswith(_CLASSIFIERS) and not dense):
        return ()
    if found := tuple(_outermost(model)):
        return found
    if origins[0].startswith("transformers."):
        return ()
    name = "encoder" if any(origin.startswith("segmentation_models_pytorch.") for origin in origins) else "backbone"
    body = model._modules.get(name)
    if body is None or not any(True for _ in body.parameters()):
        return ()
    # The FPN is next to the `body` in torchvision's backbones, and is not split.
    return (f"{name}.body",) if isinstance(body._modules.get("body"), nn.Module) else (name,)


def held_at(module: nn.Module) -> str | None:
    """The name of the network inside a body that only wraps one; None for all others."""
    name = _HELD_AT.get(type(module).__name__)
    return name if _hands_out_features(module) and name in module._modules else None


def _hands_out_features(module: nn.Module) -> bool:
    # A library that was not imported cannot have defined the module; `isinstance(x, ())` is False.
    loaded = (getattr(sys.modules.get(place), name, ()) for place, name in _LOADED)
    return isinstance(module, (*_FEATURES, *(kind for kind in loaded if isinstance(kind, type))))


def _outermost(model: nn.Module, path: str = "") -> Iterator[str]:
    for name, child in model.named_children():
        if _hands_out_features(child):
            yield f"{path}{name}"
        else:
            yield from _outermost(child, f"{path}{name}.")


def check_one_part(model: nn.Module, runs: Sequence[Run], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check that the stages of a detector with an unknown body lie in one part.

    Arguments:
        model: a custom one, in which these runs were found.
        runs: all of them.
        args, kwargs: an input, on which it runs again if the runs lie in several parts.

    Raises:
        StagesError: it is a detector, and they lie in several parts.
    """
    parts = list(dict.fromkeys(path.partition(".")[0] for run in runs for path in run.blocks))
    if len(parts) == 1:
        return
    with evaluating(model), torch.no_grad(), without_fast_paths():
        own_args, own_kwargs = fresh(args, kwargs)
        output = model(*own_args, **own_kwargs)
    if returns_boxes(output):
        raise StagesError(
            f"{type(model).__name__} returns boxes, so it is a detector, and has residual stages in several parts "
            f"({', '.join(parts)}): its body is unknown; name it, within={parts[0]!r}, or use within='' "
            "to split all of them"
        )


def returns_boxes(output: Any) -> bool:
    """Is it a detector's output: something named boxes, for each image or for all?

    Example:
        >>> returns_boxes([{"boxes": 1, "labels": 2}]), returns_boxes({"pred_boxes": 1}), returns_boxes({"out": 1})
        (True, True, False)
    """
    mappings = tree_leaves(output, is_leaf=lambda value: isinstance(value, Mapping))
    names = [str(name) for each in mappings if isinstance(each, Mapping) for name in each]
    return any("boxes" in name for name in [*names, *getattr(output, "__dataclass_fields__", ())])


def _children(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_children()]
