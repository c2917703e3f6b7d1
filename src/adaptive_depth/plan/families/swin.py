"""Swin transformers of torchvision and timm: four stages of windowed blocks with a patch merging between them."""

from collections.abc import Sequence
from itertools import pairwise

import timm.models.swin_transformer
import torchvision.models.swin_transformer
from timm.models._features import FeatureDictNet
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter

from ..norms import norms_inside
from ..plan import Run
from ..registry import family


@family("swin")
def swin_runs(model: nn.Module) -> list[Run] | None:
    """Doubled: both LayerNorms of each mandatory block, and that of the patch merging before the stage."""
    found = _of_torchvision(model) or _of_timm(model)
    if found is None:
        return None
    runs = []
    for number, (container, merging) in enumerate(found, 1):
        blocks = tuple(f"{container}.{name}" for name, _ in model.get_submodule(container).named_children())
        before = norms_inside(model, [] if merging is None else [merging])

        # A default, because the loop changes `before`.
        def norms(mandatory: Sequence[str], before: Sequence[str] = before) -> list[str]:
            return [*before, *norms_inside(model, mandatory)]

        runs.append(Run(blocks, norms, f"stage{number}", channel_dim=-1))
    return runs


_Stages = list[tuple[str, str | None]]  # the containers of the blocks, and the patch merging before each


def _of_torchvision(model: nn.Module) -> _Stages | None:
    """The stages of torchvision's class, or of its `features` alone, even with several outputs."""
    of = torchvision.models.swin_transformer
    whole = isinstance(model, of.SwinTransformer)
    # Exactly these types, because a subclass may have its own forward.
    if not (whole or type(model) in (nn.Sequential, IntermediateLayerGetter)):
        return None
    prefix, parts = ("features.", model.features) if whole else ("", model)
    named = [(f"{prefix}{name}", part) for name, part in parts.named_children()]
    stages: _Stages = []
    for (before, merging), (path, part) in pairwise([("", nn.Module()), *named]):
        blocks = list(part) if isinstance(part, nn.Sequential) else []
        if blocks and all(isinstance(block, of.SwinTransformerBlock) for block in blocks):
            stages.append((path, before if isinstance(merging, of.PatchMerging | of.PatchMergingV2) else None))
    return stages or None


def _of_timm(model: nn.Module) -> _Stages | None:
    """The stages of timm's class, or of its renamed layers in a model that returns several of their outputs."""
    of = timm.models.swin_transformer
    if isinstance(model, of.SwinTransformer):
        layers = [f"layers.{name}" for name, _ in model.layers.named_children()]
    elif isinstance(model, FeatureDictNet):
        layers = [name for name, part in model.named_children() if isinstance(part, of.SwinTransformerStage)]
    else:
        return None
    # The first stage's `downsample` is an Identity, which adds no norm.
    return [(f"{layer}.blocks", f"{layer}.downsample") for layer in layers] or None
