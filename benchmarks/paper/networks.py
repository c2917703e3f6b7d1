"""The networks of the page: small forms of the paper's four families, at a setting's widths, cut by the library."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from setting import Setting
from torch import nn
from torchvision.models import MobileNetV2, SwinTransformer, VisionTransformer
from torchvision.models.resnet import BasicBlock

import adaptive_depth as ad


def resnet(setting: Setting, blocks: int = 2, width: float = 1.0) -> nn.Module:
    """Three stages of basic blocks, as He et al. made them for CIFAR-10, each at half of the resolution before."""
    widths = [round(width * each) for each in setting.widths]
    before = widths[0]
    layers: list[nn.Module] = [nn.Conv2d(3, before, 3, padding=1, bias=False), nn.BatchNorm2d(before), nn.ReLU()]
    for number, out in enumerate(widths):
        stride = 2 if number else 1
        shortcut = nn.Sequential(nn.Conv2d(before, out, 1, stride, bias=False), nn.BatchNorm2d(out)) if number else None
        first = BasicBlock(before, out, stride, shortcut)
        layers.append(nn.Sequential(first, *(BasicBlock(out, out) for _ in range(blocks - 1))))
        before = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def mobilenet_v2(setting: Setting) -> nn.Module:
    """torchvision's, with three stages of two blocks and a first convolution that does not shrink the image."""
    a, b, c = setting.widths
    stages = [[1, a, 1, 1], [3, a, 2, 1], [3, b, 2, 2], [3, c, 2, 2]]
    model = MobileNetV2(10, inverted_residual_setting=stages, dropout=0.0)
    stem: Any = model.features[0]
    stem[0] = nn.Conv2d(3, stem[0].out_channels, 3, 1, 1, bias=False)
    return model


def vit(setting: Setting) -> nn.Module:
    """torchvision's, of eight blocks, cut in four groups of two."""
    width = 4 * setting.widths[0]
    return VisionTransformer(setting.size, setting.size // 4, 8, 4, width, 2 * width, num_classes=10)


def swin(setting: Setting) -> nn.Module:
    """torchvision's, with three stages of two blocks and patches of 2 x 2 pixels."""
    return SwinTransformer(
        [2, 2], 2 * setting.widths[0], [2, 2, 2], [2, 4, 8], [4, 4], num_classes=10, stochastic_depth_prob=0.0
    )


@dataclass(frozen=True)
class Network:
    """How a network is built, cut and trained.

    Attributes:
        depths: the sub-networks that are also trained alone, super-net first.
        recipe: what differs from the setting's own, for all trainings of this network alike.
    """

    title: str
    build: Callable[[Setting], nn.Module]
    depths: tuple[str, ...]
    recipe: dict[str, Any]
    group_size: int | None = None


_SGD = {"optimizer": "sgd", "lr": 0.05, "weight_decay": 5e-4}
_ADAMW = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.05, "clip_grad": 1.0}
_THREE, _FOUR = ("FFF", "TFF", "TTF", "TTT"), ("FFFF", "TFFF", "TTFF", "TTTT")

NETWORKS = {
    "resnet": Network("ResNet, 3 stages of 1 + 1 basic blocks", resnet, _THREE, _SGD),
    "resnet-long": Network("ResNet, 3 stages of 4 basic blocks", lambda s: resnet(s, 4), ("FFF", "TTT"), _SGD),
    "mobilenet_v2": Network("MobileNetV2, 3 stages of 1 + 1 inverted residuals", mobilenet_v2, _THREE, _SGD),
    "vit": Network("ViT, 8 blocks in 4 groups of 1 + 1", vit, _FOUR, _ADAMW, 2),
    "swin": Network("Swin, 3 stages of 1 + 1 blocks", swin, _THREE, _ADAMW),
}


def adapted(
    name: str,
    setting: Setting,
    seed: int,
    *,
    mandatory: int | None = None,
    fine: bool = False,
    skip_aware: bool = True,
) -> ad.AdaptiveNetwork:
    """A new network, cut in halves, after `mandatory` blocks, or `fine`: every second block is skippable."""
    torch.manual_seed(seed)
    network = NETWORKS[name]
    model, example = network.build(setting), torch.zeros(2, 3, setting.size, setting.size)
    stages = ad.find_stages(model, example, mandatory=mandatory, group_size=network.group_size, skip_aware=skip_aware)
    if fine:
        blocks = [(*stage.mandatory, *stage.skippable) for stage in stages]
        pairs = [(run[i], run[i + 1]) for run in blocks for i in range(0, len(run), 2)]
        stages = [ad.Stage((first,), (second,)) for first, second in pairs]
    return ad.adapt(model, stages, example=example)
