"""How much of a detector's work its body does, and how much the base-net saves: multiply-adds of one photograph.

    python detector_shares.py

Networks as torchvision and transformers build them, without trained weights, at the sizes that they are used at. What
runs on the boxes that are left after a suppression depends on the image: a detector without trained weights keeps as
many as it may, so shares of R-CNNs are those of a crowded image.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torchvision.models.detection as detection
import torchvision.models.segmentation as segmentation
import transformers
from measure import report
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import adaptive_depth as ad
from adaptive_depth.batches import arguments
from adaptive_depth.plan.bodies import bodies_of

BARE: dict[str, Any] = {"weights": None, "weights_backbone": None}


def photograph(height: int, width: int) -> tuple[list[Tensor]]:
    return ([torch.rand(3, height, width)],)


def pixels(height: int, width: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.rand(1, 3, height, width)}


def of_transformers(name: str, config: str) -> nn.Module:
    made = getattr(transformers, config)()
    for part in (made, getattr(made, "backbone_config", None)):
        if part is not None and getattr(part, "use_pretrained_backbone", False):
            part.use_pretrained_backbone = False  # weights do not matter here
    return getattr(transformers, name)(made)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "Faster R-CNN, ResNet-50-FPN": (lambda: detection.fasterrcnn_resnet50_fpn(**BARE), photograph(800, 1066)),
    "Mask R-CNN, ResNet-50-FPN": (lambda: detection.maskrcnn_resnet50_fpn(**BARE), photograph(800, 1066)),
    "RetinaNet, ResNet-50-FPN": (lambda: detection.retinanet_resnet50_fpn(**BARE), photograph(800, 1066)),
    "FCOS, ResNet-50-FPN": (lambda: detection.fcos_resnet50_fpn(**BARE), photograph(800, 1066)),
    "SSDlite, MobileNetV3": (lambda: detection.ssdlite320_mobilenet_v3_large(**BARE), photograph(320, 320)),
    "DETR, ResNet-50": (lambda: of_transformers("DetrForObjectDetection", "DetrConfig"), pixels(800, 1066)),
    "RT-DETR, ResNet-50": (lambda: of_transformers("RTDetrForObjectDetection", "RTDetrConfig"), pixels(640, 640)),
    "YOLOS": (lambda: of_transformers("YolosForObjectDetection", "YolosConfig"), pixels(512, 864)),
    "SegFormer": (lambda: of_transformers("SegformerForSemanticSegmentation", "SegformerConfig"), pixels(512, 512)),
    "DeepLabV3, ResNet-50": (lambda: segmentation.deeplabv3_resnet50(**BARE), (torch.rand(1, 3, 520, 520),)),
    "LR-ASPP, MobileNetV3": (lambda: segmentation.lraspp_mobilenet_v3_large(**BARE), (torch.rand(1, 3, 520, 520),)),
}


def share_of(parts: Iterable[str], model: nn.Module, x: Any) -> float:
    args, kwargs = arguments(x)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*args, **kwargs)
    counts = counter.get_flop_counts()
    of_parts = (sum(counts[f"{type(model).__name__}.{part}"].values()) for part in parts)
    return sum(of_parts) / sum(counts["Global"].values())


def measured(name: str) -> dict[str, Any]:
    make, x = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    network = ad.adapt(model, example=x).eval()
    body = bodies_of(model) or tuple(path for stage in network.stages for path in stage.blocks)
    share = share_of(body, make().eval(), x)
    args, kwargs = arguments(x)
    full, base = network.skips[0], network.skips[-1]
    profile = ad.profile(network, *args, **kwargs, latency=False, skips=[full, base])
    whole = profile.costs[full].macs
    # Without what runs on the boxes that are left: how many they are depends on the weights, which are none here.
    before = [profile.costs[skip].macs - profile.macs_on_boxes.get(skip, 0) for skip in (full, base)]
    found = {
        "body": body[0] if len(body) == 1 else f"{len(body)} blocks, {body[0]} to {body[-1]}",
        "GMAC": round(whole / 1e9, 2),
        "share of the body": round(share, 3),
        "saved by the base-net": round((before[0] - before[1]) / whole, 3),
    }
    print(f"{name}: {found}", flush=True)
    return found


if __name__ == "__main__":
    found = {name: measured(name) for name in NETWORKS}
    less = all(each["saved by the base-net"] < each["share of the body"] for each in found.values())
    report(
        "detector_shares", {"targets": "none; no body saves more than its share", "one photograph": found}, passed=less
    )
