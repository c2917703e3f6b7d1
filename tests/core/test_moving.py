"""An adapted network goes into a detector: every depth of the body computes what it computed before."""

import importlib.util
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FrozenBatchNorm2d

import adaptive_depth as ad

_spec = importlib.util.spec_from_file_location("detectors", Path(__file__).parents[1] / "detectors.py")
assert _spec is not None
assert _spec.loader is not None
zoo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(zoo)

X = torch.randn(2, 3, 32, 32)


def classifier(layers: tuple[int, ...] = (2, 2, 2, 2), *, calibrated: bool = False) -> ad.AdaptiveNetwork:
    """Trained, as far as its numbers tell: no two norms and no two sets of statistics are the same."""
    network = ad.adapt(zoo.differing(ResNet(BasicBlock, list(layers), num_classes=5)))
    zoo.differing(network.skip_norms)
    if calibrated:
        ad.calibrate(network, [torch.randn(4, 3, 32, 32)])
    return network.eval()


def features(network: nn.Module) -> list[Tensor]:
    """What a ResNet's layers return."""
    x = network.maxpool(network.relu(network.bn1(network.conv1(X))))
    found = []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = network.get_submodule(name)(x)
        found.append(x)
    return found


@pytest.mark.parametrize("calibrated", [False, True])
@torch.no_grad()
def test_a_classifier_goes_into_a_detector_with_all_its_depths(unchanged: Any, calibrated: bool) -> None:
    source = classifier(calibrated=calibrated)
    model = zoo.faster_rcnn().eval()
    with unchanged(source):
        network = ad.adapt(model, body=source)
        assert network.model is model
        assert network.proven
        assert network.calibrated is calibrated
        assert [stage.name for stage in network.stages] == [f"backbone.body.{stage.name}" for stage in source.stages]
        for skip in source.skips:
            found = list(network.subnet(skip).backbone.body(X).values())
            assert all(map(torch.equal, found, features(source.subnet(skip))))
        tensors = {id(each) for each in (*source.parameters(), *source.buffers())}
        assert not any(id(each) in tensors for each in (*network.parameters(), *network.buffers()))
    with torch.enable_grad():
        losses = network.train()(torch.rand(2, 3, 64, 64), zoo.targets("Faster R-CNN"), skip="TTTT")
        sum(losses.values()).backward()


@torch.no_grad()
def test_frozen_norms_take_the_numbers_and_their_copies_are_thawed() -> None:
    source = classifier()
    network = ad.adapt(zoo.faster_rcnn(norm=FrozenBatchNorm2d).eval(), body=source)
    norm, copy = (tree.get_submodule("backbone.body.layer2.0.bn2") for tree in (network.model, network.skip_norms))
    theirs = source.skip_norms.get_submodule("layer2.0.bn2")
    assert type(norm) is FrozenBatchNorm2d
    assert type(copy) is nn.BatchNorm2d
    assert all(torch.equal(each, copy.state_dict()[name]) for name, each in theirs.state_dict().items())
    found = list(network.subnet("FFFF").backbone.body(X).values())
    torch.testing.assert_close(found, features(source.subnet("FFFF")), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_statistics_that_frozen_norms_cannot_hold_are_to_be_measured_anew(caplog: pytest.LogCaptureFixture) -> None:
    """With statistics per context for some norms and one set for the frozen ones, depths computed something else."""
    torch.manual_seed(0)
    calibrated = classifier(calibrated=True)
    network = ad.adapt(zoo.faster_rcnn(norm=FrozenBatchNorm2d).eval(), body=calibrated)
    found = list(network.subnet("FFFF").backbone.body(X).values())
    torch.testing.assert_close(found, features(calibrated.subnet("FFFF")), rtol=1e-3, atol=1e-3)  # another eps
    assert not network.calibrated
    assert "frozen norms of the body (backbone.body.layer" in caplog.text
    assert "keep one set of statistics" in caplog.text
    ad.calibrate(network, [[torch.rand(3, 32, 32) for _ in range(4)]])
    assert network.calibrated
    copy = network.statistics.get_submodule("FT.backbone.body.layer2.0.bn2")
    assert not torch.equal(copy.running_mean, calibrated.statistics.get_submodule("FT.layer2.0.bn2").running_mean)


@torch.no_grad()
def test_a_body_with_fewer_layers_takes_the_first_stages() -> None:
    source = classifier(calibrated=True)
    body = IntermediateLayerGetter(ResNet(BasicBlock, [2, 2, 2, 2]), {"layer2": "0", "layer3": "1"})
    model = nn.Sequential(body).eval()
    network = ad.adapt(model, body=source, example=X)
    assert len(network.stages) == 3
    for skip in network.skips:
        found = network.subnet(skip)(X)["1"]
        assert torch.equal(found, features(source.subnet(f"{skip}F"))[2])


@torch.no_grad()
def test_bodies_of_other_libraries_whose_names_differ() -> None:
    sizes = {"channels": (8, 8, 16, 16)}
    source = ad.adapt(zoo.differing(timm.create_model("resnet18", num_classes=5, **sizes))).eval()
    zoo.differing(source.skip_norms)
    for how in ("list", "getter"):
        network = ad.adapt(zoo.Own(feature_cls=how, **sizes).eval(), body=source, example=X)
        expected = source.subnet("TTTT").forward_features(X)
        assert torch.equal(network.subnet("TTTT").features(X)[-1], expected), how
    small = {"embed_dim": 8, "depths": (2, 2, 4, 2), "num_heads": (1, 1, 1, 1), "img_size": 64, "window_size": 4}
    name = "swin_tiny_patch4_window7_224"
    source = ad.adapt(zoo.differing(timm.create_model(name, num_classes=5, **small))).eval()
    zoo.differing(source.skip_norms)
    x = torch.randn(1, 3, 64, 64)
    network = ad.adapt(
        nn.Sequential(timm.create_model(name, features_only=True, **small)).eval(), body=source, example=x
    )
    expected = source.subnet("TTTT").layers(source.subnet("TTTT").patch_embed(x))
    assert torch.equal(network.subnet("TTTT")(x)[-1], expected)
    assert network.stages[1].blocks == ("0.layers_1.blocks.0", "0.layers_1.blocks.1")


@torch.no_grad()
def test_mobilenet_and_a_model_of_transformers() -> None:
    source = ad.adapt(zoo.differing(torchvision.models.mobilenet_v2(num_classes=5, width_mult=0.25))).eval()
    zoo.differing(source.skip_norms)
    body = torchvision.models.mobilenet_v2(width_mult=0.25).features
    network = ad.adapt(nn.Sequential(OrderedDict(backbone=body)).eval(), body=source, example=X)
    for skip in ("FFFFF", "TFTFT"):
        assert torch.equal(network.subnet(skip).backbone(X), source.subnet(skip).features(X))
    transformers = pytest.importorskip("transformers")
    config = zoo.upernet().config.backbone_config
    source = ad.adapt(zoo.differing(transformers.ResNetForImageClassification(config)).eval(), example=X)
    zoo.differing(source.skip_norms)
    network = ad.adapt(zoo.upernet().eval(), body=source)
    expected = source.subnet("TTTT").resnet(X).last_hidden_state
    assert torch.equal(network.subnet("TTTT").backbone(X).feature_maps[-1], expected)


# -- a network that stands inside ------------------------------------------------------------------------------


@torch.no_grad()
def test_an_adapted_body_inside_a_detector_is_taken_apart() -> None:
    model = zoo.differing(zoo.faster_rcnn()).eval()
    images = zoo.inputs("Faster R-CNN")[0]
    before = model(images)[0]["boxes"]
    body = model.backbone.body = ad.adapt(model.backbone.body)
    zoo.differing(body.skip_norms)
    assert torch.equal(model(images)[0]["boxes"], before)  # it is the super-net until then
    expected = body(X, skip="TTTT")["3"]
    network = ad.adapt(model, example=(images,))
    assert type(network.model.backbone.body) is IntermediateLayerGetter
    assert network.model.backbone.body is body.model
    assert torch.equal(network.subnet("TTTT").backbone.body(X)["3"], expected)
    assert torch.equal(network(images)[0]["boxes"], before)


def test_an_adapted_body_inside_stays_there_where_something_is_wrong() -> None:
    model = zoo.faster_rcnn()
    body = model.backbone.body = ad.adapt(model.backbone.body)
    for arguments, said in (
        ({"mandatory": 1}, "brings its plan: leave out mandatory"),
        ({"within": "backbone"}, "already contains an adapted network at 'backbone.body'"),
        ({"body": classifier()}, "already contains an adapted network at 'backbone.body'"),
        ({"example": (torch.zeros(1),)}, "."),
    ):
        with pytest.raises((ad.StagesError, Exception), match=said):
            ad.adapt(model, **arguments)
        assert model.backbone.body is body
    with pytest.raises(ad.StagesError, match=r"contains an adapted network at 'backbone.body', with its own .stages"):
        ad.find_stages(model)
    model.second = ad.adapt(ResNet(BasicBlock, [2, 2, 2, 2]))
    with pytest.raises(ad.StagesError, match=r"contains 2 adapted networks \(backbone.body, second\): expected one"):
        ad.adapt(model)


# -- what does not fit ----------------------------------------------------------------------------------------


def test_a_network_of_another_architecture(unchanged: Any) -> None:
    model = zoo.faster_rcnn()
    with unchanged(model):
        with pytest.raises(ad.StagesError, match=r"the body of FasterRCNN, backbone.body .* differs from the network"):
            ad.adapt(model, body=ad.adapt(timm.create_model("resnet18", channels=(8, 8, 16, 16))))
        with pytest.raises(ad.StagesError, match=r"the body of FasterRCNN, backbone.body .* differs from the network"):
            ad.adapt(model, body=classifier((1, 1, 3, 3)[::-1]))
        with pytest.raises(ad.StagesError, match=r"adapt\(body=...\) received a ResNet"):
            ad.adapt(model, body=torchvision.models.resnet18())
        with pytest.raises(ad.StagesError, match="brings its plan: leave out stages, cut"):
            ad.adapt(model, classifier().stages, body=classifier(), cut="measured")
        with pytest.raises(ad.StagesError, match=r"has no known body, .* within='...'"):
            ad.adapt(nn.Sequential(nn.Linear(1, 1)), body=classifier())


def test_tensors_that_the_network_does_not_have_are_told(caplog: pytest.LogCaptureFixture) -> None:
    transformers = pytest.importorskip("transformers")
    config = zoo.mask2former().config.backbone_config
    # Of 64 pixels the last stage would be smaller than a window, which the backbone pads and the classifier does not.
    source = ad.adapt(transformers.SwinForImageClassification(config).eval(), example=torch.randn(1, 3, 128, 128))
    with caplog.at_level(logging.WARNING):
        network = ad.adapt(zoo.mask2former().eval(), body=source)
    assert "hidden_states_norms" in caplog.text  # norms of the features, which a classifier does not have
    assert "which stay unchanged" in caplog.text
    assert len(network.stages) == len(source.stages)


def test_a_body_around_code_of_ones_own_is_proven_on_the_first_input() -> None:
    source = ad.adapt(timm.create_model("resnet18", num_classes=5, channels=(8, 8, 16, 16)))
    network = ad.adapt(zoo.own(), body=source)
    assert not network.proven
    network.eval()(X)
    assert network.proven
