"""Vision transformers of torchvision and timm: one run of encoder blocks, divided into groups."""

import timm.models.vision_transformer
import torchvision.models.vision_transformer
from torch import nn

from ..plan import Run
from ..registry import family


@family("vit")
def vit_runs(model: nn.Module) -> list[Run] | None:
    """Doubled: both LayerNorms of each mandatory block; not the final one. ViT-B: 4 groups of 2 + 1 blocks."""
    if isinstance(model, torchvision.models.vision_transformer.VisionTransformer):
        path = "encoder.layers"
    elif isinstance(model, timm.models.vision_transformer.VisionTransformer):
        path = "blocks"
    else:
        return None
    blocks = tuple(f"{path}.{name}" for name, _ in model.get_submodule(path).named_children())
    return [Run(blocks, name="blocks", channel_dim=-1, flat=True)]
