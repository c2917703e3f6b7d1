"""Thin detectors, and images of squares for them: they train on a processor within seconds.

`detectors.py` beside has small models of all kinds, for tests that need not train them.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

import adaptive_depth as ad

WIDTH, NECK = 8, 32  # channels; FCOS normalises the neck's in 32 groups


class Block(nn.Module):
    """relu(h + norm(conv(h))), with half the resolution and a shortcut of its own where asked."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(WIDTH, WIDTH, 3, stride, 1, bias=False), nn.BatchNorm2d(WIDTH)
        self.shortcut = nn.Conv2d(WIDTH, WIDTH, 1, stride) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu((x if self.shortcut is None else self.shortcut(x)) + self.norm(self.conv(x)))


class Body(nn.Module):
    """Two stages of 1 + 1 blocks: strides 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, 2, 1)
        self.layer1 = nn.Sequential(Block(2), Block())
        self.layer2 = nn.Sequential(Block(2), Block())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = self.layer1(torch.relu(self.stem(x)))
        return OrderedDict({"0": first, "1": self.layer2(first)})


class Backbone(nn.Module):
    """A body and its pyramid, as torchvision has them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fpn = Body(), FeaturePyramidNetwork([WIDTH, WIDTH], NECK)
        self.out_channels = NECK

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(x))


# Padded to less than usual: a region pool works the scales of the levels out from sizes without padding.
SIZES: dict[str, Any] = {"min_size": 32, "max_size": 48, "size_divisible": 8}
FEW: dict[str, Any] = {"topk_candidates": 50, "detections_per_img": 10}
STAGES = [ad.Stage((f"backbone.body.layer{n}.0",), (f"backbone.body.layer{n}.1",)) for n in (1, 2)]


def anchors() -> AnchorGenerator:
    return AnchorGenerator(((8,), (16,)), ((1.0,),) * 2)


def faster_rcnn(kind: type[FasterRCNN] = FasterRCNN, **more: Any) -> FasterRCNN:
    """Classes 1 to 3, and the background."""
    return kind(
        Backbone(),
        rpn_anchor_generator=anchors(),
        rpn_pre_nms_top_n_train=50,
        rpn_pre_nms_top_n_test=50,
        rpn_post_nms_top_n_train=20,
        rpn_post_nms_top_n_test=20,
        box_detections_per_img=10,
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], 3, 2),
        box_head=TwoMLPHead(NECK * 9, 16),
        box_predictor=FastRCNNPredictor(16, 4),
        **SIZES | more,
    )


def mask_rcnn() -> MaskRCNN:
    heads = {"mask_head": MaskRCNNHeads(NECK, (WIDTH,), 1), "mask_predictor": MaskRCNNPredictor(WIDTH, WIDTH, 4)}
    return faster_rcnn(MaskRCNN, mask_roi_pool=MultiScaleRoIAlign(["0", "1"], 6, 2), **heads)


def retinanet(**more: Any) -> RetinaNet:
    """Classes 0 to 3."""
    return RetinaNet(
        Backbone(), 4, anchor_generator=anchors(), topk_candidates=50, detections_per_img=10, **SIZES | more
    )


def fcos(**more: Any) -> FCOS:
    """Classes 0 to 3."""
    return FCOS(Backbone(), 4, anchor_generator=anchors(), **FEW, **SIZES | more)


def ssd() -> SSD:
    """Classes 1 to 3, and the background."""
    boxes = DefaultBoxGenerator([[2], [2]], scales=[0.2, 0.5, 0.9])
    backbone = Backbone()
    backbone.out_channels = [NECK, NECK]  # one for each level, as SSD asks
    return SSD(backbone, boxes, (32, 32), 4, **FEW)


def adapted(model: nn.Module) -> ad.AdaptiveNetwork:
    """Two stages of 1 + 1 blocks."""
    images = [torch.rand(3, 32, 40), torch.rand(3, 36, 32)]
    network = ad.adapt(model.eval(), STAGES, example=(images,))
    with torch.no_grad():  # so that a sub-network can be told from another
        for part in network.skip_norms.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.bias.uniform_(-0.3, 0.3)
    return network


def pairs(number: int = 2, seed: int = 0) -> tuple[tuple[Tensor, ...], tuple[dict[str, Any], ...]]:
    """A batch of dark images with bright squares, each of class 1, 2 or 3 by its colour; one image more has none."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for place in range(number):
        image = 0.1 * torch.rand(3, 32, 40 - 8 * (place % 2), generator=generator)
        objects = int(torch.randint(1, 3, (), generator=generator))
        boxes, labels, masks = [], [], []
        for _ in range(objects if place or number == 1 else 1):
            side = int(torch.randint(8, 15, (), generator=generator))
            left, top = (int(torch.randint(0, 32 - side, (), generator=generator)) for _ in range(2))
            label = int(torch.randint(1, 4, (), generator=generator))
            image[label - 1, top : top + side, left : left + side] = 1.0
            boxes.append([float(left), float(top), float(left + side), float(top + side)])
            labels.append(label)
            mask = torch.zeros(image.shape[1:], dtype=torch.uint8)
            mask[top : top + side, left : left + side] = 1
            masks.append(mask)
        target = {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "masks": torch.stack(masks)}
        images.append(image)
        targets.append(target | {"image_id": seed * number + place})
    return tuple(images), tuple(targets)
