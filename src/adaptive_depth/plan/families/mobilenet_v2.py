"""MobileNetV2 of torchvision and timm: a stage is a block without a shortcut and the following ones with one."""

from collections.abc import Sequence

import timm.models.efficientnet
import torchvision.models.mobilenetv2
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import Conv2dNormActivation

from ..norms import norms_inside
from ..plan import Run
from ..registry import family


@family("mobilenet_v2")
def mobilenet_v2_runs(model: nn.Module) -> list[Run] | None:
    """Doubled: every norm of a mandatory block; and those of the stem, of the single-block stages at both ends, and of
    the final 1 x 1 convolution, with the flag of the first stage before it and of the last one after it. A body may
    lack the final convolution."""
    blocks = _blocks(model)
    if blocks is None:
        return None
    groups: list[list[str]] = []
    for path, has_shortcut in blocks:
        if has_shortcut and groups:
            groups[-1].append(path)
        else:
            groups.append([path])
    stages = [group for group in groups if len(group) > 1]
    if not stages:
        return []
    inside = {norm for path, _ in blocks for norm in norms_inside(model, [path])}
    every = norms_inside(model, [name for name, _ in model.named_children()])
    first = next(place for place, norm in enumerate(every) if norm in inside)
    stem, head = every[:first], [norm for norm in every[first:] if norm not in inside]
    singles = [group[0] for group in groups if len(group) == 1]
    order = [path for path, _ in blocks]
    before = [path for path in singles if order.index(path) < order.index(stages[0][0])]
    behind = [path for path in singles if order.index(path) > order.index(stages[-1][-1])]
    runs = []
    for stage in stages:
        first = [*stem, *norms_inside(model, before)] if stage is stages[0] else []
        last = [*norms_inside(model, behind), *head] if stage is stages[-1] else []

        # Defaults, because the loop changes `first` and `last`.
        def norms(mandatory: Sequence[str], first: Sequence[str] = first, last: Sequence[str] = last) -> list[str]:
            return [*first, *norms_inside(model, mandatory), *last]

        runs.append(Run(tuple(stage), norms, f"stage{len(runs) + 1}"))
    return runs


def _blocks(model: nn.Module) -> list[tuple[str, bool]] | None:
    """The path of each inverted residual, and whether it adds its input; None for other models."""
    if isinstance(model, torchvision.models.mobilenetv2.MobileNetV2):
        return [(f"features.{name}", has_shortcut) for name, has_shortcut in _in_features(model.features)]
    if _is_body(model):
        return _in_features(model)
    if isinstance(model, timm.models.efficientnet.EfficientNet | timm.models.efficientnet.EfficientNetFeatures):
        paths = [f"blocks.{name}" for name, module in model.blocks.named_modules() if type(module) in _KINDS]
        if paths and all(_is_plain(model.get_submodule(path)) for path in paths):
            return [(path, bool(model.get_submodule(path).has_skip)) for path in paths]
    return None


def _in_features(features: nn.Module) -> list[tuple[str, bool]]:
    """The blocks in the `features` of torchvision's class, a Sequential."""
    return [
        (name, block.use_res_connect)
        for name, block in features.named_children()
        if isinstance(block, torchvision.models.mobilenetv2.InvertedResidual)
    ]


def _is_body(model: nn.Module) -> bool:
    """Is it the `features` of torchvision's class alone, or their beginning with several outputs?"""
    # Exactly these types, because a subclass may have its own forward.
    parts = list(model.children()) if type(model) in (nn.Sequential, IntermediateLayerGetter) else []
    kinds = (Conv2dNormActivation, torchvision.models.mobilenetv2.InvertedResidual)
    return bool(parts) and all(isinstance(part, kinds) for part in parts) and bool(_in_features(model))


_KINDS = (InvertedResidual, DepthwiseSeparableConv)  # timm's first block is of the second kind


def _is_plain(block: nn.Module) -> bool:
    """An inverted residual with ReLU6 and without squeeze-and-excitation: MobileNetV2's, not EfficientNet's."""
    return isinstance(block.se, nn.Identity) and any(isinstance(part, nn.ReLU6) for part in block.modules())
