"""Swin transformers of torchvision and timm: four stages of windowed blocks with a patch merging between them."""

from collections.abc import Sequence

import timm.models.swin_transformer
import torchvision.models.swin_transformer
from torch import nn

from ..norms import norms_inside
from ..plan import Run
from ..registry import family


@family("swin")
def swin_runs(model: nn.Module) -> list[Run] | None:
    """Doubled: both LayerNorms of each mandatory block, and that of the patch merging before the stage."""
    if isinstance(model, torchvision.models.swin_transformer.SwinTransformer):
        parts = [(f"features.{name}", part) for name, part in model.features.named_children()]
        containers = [path for path, part in parts[1:] if isinstance(part, nn.Sequential)]
        paths = [path for path, _ in parts]
        merging = {path: paths[paths.index(path) - 1] for path in containers[1:]}
    elif isinstance(model, timm.models.swin_transformer.SwinTransformer):
        layers = [f"layers.{name}" for name, _ in model.layers.named_children()]
        containers = [f"{layer}.blocks" for layer in layers]
        merging = {f"{layer}.blocks": f"{layer}.downsample" for layer in layers}
    else:
        return None
    runs = []
    for number, container in enumerate(containers, 1):
        blocks = tuple(f"{container}.{name}" for name, _ in model.get_submodule(container).named_children())
        before = norms_inside(model, [merging[container]] if container in merging else [])

        def norms(mandatory: Sequence[str], before: Sequence[str] = before) -> list[str]:
            return [*before, *norms_inside(model, mandatory)]

        runs.append(Run(blocks, norms, f"stage{number}", channel_dim=-1))
    return runs
