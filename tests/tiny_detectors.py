"""Tiny detectors of torchvision, of two stages, whose scores differ: for tests of what becomes of boxes."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign

import adaptive_depth as ad

CLASSES = 3  # of SSD and Faster R-CNN, beside the background
STAGES = [ad.Stage((f"backbone.{name}.1",), (f"backbone.{name}.2",), name=name) for name in ("one", "two")]


class Block(nn.Module):
    """h + relu(norm(conv(h)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


class Pyramid(nn.Module):
    """Images `[batch, 3, height, width]` to maps of a quarter and of an eighth of that; two stages of 1 + 1 blocks."""

    def __init__(self, width: int = 8, *, of_each: bool = False) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, width, 4, stride=4), Block(width), Block(width))
        self.two = nn.Sequential(nn.Conv2d(width, width, 2, stride=2), Block(width), Block(width))
        self.out_channels: Any = [width, width] if of_each else width

    def forward(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        one = self.one(x)
        return OrderedDict([("0", one), ("1", self.two(one))])


def detector(kind: str, seed: int = 0, **options: Any) -> Any:
    """`"retinanet"`, `"fcos"`, `"ssd"` or `"faster"`, in eval mode: images of 32 px and more stay as they are.

    Scores spread from near 0 to near 1, so that no two are the same.
    """
    torch.manual_seed(seed)
    sizes: Any = {"min_size": 32, "max_size": 64, "size_divisible": 8} | options
    squares = AnchorGenerator(((6,), (12,)), ((1.0,), (1.0,)))
    if kind == "retinanet":
        anchors = AnchorGenerator(((6,), (12,)), ((0.5, 2.0), (0.5, 2.0)))
        head: Any = RetinaNetHead(8, 2, CLASSES)
        model: Any = RetinaNet(Pyramid(), CLASSES, anchor_generator=anchors, head=head, **sizes)
    elif kind == "fcos":
        head = FCOSHead(32, 1, CLASSES, num_convs=1)  # its norms have 32 groups
        model = FCOS(Pyramid(32), CLASSES, anchor_generator=squares, head=head, **sizes)
    elif kind == "ssd":
        boxes = DefaultBoxGenerator([[2], [2]])
        size = options.pop("size", (32, 32))
        model = SSD(Pyramid(of_each=True), boxes, size, CLASSES + 1, **options)
    else:
        pool = MultiScaleRoIAlign(
            ["0", "1", "2"], 3, 2, canonical_scale=12
        )  # regions of 6 px and more are of the second
        model = FasterRCNN(
            Pyramid(), CLASSES + 1, rpn_anchor_generator=squares, box_roi_pool=pool, rpn_post_nms_top_n_test=40, **sizes
        )
    for name, part in model.named_modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            size = 0.3 if "bbox" in name or "regression" in name else 0.7 if kind == "ssd" else 1.5
            nn.init.normal_(part.weight, std=size * part.weight[0].numel() ** -0.5)
            if part.bias is not None:
                nn.init.normal_(part.bias, std=size / 3)
    return model.eval()


def adapted(model: Any, stages: list[ad.Stage] | None = None) -> ad.AdaptiveNetwork:
    """Every norm of every context has numbers of its own; in eval mode."""
    network = ad.adapt(model, STAGES if stages is None else stages).eval()
    network.proven = True  # how many boxes there are differs between depths
    network.reset_statistics(per_context=True)
    generator = torch.Generator().manual_seed(1)
    for tensor in (*network.skip_norms.parameters(), *network.statistics.buffers()):
        if tensor.is_floating_point():
            tensor.data += 0.3 * torch.rand(tensor.shape, generator=generator)
    return network
