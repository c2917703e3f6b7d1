"""The ResNet family of torchvision and timm: stages layer1 to layer4 of residual blocks."""

import timm.models.resnet
import torchvision.models.resnet
from torch import nn

from .checks import norms_inside
from .plan import Stage, Stages, cut
from .registry import family

_RESNETS = (torchvision.models.resnet.ResNet, timm.models.resnet.ResNet)


@family("resnet")
def resnet_stages(model: nn.Module) -> Stages | None:
    """Doubled: the norms of each mandatory block (bn1, bn2, bn3); not the stem's, not those of the shortcut."""
    if not isinstance(model, _RESNETS):
        return None
    stages = []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        layer = model.get_submodule(name)
        blocks = [f"{name}.{child}" for child, _ in layer.named_children()]
        if len(blocks) < 2:  # a single block is all mandatory: there is nothing to skip
            continue
        mandatory, skippable = cut(blocks)
        norms = tuple(norm for norm in norms_inside(model, mandatory) if ".downsample." not in norm)
        stages.append(Stage(mandatory, skippable, norms, name))
    return Stages(tuple(stages))
