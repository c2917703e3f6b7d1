"""The ResNet family of torchvision and timm: stages layer1 to layer4 of residual blocks."""

import timm.models.resnet
import torchvision.models.resnet
from torch import nn

from .plan import Stage, Stages, cut
from .registry import family

_RESNETS = (torchvision.models.resnet.ResNet, timm.models.resnet.ResNet)


@family("resnet")
def resnet_stages(model: nn.Module) -> Stages | None:
    """Doubled: the norms bn1, bn2, bn3 of each mandatory block; not the stem's, not the shortcut's."""
    if not isinstance(model, _RESNETS):
        return None
    stages = []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        layer = model.get_submodule(name)
        blocks = [f"{name}.{child}" for child, _ in layer.named_children()]
        if len(blocks) < 2:  # a single block is all mandatory: there is nothing to skip
            continue
        mandatory, skippable = cut(blocks)
        norms = tuple(
            f"{block}.{norm}"
            for block in mandatory
            for norm in ("bn1", "bn2", "bn3")
            if hasattr(model.get_submodule(block), norm)
        )
        stages.append(Stage(mandatory, skippable, norms, name))
    return Stages(tuple(stages))
