"""Whole detectors and segmentation networks: only the body is cut, and every depth is the network with that body."""

import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchvision.ops import FrozenBatchNorm2d

import adaptive_depth as ad
from adaptive_depth.batches import arguments
from adaptive_depth.core.sharing import SharedForward

_spec = importlib.util.spec_from_file_location("detectors", Path(__file__).parents[1] / "detectors.py")
assert _spec is not None
assert _spec.loader is not None
zoo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(zoo)

pytestmark = [
    pytest.mark.filterwarnings("ignore:The cuda.cudart module is deprecated"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid"),
]

# Where the body is, and the blocks of its stages: mandatory, skippable.
BASIC = [(1, 1)] * 4
BODIES: dict[str, tuple[str, list[tuple[int, int]]]] = {
    "Faster R-CNN": ("backbone.body", BASIC),
    "Mask R-CNN": ("backbone.body", BASIC),
    "Keypoint R-CNN": ("backbone.body", BASIC),
    "RetinaNet": ("backbone.body", BASIC),
    "FCOS": ("backbone.body", BASIC),
    "SSDlite": ("backbone", [(1, 1), (1, 1)]),
    "DETR": ("model.backbone.model", [(1, 1), (1, 1), (2, 1), (1, 1)]),
    "RT-DETR": ("model.backbone.model", [(1, 1), (1, 1), (2, 1), (1, 1)]),
    "RT-DETR v2": ("model.backbone.model", [(1, 1), (1, 1), (2, 1), (1, 1)]),
    "D-FINE": ("model.backbone.model", [(1, 1), (2, 1)]),
    "YOLOS": ("vit.encoder", BASIC),
    "SegFormer": ("segformer.stages", BASIC),
    "UperNet": ("backbone", [(1, 1), (1, 1), (2, 1), (1, 1)]),
    "Mask2Former": ("model.pixel_level_module.encoder", [(1, 1), (1, 1), (2, 2), (1, 1)]),
    "DeepLabV3": ("backbone", BASIC),
    "FCN": ("backbone", BASIC),
    "LR-ASPP": ("backbone", [(1, 1)] * 3),
    "UNet": ("encoder", BASIC),
    "own": ("features", BASIC),
}


def leaves(output: Any) -> Iterator[Tensor]:
    """The tensors in what a model returned, in order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for each in output.values():
            yield from leaves(each)
    elif isinstance(output, list | tuple):
        for each in output:
            yield from leaves(each)


def same(one: Any, other: Any) -> bool:
    a, b = list(leaves(one)), list(leaves(other))
    return bool(a) and len(a) == len(b) and all(map(torch.equal, a, b))


@cache
def adapted(name: str) -> tuple[ad.AdaptiveNetwork, Any]:
    """A network whose norms differ, and what its model returned before it was adapted."""
    model = zoo.differing(zoo.build(name))
    args, kwargs = arguments(zoo.inputs(name))
    with torch.no_grad():
        before = model(*args, **kwargs)
    network = ad.adapt(model, example=zoo.inputs(name)).eval()
    zoo.differing(network.skip_norms)
    return network, before


def outputs(network: nn.Module, name: str, **more: Any) -> Any:
    args, kwargs = arguments(zoo.inputs(name))
    with torch.no_grad():
        return network(*args, **kwargs, **more)


@pytest.mark.parametrize("name", BODIES)
def test_only_the_body_is_cut_and_every_depth_runs(name: str) -> None:
    place, cuts = BODIES[name]
    network, before = adapted(name)
    assert [(len(stage.mandatory), len(stage.skippable)) for stage in network.stages] == cuts
    assert all(path.startswith(f"{place}.") for stage in network.stages for path in (*stage.blocks, *stage.norms))
    assert all(stage.norms for stage in network.stages)
    assert same(outputs(network, name), before)
    found = [outputs(network, name, skip=skip) for skip in network.skips]
    assert all(torch.isfinite(leaf).all() for output in found for leaf in leaves(output))
    assert not any(same(a, b) for i, a in enumerate(found) for b in found[:i])
    args, kwargs = arguments(zoo.inputs(name))
    shared = SharedForward(network)
    with torch.no_grad():
        together = {skip: output for skip, output, _ in shared.outputs(network.skips, *args, **kwargs)}
    assert shared.shareable
    assert all(same(together[skip], output) for skip, output in zip(network.skips, found, strict=True))


BY_HAND = {
    "Faster R-CNN": zoo.faster_rcnn,
    "Mask R-CNN": zoo.mask_rcnn,
    "Keypoint R-CNN": zoo.keypoint_rcnn,
    "RetinaNet": zoo.retinanet,
    "FCOS": zoo.fcos,
    "DeepLabV3": zoo.deeplab,
    "FCN": zoo.fcn,
    "DETR": zoo.detr,
    "UperNet": zoo.upernet,
    "RT-DETR": zoo.rt_detr,
}
OF_RESNET = {True: (2, 2, 2, 2), False: (2, 2, 3, 2)}  # blocks of each layer: of torchvision's, of transformers'


def close(found: Any, expected: Any) -> bool:
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in pairs if isinstance(a, Tensor))


def state_at(network: ad.AdaptiveNetwork, skip: str) -> dict[str, Tensor]:
    """The model's state with the second norms, and statistics, of the stages that are skipped."""
    state, second = network.model.state_dict(), network.skip_norms.state_dict()
    skipped = [path for path, home in network.homes.items() if skip[home - 1] == "T"]
    return state | {name: each for name, each in second.items() if name.rpartition(".")[0] in skipped}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("skip", ["TTTT", "FTFT"])
def test_a_depth_is_the_detector_with_the_shorter_body(name: str, skip: str) -> None:
    network, _ = adapted(name)
    full = OF_RESNET[name not in zoo.OF_TRANSFORMERS]
    layers = [blocks - (flag == "T") for blocks, flag in zip(full, skip, strict=True)]
    by_hand = BY_HAND[name](layers).eval()
    state = state_at(network, skip)
    by_hand.load_state_dict({path: state[path] for path in by_hand.state_dict()})
    alike = close if "DETR" in name else same  # whose norms are thawed: the same numbers in another order
    assert alike(outputs(network, name, skip=skip), outputs(by_hand, name))
    assert alike(outputs(network.extract(skip), name), outputs(by_hand, name))


@pytest.mark.parametrize("name", BODIES)
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    network, _ = adapted(name)
    folder = ad.save(network, tmp_path / "run")
    again = ad.load(folder, None if name in zoo.OF_TRANSFORMERS else zoo.build(name))
    base = network.skips[-1]
    assert again.proven
    assert same(outputs(again, name, skip=base), outputs(network, name, skip=base))


WITH_LOSSES = ("Faster R-CNN", "Mask R-CNN", "Keypoint R-CNN", "RetinaNet", "FCOS", "SSDlite")


@pytest.mark.parametrize("name", WITH_LOSSES)
def test_losses_and_gradients_of_depths_that_share_are_those_of_each_alone(name: str) -> None:
    model = zoo.differing(zoo.build(name))
    if hasattr(model, "rpn"):  # without a choice by chance among proposals
        model.rpn.fg_bg_sampler.batch_size_per_image = model.roi_heads.fg_bg_sampler.batch_size_per_image = 10**6
    network = ad.adapt(model, example=zoo.inputs(name)).train()
    zoo.differing(network.skip_norms)
    (images,), targets = zoo.inputs(name), zoo.targets(name)
    skips = (network.skips[0], network.skips[-1])
    before = {key: value.clone() for key, value in network.state_dict().items()}

    def losses(how: Any) -> tuple[list[Any], list[Tensor]]:
        network.load_state_dict(before)
        network.zero_grad()
        found = list(how())
        torch.stack([value for each in found for value in each.values()]).sum().backward()
        gradients = [each.grad for each in network.parameters() if each.grad is not None]
        return found, gradients

    shared = SharedForward(network)
    together, gradients = losses(lambda: (out for _, out, _ in shared.outputs(skips, images, targets)))
    alone, each = losses(lambda: [network(images, targets, skip=skip) for skip in skips])
    assert shared.shareable
    assert len(together[0]) >= 2
    assert same(together, alone)
    assert not same(together[0], together[1])
    torch.testing.assert_close(gradients, each, rtol=1e-4, atol=2e-5)


# -- frozen norms -----------------------------------------------------------------------------------------------


def test_frozen_norms_stay_frozen_in_the_super_net_and_are_thawed_in_its_copies() -> None:
    model = zoo.differing(zoo.faster_rcnn(norm=FrozenBatchNorm2d)).eval()
    before = outputs(model, "Faster R-CNN")
    network = ad.adapt(model, example=zoo.inputs("Faster R-CNN"))
    assert same(outputs(network, "Faster R-CNN"), before)
    norm, copy = (tree.get_submodule("backbone.body.layer1.0.bn1") for tree in (network.model, network.skip_norms))
    assert type(norm) is FrozenBatchNorm2d
    assert type(copy) is nn.BatchNorm2d
    assert copy.eps == norm.eps
    assert all(torch.equal(getattr(copy, each), getattr(norm, each)) for each in ("weight", "bias", "running_var"))
    assert [each.requires_grad for each in copy.parameters()] == [True, True]
    # Eight norms were doubled, each with a weight and a bias; before, they would have had no parameter at all.
    assert len(list(network.skip_norms.parameters())) == 16
    by_hand = zoo.faster_rcnn((1, 1, 1, 1), norm=FrozenBatchNorm2d).eval()
    by_hand.load_state_dict({path: model.state_dict()[path] for path in by_hand.state_dict()})
    with torch.no_grad():
        images = torch.stack(zoo.inputs("Faster R-CNN")[0])
        found, expected = network.subnet("TTTT").backbone(images), by_hand.backbone(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_thawed_norms_train_gather_statistics_and_are_calibrated() -> None:
    network = ad.adapt(zoo.differing(zoo.faster_rcnn(norm=FrozenBatchNorm2d)), example=zoo.inputs("Faster R-CNN"))
    path = "backbone.body.layer1.0.bn1"
    norm, copy = network.model.get_submodule(path), network.skip_norms.get_submodule(path)
    frozen, mean = {name: each.clone() for name, each in norm.named_buffers()}, copy.running_mean.clone()
    images, targets = torch.rand(2, 3, 64, 64), zoo.targets("Faster R-CNN")
    network.train()
    sum(network(images, targets, skip="TTTT").values()).backward()
    assert copy.weight.grad.abs().sum() > 0
    assert not torch.equal(copy.running_mean, mean)
    assert all(torch.equal(each, frozen[name]) for name, each in norm.named_buffers())
    assert ad.calibrate(network.eval(), [(images, None)]) == 1
    # Of layer1's norms the copies alone gather, of a context ending in T; the neck and the heads have no BatchNorm.
    first = {context for context, place in network.contexts() if place == path}
    assert first == {"T"}
    with torch.no_grad():
        seen = network.model.backbone.body.conv1(network.model.transform(list(images))[0].tensors)
        seen = network.model.backbone.body.maxpool(torch.relu(network.model.backbone.body.bn1(seen)))
        seen = network.model.backbone.body.layer1[0].conv1(seen)
    statistics = network.statistics.get_submodule(f"T.{path}")
    torch.testing.assert_close(statistics.running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(each, frozen[name]) for name, each in norm.named_buffers())


# -- outputs whose sizes depend on the data ------------------------------------------------------------------------


class Peaks(nn.Module):
    """Says where each image is bright: as a list with an entry an image, or as one tensor for all."""

    def __init__(self, nets: Any, how: str) -> None:
        super().__init__()
        self.stem, self.how = nn.Conv2d(3, 8, 1), how
        self.blocks = nn.ModuleList(nets.Residual() for _ in range(4))

    def forward(self, x: Tensor) -> Any:
        x, skipped = self.stem(x), False
        for block in self.blocks:
            y = block(x)
            x, skipped = y, skipped or y is x
        found = [image[image > 0].unsqueeze(1) for image in x.mean(1)]
        if self.how == "joined":
            return torch.cat(found)
        kind = torch.float64 if self.how == "other kinds" and skipped else torch.float32
        return [{"boxes": each.to(kind), "scores": each[:, 0]} for each in found]


@pytest.mark.parametrize("how", ["listed", "joined"])
def test_how_much_is_found_may_differ(nets: Any, how: str) -> None:
    network = ad.adapt(Peaks(nets, how).eval(), example=torch.randn(2, 3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        sizes = {tuple(len(leaf) for leaf in leaves(network(x, skip=skip))) for skip in network.skips}
    assert len(sizes) > 1


def test_other_kinds_of_numbers_may_not(nets: Any) -> None:
    with pytest.raises(ad.StagesError, match=r"returns .* but the model returns .* a list with one entry per image"):
        ad.adapt(Peaks(nets, "other kinds").eval(), example=torch.randn(2, 3, 8, 8))


# -- by name, and what they cost ----------------------------------------------------------------------------------


def test_a_detector_by_name_with_frozen_norms_is_saved_and_read_by_its_name(tmp_path: Path) -> None:
    sizes = {"num_classes": 4, "min_size": 96, "max_size": 96, "box_score_thresh": 0.0, "frozen_norms": 0.0}
    network = ad.adapt(ad.create_model("torchvision/fasterrcnn_mobilenet_v3_large_320_fpn", **sizes)).eval()
    assert all(path.startswith("backbone.body.") for stage in network.stages for path in stage.blocks)
    network.save_pretrained(tmp_path / "hub")
    images, base = [torch.rand(3, 96, 96)], network.skips[-1]
    with torch.no_grad():
        expected = network(images, skip=base)
        for again in (
            ad.load(ad.save(network, tmp_path / "run")),
            ad.AdaptiveNetwork.from_pretrained(tmp_path / "hub"),
        ):
            assert same(again(images, skip=base), expected)


def test_a_body_alone_is_saved_and_goes_back_into_its_class(tmp_path: Path) -> None:
    network = ad.adapt(zoo.faster_rcnn().backbone.body).eval()
    again = ad.load(ad.save(network, tmp_path / "run"), zoo.faster_rcnn().backbone.body)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert same(again(x, skip="TTTT"), network(x, skip="TTTT"))


def test_multiply_adds_of_listed_images_are_those_of_the_same_images_as_a_tensor() -> None:
    network, _ = adapted("Faster R-CNN")
    (images,) = zoo.inputs("Faster R-CNN")
    base = network.skips[-1]
    found = [ad.profile(network, x, latency=False, skips=base) for x in (images, tuple(images), torch.stack(images))]
    assert [each.batch_size for each in found] == [2, 2, 2]
    assert len({each.costs[base].macs for each in found}) == 1
    # Of each of 20 proposals the box head makes 32 x 7 x 7 features, 32, 32, and from these 4 classes and 16 borders.
    one = 32 * 49 * 32 + 32 * 32 + 32 * (4 + 16)
    assert found[0].macs_on_boxes == {base: 20 * one}
    assert found[0].suppressions > 0
    assert found[0].uncounted == {}
    assert f"overlapping boxes are suppressed {found[0].suppressions} times" in str(found[0])


@pytest.mark.parametrize("kind", [list, tuple])
def test_images_as_they_are_make_an_example_of_a_detector_that_takes_a_list(kind: type) -> None:
    images = kind([torch.rand(3, 64, 80), torch.rand(3, 72, 64)])
    stages = ad.find_stages(zoo.fcos(), (list(images),))
    assert ad.find_stages(zoo.fcos(), images) == stages
    net = ad.adapt(zoo.fcos(), example=images)
    assert net.stages == stages
    assert net.proven
