"""Models by name, and where a model came from."""

import gc
import json
import re
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FrozenBatchNorm2d

import adaptive_depth as ad
from adaptive_depth.dense import freeze_norms
from adaptive_depth.models import Source, no_larger_than, source_of


def test_timm_and_torchvision_names() -> None:
    assert type(ad.create_model("resnet18", num_classes=3)) is timm.models.resnet.ResNet
    assert type(ad.create_model("timm/resnet18")) is timm.models.resnet.ResNet
    model = ad.create_model("torchvision/resnet18", num_classes=3)
    assert type(model) is torchvision.models.ResNet
    assert model.fc.out_features == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet5O", r"timm has no model 'resnet5O': similar names are .*resnet50"),
        ("torchvision/resnet19", r"torchvision has no model 'resnet19': similar names are .*resnet1"),
        ("~~~", r"timm has no model .*: see timm\.list_models\(\)"),
        ("torchvision/~~~", r"torchvision has no model '~~~': see torchvision\.models\.list_models\(\)"),
        ("hf/resnet18", r"model 'hf/resnet18': expected a timm name such as 'resnet50', or 'torchvision/resnet50'"),
        ("torchvision/x/resnet18", "expected a timm name"),
        ("", "timm has no model ''"),
    ],
)
def test_unknown_names(name: str, said: str) -> None:
    with pytest.raises(ad.ModelError, match=said):
        ad.create_model(name)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {"classes": 10}),
        ("torchvision/resnet18", {"classes": 10}),
        ("torchvision/resnet18", {"num_classes": -1}),
        ("torchvision/resnet18", {"num_classes": "ten"}),
        ("torchvision/resnet18", {"norm_layer": 3}),
        ("resnet18", {"norm_layer": "no_such_norm"}),
        ("resnet18", {"block_args": 3}),
        ("torchvision/resnet18", {"replace_stride_with_dilation": [True]}),
    ],
)
def test_arguments_that_the_model_does_not_take(name: str, arguments: dict) -> None:
    with pytest.raises(ad.ModelError, match=re.escape(f"model {name!r} cannot be built with {arguments!r}: ")):
        ad.create_model(name, **arguments)


def test_a_source_is_remembered_and_survives_json() -> None:
    arguments = {"num_classes": 3, "channels": [8, 8, 16, 16]}
    model = ad.create_model("resnet18", **arguments)
    source = source_of(model)
    assert source == Source("resnet18", arguments)
    again = Source(**json.loads(json.dumps({"name": source.name, "arguments": source.arguments})))
    assert repr(ad.create_model(again.name, **again.arguments)) == repr(model)


def test_what_fetches_weights_is_no_part_of_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    made = timm.create_model("resnet18", num_classes=3)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: made)
    model = ad.create_model("resnet18", pretrained=True, num_classes=3, cache_dir="/tmp/x", checkpoint_path="y.pth")
    assert model is made
    monkeypatch.undo()
    assert source_of(model) == Source("resnet18", {"num_classes": 3})


def test_the_source_of_a_model_does_not_keep_it_alive() -> None:
    model = ad.create_model("torchvision/resnet18", num_classes=3)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("make", "source"),
    [
        (lambda: torchvision.models.resnet18(num_classes=7), Source("torchvision/resnet18", {"num_classes": 7})),
        (lambda: ResNet(BasicBlock, [3, 4, 6, 3]), Source("torchvision/resnet34", {"num_classes": 1000})),
        (lambda: timm.create_model("resnet18", num_classes=7), Source("resnet18", {"num_classes": 7})),
        (lambda: timm.create_model("resnet18", in_chans=1), Source("resnet18", {"num_classes": 1000, "in_chans": 1})),
    ],
)
def test_a_source_is_found_for_models_that_others_built(make, source: Source) -> None:
    model = make()
    found = source_of(model)
    assert found == source
    again = ad.create_model(found.name, **found.arguments)
    again.load_state_dict(model.state_dict())  # strict: the same names and shapes


detection, segmentation = torchvision.models.detection, torchvision.models.segmentation
BARE = {"weights_backbone": None, "num_classes": 5}


@pytest.mark.parametrize(
    ("make", "source"),
    [
        (
            lambda: detection.ssdlite320_mobilenet_v3_large(**BARE),
            Source("torchvision/ssdlite320_mobilenet_v3_large", {"num_classes": 5}),
        ),
        (
            lambda: detection.fasterrcnn_mobilenet_v3_large_320_fpn(**BARE, min_size=96),
            Source(
                "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn",
                {"num_classes": 5, "min_size": (96,), "max_size": 640},
            ),
        ),
        (
            lambda: segmentation.deeplabv3_mobilenet_v3_large(**BARE, aux_loss=True),
            Source("torchvision/deeplabv3_mobilenet_v3_large", {"aux_loss": True, "num_classes": 5}),
        ),
        (
            lambda: segmentation.lraspp_mobilenet_v3_large(**BARE),
            Source("torchvision/lraspp_mobilenet_v3_large", {"num_classes": 5}),
        ),
    ],
)
def test_a_source_is_found_for_detectors_that_torchvision_built(make, source: Source) -> None:
    model = make()
    assert source_of(model) == source
    ad.create_model(source.name, **source.arguments).load_state_dict(model.state_dict())


def test_a_detector_that_chooses_boxes_otherwise_is_not_what_its_name_builds() -> None:
    model = detection.ssdlite320_mobilenet_v3_large(**BARE)
    model.score_thresh = 0.5
    assert source_of(model) is None


def test_weights_of_torchvision_bring_frozen_norms_along(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    with torch.device("meta"):
        made = getattr(detection, name)(**BARE)
    freeze_norms(made, 0.0)  # as it is with trained weights
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: made)
    model = ad.create_model(f"torchvision/{name}", pretrained=True, num_classes=5)
    monkeypatch.undo()
    with torch.device("meta"):
        again = ad.create_model((source := source_of(model)).name, **source.arguments)
    assert source.arguments == {"frozen_norms": 0.0, "num_classes": 5}
    assert again.state_dict().keys() == made.state_dict().keys()
    assert {part.eps for part in again.modules() if isinstance(part, FrozenBatchNorm2d)} == {0.0}


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResNet(BasicBlock, [1, 2, 1, 1]),
        lambda: timm.create_model("resnet18", channels=(8, 8, 16, 16)),
        lambda: timm.create_model("resnet18", act_layer="silu"),
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2),
        lambda: nn.Sequential(nn.Linear(2, 2)),
    ],
)
def test_no_source_is_made_up(make) -> None:
    assert source_of(make()) is None


def test_a_model_with_another_head_is_not_what_its_name_builds() -> None:
    model = ad.create_model("torchvision/resnet18", num_classes=10)
    model.fc = nn.Linear(512, 3)
    assert source_of(model) is None


def test_images_of_another_size_are_not_what_the_name_builds() -> None:
    assert source_of(timm.create_model("vit_tiny_patch16_224", img_size=32)) is None


def test_looking_for_a_source_draws_no_random_numbers() -> None:
    model = ResNet(BasicBlock, [2, 2, 2, 2])
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    source_of(model)
    assert torch.equal(torch.rand(3), expected)


def test_a_backbone_is_not_downloaded_unasked(monkeypatch):
    asked = []
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *a, **k: asked.append(a) or {})
    ad.create_model("torchvision/fcn_resnet50", num_classes=2)
    assert not asked


@pytest.mark.parametrize(("parts", "numbers"), [(50, 100_000), (1000, 100)])
def test_a_limit_of_size_holds_inside_and_in_this_thread_only(parts: int, numbers: int) -> None:
    def build() -> nn.Module:
        return ad.create_model("resnet18", num_classes=3, channels=[4, 4, 4, 4])

    with no_larger_than(1000, 100_000):
        assert isinstance(build(), nn.Module)
    with no_larger_than(parts, numbers), ThreadPoolExecutor(1) as other:
        assert isinstance(other.submit(build).result(), nn.Module)
        with pytest.raises(ad.ModelError, match="it is far larger than its weights, noticed at '"):
            build()
    assert isinstance(build(), nn.Module)
