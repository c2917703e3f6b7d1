"""Where a detector's body is, and what else can be named."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

import adaptive_depth as ad
from adaptive_depth.plan.bodies import bodies_of, returns_boxes

X = torch.randn(1, 3, 16, 16)


def on_meta(make: Any, *args: Any, **kwargs: Any) -> nn.Module:
    with torch.device("meta"):
        return make(*args, **kwargs)


def holding(**parts: nn.Module) -> nn.Module:
    model = nn.Module()
    for name, part in parts.items():
        model.add_module(name, part)
    return model


def small_resnet() -> nn.Module:
    return timm.create_model("resnet18", channels=(8, 8, 16, 16))


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("torchvision/fasterrcnn_resnet50_fpn", ("backbone.body",)),
        ("torchvision/fasterrcnn_mobilenet_v3_large_320_fpn", ("backbone.body",)),
        ("torchvision/fcos_resnet50_fpn", ("backbone.body",)),
        ("torchvision/ssdlite320_mobilenet_v3_large", ("backbone",)),
        ("torchvision/deeplabv3_resnet50", ("backbone",)),
        ("torchvision/lraspp_mobilenet_v3_large", ("backbone",)),
        ("torchvision/resnet50", ()),
        ("torchvision/vit_b_16", ()),
        ("resnet18", ()),
    ],
)
def test_of_models_by_name(name: str, body: tuple[str, ...]) -> None:
    assert bodies_of(on_meta(ad.create_model, name)) == body


def test_features_are_a_body_wherever_they_stand() -> None:
    features = timm.create_model("resnet18", features_only=True, channels=(8, 8, 16, 16))
    assert bodies_of(features) == ()  # the whole of it
    assert bodies_of(holding(net=holding(eyes=features), head=nn.Linear(1, 1))) == ("net.eyes",)
    other = IntermediateLayerGetter(torchvision.models.resnet18(), {"layer4": "out"})
    assert bodies_of(holding(colour=features, depth=other)) == ("colour", "depth")
    assert bodies_of(holding(features=timm.create_model("resnet18", features_only=True, feature_cls="getter")))


def test_what_a_model_calls_its_backbone() -> None:
    assert bodies_of(holding(backbone=nn.Linear(1, 1), head=nn.Linear(1, 1))) == ("backbone",)
    assert bodies_of(holding(backbone=holding(body=nn.Linear(1, 1), fpn=nn.Linear(1, 1)))) == ("backbone.body",)
    assert bodies_of(holding(backbone=nn.Identity(), head=nn.Linear(1, 1))) == ()
    assert bodies_of(holding(stem=nn.Linear(1, 1))) == ()


@pytest.mark.parametrize(
    ("within", "said"),
    [
        ("backbon", r"within='backbon', which Module does not have: did you mean backbone or "),
        ("~~~", "within='~~~', which Module does not have: it has backbone, head"),
        ((), r"within=\(\): expected the path of a module such as 'backbone.body', or several"),
        (3, "within=3: expected the path of a module"),
        (("backbone", "backbone.layer1"), "'backbone.layer1' lies inside 'backbone'; name one of them"),
        (("", "backbone"), "'backbone' lies inside"),
        (("head", "head"), "'head' lies inside 'head'; name one of them"),
    ],
)
def test_a_within_that_is_none(within: Any, said: str) -> None:
    model = holding(backbone=small_resnet(), head=nn.Linear(1, 1))
    with pytest.raises(ad.StagesError, match=said):
        ad.adapt(model, within=within)


def test_within_names_any_part() -> None:
    network = ad.adapt(small_resnet(), within=("layer2", "layer3"), example=X)
    assert [stage.blocks for stage in network.stages] == [("layer2.0", "layer2.1"), ("layer3.0", "layer3.1")]
    with pytest.raises(ad.StagesError, match="leave out within, mandatory, group_size, skip_aware, cut"):
        ad.adapt(small_resnet(), network.stages, within="layer2")


def test_a_part_without_stages_says_where_else_to_look() -> None:
    said = r"has no residual stage that can be split in 'layer1.0': .*; name another part, within='...', or search all"
    with pytest.raises(ad.StagesError, match=said):
        ad.adapt(small_resnet(), within="layer1.0", example=X)


class Detector(nn.Module):
    """Residual blocks in two parts, neither of which is known as the body."""

    def __init__(self, nets: Any, key: str) -> None:
        super().__init__()
        self.stem, self.key = nn.Conv2d(3, 8, 1), key
        self.eyes, self.neck = (nn.Sequential(*(nets.Residual() for _ in range(2))) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        return [{self.key: each.flatten(1).T} for each in self.neck(self.eyes(self.stem(x)))]


def test_a_detector_whose_body_is_not_known(nets: Any) -> None:
    said = (
        r"Detector returns boxes, .* in several parts \(eyes, neck\): .* within='eyes', or use within='' to split all"
    )
    with pytest.raises(ad.StagesError, match=said):
        ad.adapt(Detector(nets, "boxes"), example=X)
    (stage,) = ad.adapt(Detector(nets, "boxes"), example=X, within="eyes").stages
    assert stage.blocks == ("eyes.0", "eyes.1")
    assert len(ad.adapt(Detector(nets, "boxes"), example=X, within="").stages) == 2
    assert len(ad.adapt(Detector(nets, "map"), example=X).stages) == 2


def test_what_returns_boxes() -> None:
    assert all(map(returns_boxes, ([{"boxes": X}], {"logits": X, "pred_boxes": X})))
    assert not any(map(returns_boxes, (X, [X], {"out": X}, [{"masks": X}])))


# -- the plans of bodies are those of classifiers ------------------------------------------------------------------


def plan(stages: Any, prefix: str = "") -> list[tuple[Any, ...]]:
    """What must agree: blocks and norms, without what comes before their names."""
    return [
        tuple(
            tuple(path.removeprefix(prefix) for path in paths) for paths in (each.mandatory, each.skippable, each.norms)
        )
        for each in stages
    ]


def test_the_plan_of_a_resnet_body_is_the_classifiers() -> None:
    expected = plan(ad.find_stages("torchvision/resnet18"))
    assert [len(norms) for *_, norms in expected] == [2] * 4
    resnet = torchvision.models.resnet18()
    every = {f"layer{number}": str(number) for number in (1, 2, 3, 4)}
    assert plan(ad.find_stages(IntermediateLayerGetter(resnet, every))) == expected
    assert plan(ad.find_stages(IntermediateLayerGetter(resnet, {"layer3": "3"}))) == expected[:3]
    sequence = nn.Sequential(*list(resnet.children())[:-2])  # layer1 is number 4 there
    assert [len(norms) for *_, norms in plan(ad.find_stages(sequence))] == [2] * 4
    for how in ("list", "dict", "getter", "hook"):
        features = timm.create_model("resnet18", features_only=True, feature_cls=how)
        inside = {"getter": "model.", "hook": "body."}.get(how, "")
        assert plan(ad.find_stages(features), inside) == plan(ad.find_stages("resnet18")), how


def test_the_plan_of_a_mobilenet_body_is_the_classifiers() -> None:
    model = torchvision.models.mobilenet_v2(width_mult=0.25)
    expected = plan(ad.find_stages(model), "features.")
    assert plan(ad.find_stages(model.features)) == expected
    detector = FasterRCNN(_with_channels(model.features), 2, rpn_anchor_generator=AnchorGenerator(((32,),), ((1.0,),)))
    assert plan(ad.find_stages(detector), "backbone.") == expected
    shorter = plan(ad.find_stages(IntermediateLayerGetter(model.features, {"10": "0", "13": "1"})))
    assert [blocks[:2] for blocks in shorter] == [blocks[:2] for blocks in expected[:4]]
    assert [norms for *_, norms in shorter[:3]] == [norms for *_, norms in expected[:3]]
    features = timm.create_model("mobilenetv2_050", features_only=True)
    expected = plan(ad.find_stages("mobilenetv2_050"))
    assert plan(ad.find_stages(features))[:4] == expected[:4]
    # The last stage's norms without that of the final convolution, which no features come from.
    assert plan(ad.find_stages(features))[4][2] == expected[4][2][:-1]


def _with_channels(features: Any) -> Any:
    features.out_channels = 1280
    return features


def test_the_plan_of_a_swin_body_is_the_classifiers() -> None:
    sizes = {"patch_size": [4, 4], "embed_dim": 8, "depths": [2, 2, 4], "num_heads": [1, 1, 1], "window_size": [4, 4]}
    model = torchvision.models.SwinTransformer(**sizes)
    expected = plan(ad.find_stages(model), "features.")
    assert [len(norms) for *_, norms in expected] == [2, 3, 5]
    assert plan(ad.find_stages(model.features)) == expected
    assert plan(ad.find_stages(IntermediateLayerGetter(model.features, {"3": "0", "5": "1"}))) == expected
    small = {"embed_dim": 8, "depths": (2, 2, 4, 2), "num_heads": (1, 1, 1, 1), "img_size": 64, "window_size": 4}
    name = "swin_tiny_patch4_window7_224"
    features = timm.create_model(name, features_only=True, **small)
    expected = plan(ad.find_stages(timm.create_model(name, **small)), "layers.")
    assert plan(ad.find_stages(features), "layers_") == expected


def test_the_plan_of_a_vit_body_is_the_classifiers() -> None:
    small = {"img_size": 32, "depth": 6, "embed_dim": 32, "num_heads": 2}
    features = timm.create_model("vit_tiny_patch16_224", features_only=True, **small)
    expected = plan(ad.find_stages(timm.create_model("vit_tiny_patch16_224", **small)))
    assert plan(ad.find_stages(features), "model.") == expected
