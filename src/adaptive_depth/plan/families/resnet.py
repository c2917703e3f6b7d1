"""The ResNet family of torchvision and timm: stages layer1 to layer4 of residual blocks."""

from collections.abc import Sequence
from functools import partial

import timm.models.resnet
import torchvision.models.resnet
from torch import nn

from ..norms import norms_inside
from ..plan import Run
from ..registry import family

_RESNETS = (torchvision.models.resnet.ResNet, timm.models.resnet.ResNet)


@family("resnet")
def resnet_runs(model: nn.Module) -> list[Run] | None:
    """Doubled: the norms of each mandatory block (bn1, bn2, bn3); not the stem's, not those of the shortcut."""
    if not isinstance(model, _RESNETS):
        return None
    norms = partial(_norms, model)
    return [
        Run(tuple(f"{name}.{child}" for child, _ in model.get_submodule(name).named_children()), norms, name)
        for name in ("layer1", "layer2", "layer3", "layer4")
    ]


def _norms(model: nn.Module, mandatory: Sequence[str]) -> list[str]:
    return [norm for norm in norms_inside(model, mandatory) if ".downsample." not in norm]
