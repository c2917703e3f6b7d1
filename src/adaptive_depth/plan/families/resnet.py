"""The ResNet family of torchvision and timm: stages layer1 to layer4 of residual blocks."""

from collections.abc import Sequence
from functools import partial

import timm.models.resnet
import torchvision.models.resnet
from timm.models._features import FeatureDictNet
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter

from ..norms import norms_inside
from ..plan import Run
from ..registry import family

_RESNETS = (torchvision.models.resnet.ResNet, timm.models.resnet.ResNet)
_LAYERS = ("layer1", "layer2", "layer3", "layer4")
_BLOCKS = {f"timm.models.{name}" for name in ("resnet", "resnest", "res2net", "sknet")} | {"torchvision.models.resnet"}


@family("resnet")
def resnet_runs(model: nn.Module) -> list[Run] | None:
    """Doubled: the norms of each mandatory block (bn1, bn2, bn3); not the stem's, not those of the shortcut.

    A body may lack its last layers.
    """
    layers = [name for name in _LAYERS if name in model._modules] if isinstance(model, _RESNETS) else _in_body(model)
    if not layers:
        return None
    norms = partial(_norms, model)
    return [
        Run(tuple(f"{name}.{child}" for child, _ in model.get_submodule(name).named_children()), norms, name)
        for name in layers
    ]


def _in_body(model: nn.Module) -> list[str]:
    """The layers of a ResNet in a body that returns the output of the last one or of several."""
    # Exactly a Sequential, because a subclass may have its own forward.
    if not (isinstance(model, IntermediateLayerGetter | FeatureDictNet) or type(model) is nn.Sequential):
        return []
    parts = [(name, part) for name, part in model.named_children() if isinstance(part, nn.Sequential) and len(part)]
    # Recognised by module, because ResNets have many classes of blocks.
    return [name for name, part in parts if all(type(block).__module__ in _BLOCKS for block in part)]


def _norms(model: nn.Module, mandatory: Sequence[str]) -> list[str]:
    return [norm for norm in norms_inside(model, mandatory) if ".downsample." not in norm]
