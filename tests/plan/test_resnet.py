"""The exact plans of ResNets: the paper's table, and its cut for the others."""

import pytest
import timm
import torch
import torchvision
from torchvision.models.resnet import BasicBlock, ResNet

import adaptive_depth as ad

# Blocks as mandatory + skippable; by hand from m = min(L - 1, ceil(L / 2)), the first and third also in the paper.
CUTS = {
    "18": [(1, 1), (1, 1), (1, 1), (1, 1)],
    "34": [(2, 1), (2, 2), (3, 3), (2, 1)],
    "50": [(2, 1), (2, 2), (3, 3), (2, 1)],
    "101": [(2, 1), (2, 2), (12, 11), (2, 1)],
    "152": [(2, 1), (4, 4), (18, 18), (2, 1)],
}
NAMES = {
    "resnet18": "18",
    "resnet34": "34",
    "resnet50": "50",
    "resnet101": "101",
    "resnet152": "152",
    "wide_resnet50_2": "50",
    "wide_resnet101_2": "101",
    "resnext50_32x4d": "50",
    "resnext101_32x8d": "101",
}


@pytest.mark.parametrize("library", ["", "torchvision/"])
@pytest.mark.parametrize("name", NAMES)
def test_cut_and_doubled_norms(name: str, library: str) -> None:
    with torch.device("meta"):
        model = ad.create_model(library + name)
    stages = ad.find_stages(model)
    cuts = CUTS[NAMES[name]]
    assert [(len(stage.mandatory), len(stage.skippable)) for stage in stages] == cuts
    norms_of_a_block = 2 if name in ("resnet18", "resnet34") else 3
    for number, (stage, (mandatory, skippable)) in enumerate(zip(stages, cuts, strict=True), 1):
        assert stage.name == f"layer{number}"
        assert stage.channel_dim == 1
        assert stage.blocks == tuple(f"layer{number}.{block}" for block in range(mandatory + skippable))
        expected = [
            f"layer{number}.{b}.bn{n}" for b in range(mandatory) for n in (1, 2, 3) if n <= norms_of_a_block
        ]  # by name: neither the stem's bn1 nor a down-sampling branch's
        assert stage.norms == tuple(expected)


def test_resnet50_doubles_27_norms_as_the_authors_do() -> None:
    with torch.device("meta"):
        model = torchvision.models.resnet50()
        network = ad.adapt(model)
    assert sum(len(stage.norms) for stage in network.stages) == 27
    # Channels of bn1, bn2, bn3 by hand, a weight and a bias each. The authors' checkpoints hold exactly as many
    # (golden/resnet50.json): 0.102 % of the model.
    channels = 2 * (64 + 64 + 256) + 2 * (128 + 128 + 512) + 3 * (256 + 256 + 1024) + 2 * (512 + 512 + 2048)
    added = sum(parameter.numel() for parameter in network.skip_norms.parameters())
    assert added == 2 * channels == 26112
    assert added / sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(0.00102, abs=1e-5)


def test_only_stages_that_can_be_cut() -> None:
    stages = ad.find_stages(ResNet(BasicBlock, [1, 3, 1, 2], num_classes=2))
    assert [(stage.name, len(stage.mandatory), len(stage.skippable)) for stage in stages] == [
        ("layer2", 2, 1),
        ("layer4", 1, 1),
    ]


def test_a_stage_that_the_user_took_out() -> None:
    model = timm.create_model("resnet18", channels=(8, 8, 8, 8))
    model.layer4 = torch.nn.Identity()
    assert [stage.name for stage in ad.find_stages(model)] == ["layer1", "layer2", "layer3"]


def test_norms_of_other_kinds_are_doubled_too() -> None:
    model = timm.create_model("resnet18", channels=(8, 8, 8, 8), norm_layer="groupnorm1")
    network = ad.adapt(model)
    assert len(network.skip_norms.layer1.get_submodule("0.bn1").weight) == 8
    assert not any(True for _ in network.contexts())
