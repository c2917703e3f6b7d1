"""Detectors and segmentation networks of torchvision, transformers, segmentation_models_pytorch and one's own, as small
as they can be built: for tests of what is done with a whole detector.

Each entry builds a model with random weights; `inputs(name)` is an input as the model takes it.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.ssd import DefaultBoxGenerator
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3
from torchvision.models.segmentation.fcn import FCN, FCNHead
from torchvision.models.segmentation.lraspp import LRASPP

SIDE = 64
CLASSES = 4

# -- torchvision ------------------------------------------------------------------------------------------------

_SIZES = {"min_size": SIDE, "max_size": 96}
_FEW = {"rpn_post_nms_top_n_test": 20, "box_detections_per_img": 3}  # what runs on each box found is most of the work


def resnet_body(layers: Sequence[int] = (2, 2, 2, 2), norm: Any = nn.BatchNorm2d) -> Any:
    """A feature pyramid on a ResNet of basic blocks: the layers of ResNet-18 by default."""
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=norm, trainable_layers=5)
    resnet = ResNet(BasicBlock, list(layers), norm_layer=norm)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        backbone.body[name] = getattr(resnet, name)
    return backbone


def faster_rcnn(layers: Sequence[int] = (2, 2, 2, 2), norm: Any = nn.BatchNorm2d) -> nn.Module:
    return detection.FasterRCNN(resnet_body(layers, norm), CLASSES, **_SIZES, **_FEW)


def mask_rcnn(layers: Sequence[int] = (2, 2, 2, 2)) -> nn.Module:
    return detection.MaskRCNN(resnet_body(layers), CLASSES, **_SIZES, **_FEW)


def keypoint_rcnn(layers: Sequence[int] = (2, 2, 2, 2)) -> nn.Module:
    heads = detection.keypoint_rcnn
    small = {
        "keypoint_head": heads.KeypointRCNNHeads(256, (16,)),
        "keypoint_predictor": heads.KeypointRCNNPredictor(16, 3),
    }
    return detection.KeypointRCNN(resnet_body(layers), 2, **small, **_SIZES, **_FEW)


def retinanet(layers: Sequence[int] = (2, 2, 2, 2)) -> nn.Module:
    sizes = tuple((side,) for side in (8, 16, 32, 64, 128))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    return detection.RetinaNet(resnet_body(layers), CLASSES, **_SIZES, anchor_generator=anchors)


def fcos(layers: Sequence[int] = (2, 2, 2, 2)) -> nn.Module:
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    return detection.FCOS(resnet_body(layers), CLASSES, **_SIZES, anchor_generator=anchors)


def _mobilenet_v3(*, dilated: bool = False) -> nn.Sequential:
    """Of MobileNetV3-large what makes it one, with fewer blocks: two stages of two blocks."""
    row = InvertedResidualConfig
    rows = [
        row(16, 3, 16, 16, False, "RE", 1, 1, 1.0),
        row(16, 3, 64, 24, False, "RE", 2, 1, 1.0),
        row(24, 3, 72, 24, False, "RE", 1, 1, 1.0),
        row(24, 5, 72, 40, True, "HS", 2, 1, 1.0),
        row(40, 5, 120, 40, True, "HS", 1, 1, 1.0),
        row(40, 5, 120, 80, True, "HS", 2, 2 if dilated else 1, 1.0),
        row(80, 5, 160, 80, True, "HS", 1, 2 if dilated else 1, 1.0),
    ]
    return MobileNetV3(rows, last_channel=64).features


def ssdlite() -> nn.Module:
    kind = detection.ssdlite.SSDLiteFeatureExtractorMobileNet
    body = kind(_mobilenet_v3(), 6, nn.BatchNorm2d, width_mult=0.25)
    anchors = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
    channels = detection._utils.retrieve_out_channels(body, (SIDE, SIDE))
    head = detection.ssdlite.SSDLiteHead(channels, anchors.num_anchors_per_location(), CLASSES, nn.BatchNorm2d)
    return detection.ssd.SSD(body, anchors, (SIDE, SIDE), CLASSES, head=head)


def _segmentation_body(layers: Sequence[int]) -> nn.Module:
    resnet = ResNet(BasicBlock, list(layers))
    return IntermediateLayerGetter(resnet, {"layer4": "out", "layer3": "aux"})


def deeplab(layers: Sequence[int] = (2, 2, 2, 2)) -> nn.Module:
    return DeepLabV3(_segmentation_body(layers), DeepLabHead(512, CLASSES, (2, 4, 6)), FCNHead(256, CLASSES))


def fcn(layers: Sequence[int] = (2, 2, 2, 2)) -> nn.Module:
    return FCN(_segmentation_body(layers), FCNHead(512, CLASSES), FCNHead(256, CLASSES))


def lraspp() -> nn.Module:
    body = IntermediateLayerGetter(_mobilenet_v3(dilated=True), {"3": "low", "8": "high"})
    return LRASPP(body, 24, 480, CLASSES, 16)


# -- transformers -----------------------------------------------------------------------------------------------


def _resnet_config(**more: Any) -> Any:
    import transformers

    sizes = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 40], "depths": [2, 2, 3, 2], "layer_type": "basic"}
    return transformers.ResNetConfig(**{**sizes, **more})


_HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}


def detr(layers: Sequence[int] = (2, 2, 3, 2)) -> nn.Module:
    import transformers

    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=_resnet_config(out_features=["stage4"], depths=list(layers)),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        num_queries=10,
        num_labels=CLASSES,
        **_HEADS,
    )
    return transformers.DetrForObjectDetection(config)


def _real_time(body: Any, channels: list[int]) -> dict[str, Any]:
    return {
        "backbone_config": body,
        "encoder_in_channels": channels,
        "d_model": 32,
        "encoder_hidden_dim": 32,
        "num_queries": 10,
        "decoder_layers": 2,
        "feat_strides": [8, 16, 32],
        "num_feature_levels": 3,
        "decoder_in_channels": [32, 32, 32],
        "num_denoising": 5,
        "num_labels": CLASSES,
        **_HEADS,
    }


def rt_detr(layers: Sequence[int] = (2, 2, 3, 2), kind: str = "RTDetr") -> nn.Module:
    import transformers

    body = transformers.RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 40],
        depths=list(layers),
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = getattr(transformers, f"{kind}Config")(**_real_time(body, [24, 32, 40]))
    return getattr(transformers, f"{kind}ForObjectDetection")(config)


def d_fine() -> nn.Module:
    import transformers

    body = transformers.HGNetV2Config(
        stem_channels=[3, 8, 16],
        stage_in_channels=[16, 32, 64, 96],
        stage_mid_channels=[8, 16, 16, 24],
        stage_out_channels=[32, 64, 96, 128],
        stage_num_blocks=[1, 2, 3, 1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 5, 5],
        stage_numb_of_layers=[3, 3, 3, 3],
        hidden_sizes=[32, 64, 96, 128],
        out_features=["stage2", "stage3", "stage4"],
    )
    return transformers.DFineForObjectDetection(transformers.DFineConfig(**_real_time(body, [64, 96, 128])))


def yolos() -> nn.Module:
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 8, "num_attention_heads": 2, "intermediate_size": 64}
    more = {"image_size": [SIDE, SIDE], "patch_size": 16, "num_detection_tokens": 10, "num_labels": CLASSES}
    return transformers.YolosForObjectDetection(transformers.YolosConfig(**sizes, **more))


def segformer() -> nn.Module:
    import transformers

    sizes = {"depths": [2, 2, 2, 2], "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 2, 2, 2]}
    config = transformers.SegformerConfig(**sizes, decoder_hidden_size=32, num_labels=CLASSES)
    return transformers.SegformerForSemanticSegmentation(config)


def upernet(layers: Sequence[int] = (2, 2, 3, 2)) -> nn.Module:
    import transformers

    config = transformers.UperNetConfig(
        backbone_config=_resnet_config(out_features=["stage1", "stage2", "stage3", "stage4"], depths=list(layers)),
        hidden_size=32,
        auxiliary_in_channels=32,
        auxiliary_channels=16,
        num_labels=CLASSES,
    )
    return transformers.UperNetForSemanticSegmentation(config)


def mask2former() -> nn.Module:
    import transformers

    body = transformers.SwinConfig(
        image_size=SIDE,
        embed_dim=16,
        depths=[2, 2, 4, 2],
        num_heads=[2, 2, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=body,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=2,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=10,
        num_labels=CLASSES,
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


# -- segmentation_models_pytorch, and one's own -----------------------------------------------------------------


def unet(encoder: str = "resnet18") -> nn.Module:
    smp = importlib.import_module("segmentation_models_pytorch")
    return smp.Unet(encoder, encoder_weights=None, classes=CLASSES, decoder_channels=(32, 16, 16, 8, 8))


class Neck(nn.Module):
    """A residual layer of its own on each level, which are no part of the body."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.flat = nn.ModuleList(nn.Conv2d(each, 8, 1) for each in channels)
        self.layers = nn.Sequential(*(_Layer() for _ in range(3)))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [self.layers(flat(level)) for flat, level in zip(self.flat, features, strict=True)]


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.relu(self.norm(x)))


class Own(nn.Module):
    """timm's features under a neck of one's own; the coarsest level, refined, says what is where."""

    def __init__(self, name: str = "resnet18", **more: Any) -> None:
        super().__init__()
        self.features = timm.create_model(name, features_only=True, **more)
        self.neck = Neck(self.features.feature_info.channels())
        self.refine = nn.Sequential(*(_Layer() for _ in range(3)))
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.refine(self.neck(self.features(x))[-1]))


def own() -> nn.Module:
    return Own(channels=(8, 8, 16, 16))


# -- all of them ------------------------------------------------------------------------------------------------

DETECTORS: dict[str, Callable[[], nn.Module]] = {
    "Faster R-CNN": faster_rcnn,
    "Mask R-CNN": mask_rcnn,
    "Keypoint R-CNN": keypoint_rcnn,
    "RetinaNet": retinanet,
    "FCOS": fcos,
    "SSDlite": ssdlite,
    "DETR": detr,
    "RT-DETR": rt_detr,
    "RT-DETR v2": lambda: rt_detr(kind="RTDetrV2"),
    "D-FINE": d_fine,
    "YOLOS": yolos,
    "SegFormer": segformer,
    "UperNet": upernet,
    "Mask2Former": mask2former,
    "DeepLabV3": deeplab,
    "FCN": fcn,
    "LR-ASPP": lraspp,
    "UNet": unet,
    "own": own,
}
LISTED = ("Faster R-CNN", "Mask R-CNN", "Keypoint R-CNN", "RetinaNet", "FCOS", "SSDlite")  # of torchvision, on lists
OF_TRANSFORMERS = ("DETR", "RT-DETR", "RT-DETR v2", "D-FINE", "YOLOS", "SegFormer", "UperNet", "Mask2Former")


def build(name: str) -> nn.Module:
    """A small model in eval mode."""
    torch.manual_seed(0)
    return DETECTORS[name]().eval()


def differing(module: nn.Module) -> nn.Module:
    """Norms with numbers of their own, so that no two can be confused."""
    generator = torch.Generator().manual_seed(len(list(module.modules())))
    with torch.no_grad():
        for part in module.modules():
            named = dict(part.named_parameters(recurse=False)) | dict(part.named_buffers(recurse=False))
            if "norm" not in type(part).__name__.lower():
                continue
            for name, low, high in (
                ("weight", 0.7, 1.3),
                ("bias", -0.2, 0.2),
                ("running_mean", -0.2, 0.2),
                ("running_var", 0.7, 1.3),
            ):
                if named.get(name) is not None:
                    named[name].uniform_(low, high, generator=generator)
    return module


def inputs(name: str, side: int = SIDE) -> Any:
    """Two images, as the model takes them."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, side, side, generator=generator)
    if name in LISTED:
        return (list(images),)
    return {"pixel_values": images} if name in OF_TRANSFORMERS else images


def targets(name: str) -> list[dict[str, Tensor]]:
    """Two boxes in each of two images, as torchvision's detectors take them in training."""
    boxes = torch.tensor([[4.0, 4.0, 40.0, 36.0], [20.0, 24.0, 60.0, 56.0]])
    one: dict[str, Tensor] = {"boxes": boxes, "labels": torch.tensor([1, 1])}
    if name == "Mask R-CNN":
        one["masks"] = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
        one["masks"][0, 4:36, 4:40] = one["masks"][1, 24:56, 20:60] = 1
    if name == "Keypoint R-CNN":
        one["keypoints"] = torch.tensor([[[10.0, 10.0, 1.0], [30.0, 20.0, 1.0], [12.0, 30.0, 1.0]]] * 2)
    return [one, {key: value.clone() for key, value in one.items()}]
