"""The exact plans of MobileNetV2, ViT and Swin, in torchvision's and timm's classes: method by hand from the paper."""

import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.core.network import RunningStatistics
from adaptive_depth.plan import known_runs
from adaptive_depth.plan.norms import is_norm

MOBILENETS = {"torchvision/mobilenet_v2": "features.{}.conv", "mobilenetv2_100": None, "mobilenetv2_050": None}


def plan(name: str, **arguments) -> ad.Stages:
    with torch.device("meta"):
        model = ad.create_model(name)
    return ad.find_stages(model, **arguments)


def cuts(stages: ad.Stages) -> list[tuple[int, int]]:
    return [(len(stage.mandatory), len(stage.skippable)) for stage in stages]


@pytest.mark.parametrize("name", MOBILENETS)
def test_mobilenet_v2(name: str) -> None:
    stages = plan(name)
    assert cuts(stages) == [(1, 1), (2, 1), (2, 2), (2, 1), (2, 1)]
    # Three norms a block; with the first stage the stem's and the first block's two, with the last one the last
    # block's three and the final convolution's.
    assert [len(stage.norms) for stage in stages] == [3 + 1 + 2, 6, 6, 6, 6 + 3 + 1]
    assert {stage.channel_dim for stage in stages} == {1}


def test_mobilenet_v2_by_name() -> None:
    first, *_, last = plan("torchvision/mobilenet_v2")
    assert first.blocks == ("features.2", "features.3")
    assert first.norms == (
        "features.0.1", "features.1.conv.0.1", "features.1.conv.2",
        "features.2.conv.0.1", "features.2.conv.1.1", "features.2.conv.3",
    )  # fmt: skip
    assert last.mandatory == ("features.14", "features.15")
    assert last.skippable == ("features.16",)
    assert last.norms[6:] == ("features.17.conv.0.1", "features.17.conv.1.1", "features.17.conv.3", "features.18.1")
    first, *_, last = plan("mobilenetv2_100")
    assert first.blocks == ("blocks.1.0", "blocks.1.1")
    assert first.norms[:3] == ("bn1", "blocks.0.0.bn1", "blocks.0.0.bn2")
    assert last.norms[6:] == ("blocks.6.0.bn1", "blocks.6.0.bn2", "blocks.6.0.bn3", "bn2")


def test_efficientnet_is_no_mobilenet() -> None:
    with torch.device("meta"):
        assert known_runs(ad.create_model("efficientnet_b0")) is None


@pytest.mark.parametrize(
    ("name", "block", "norms"),
    [
        ("torchvision/vit_b_16", "encoder.layers.encoder_layer_{}", ("ln_1", "ln_2")),
        ("torchvision/vit_b_32", "encoder.layers.encoder_layer_{}", ("ln_1", "ln_2")),
        ("vit_base_patch16_224", "blocks.{}", ("norm1", "norm2")),
        ("deit_tiny_patch16_224", "blocks.{}", ("norm1", "norm2")),
    ],
)
def test_vit_in_four_groups_of_three(name: str, block: str, norms: tuple[str, str]) -> None:
    stages = plan(name)
    assert cuts(stages) == [(2, 1)] * 4
    for number, stage in enumerate(stages):
        paths = [block.format(3 * number + place) for place in range(3)]
        assert stage.blocks == tuple(paths)
        assert stage.norms == tuple(f"{path}.{norm}" for path in paths[:2] for norm in norms)
        assert stage.channel_dim == -1
    assert stages[0].name == "blocks 0-2"


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("torchvision/vit_b_16", 2, [(1, 1)] * 6),
        ("torchvision/vit_b_16", 4, [(2, 2)] * 3),
        ("torchvision/vit_b_16", 12, [(6, 6)]),
        ("torchvision/vit_l_16", None, [(3, 3)] * 4),
        ("vit_large_patch16_224", 3, [(2, 1)] * 8),
        ("vit_small_patch16_18x2_224", 9, [(5, 4)] * 2),
    ],
)
def test_group_size(name: str, size: int | None, expected: list | None) -> None:
    assert cuts(plan(name, group_size=size)) == expected


@pytest.mark.parametrize("size", [1, 5, 13, 2.5])
def test_a_group_size_that_does_not_fit(size) -> None:
    with pytest.raises(
        ad.StagesError, match=r"does not divide 12 blocks into groups .*expected 2 or 3 or 4 or 6 or 12"
    ):
        plan("torchvision/vit_b_16", group_size=size)
    with pytest.raises(ad.StagesError, match="the model already has stages, so there is nothing to divide"):
        plan("torchvision/resnet18", group_size=2)


@pytest.mark.parametrize(
    ("name", "stages_of"),
    [
        ("torchvision/swin_t", {"features.1": None, "features.3": "2", "features.5": "4", "features.7": "6"}),
        ("torchvision/swin_v2_t", {"features.1": None, "features.3": "2", "features.5": "4", "features.7": "6"}),
        ("swin_tiny_patch4_window7_224", {f"layers.{i}.blocks": i or None for i in range(4)}),
    ],
)
def test_swin(name: str, stages_of: dict) -> None:
    stages = plan(name)
    assert cuts(stages) == [(1, 1), (1, 1), (3, 3), (1, 1)]
    for stage, (container, before) in zip(stages, stages_of.items(), strict=True):
        merging = f"layers.{before}.downsample.norm" if "layers" in container else f"features.{before}.norm"
        expected = [] if before is None else [merging]
        expected += [f"{block}.{norm}" for block in stage.mandatory for norm in ("norm1", "norm2")]
        assert stage.norms == tuple(expected)
        assert all(block.startswith(f"{container}.") for block in stage.blocks)
        assert stage.channel_dim == -1


@pytest.mark.parametrize(
    ("mandatory", "expected"),
    [
        (1, [(1, 2), (1, 3), (1, 5), (1, 2)]),
        (0.5, [(2, 1), (2, 2), (3, 3), (2, 1)]),
        (0.01, [(1, 2), (1, 3), (1, 5), (1, 2)]),
        (0.99, [(2, 1), (3, 1), (5, 1), (2, 1)]),
        ([2, 3, 5, 1], [(2, 1), (3, 1), (5, 1), (1, 2)]),
        ([None, 1, 0.34, None], [(2, 1), (1, 3), (2, 4), (2, 1)]),
    ],
)
def test_the_cut_can_be_moved(mandatory, expected: list) -> None:
    stages = plan("torchvision/resnet50", mandatory=mandatory)
    assert cuts(stages) == expected
    assert [len(stage.norms) for stage in stages] == [3 * m for m, _ in expected]


@pytest.mark.parametrize(
    ("mandatory", "said"),
    [
        (3, "mandatory=3 of the 3 blocks layer1.0 to layer1.2: expected 1 to 2 blocks, or a fraction between 0 and 1"),
        (0, "mandatory=0 of the 3 blocks"),
        (1.0, None),
        (1.5, "mandatory=1.5 of the 3 blocks"),
        ([1, 1], r"mandatory=\[1, 1\] has 2 entries: expected one for each of 4 stages \(of 3, 4, 6, 3 blocks\)"),
        (["1", 1, 1, 1], "mandatory='1': expected a number of blocks, or a fraction such as 0.5"),
        (True, "mandatory=True: expected a number"),
        (float("nan"), "mandatory=nan: expected a number of blocks"),
        (float("inf"), "mandatory=inf: expected a number of blocks"),
    ],
)
def test_a_cut_that_is_none(mandatory, said: str | None) -> None:
    if said is None:
        assert cuts(plan("torchvision/resnet50", mandatory=mandatory))[0] == (1, 2)
        return
    with pytest.raises(ad.StagesError, match=said):
        plan("torchvision/resnet50", mandatory=mandatory)


SMALL = {
    "torchvision/resnet18": {"num_classes": 5},
    "torchvision/mobilenet_v2": {"width_mult": 0.25, "num_classes": 5},
    "mobilenetv2_035": {"num_classes": 5},
    "torchvision/swin_t": {"num_classes": 5},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "embed_dim": 24, "num_classes": 5},
    "vit_tiny_patch16_224": {"img_size": 64, "num_classes": 5},
}


@pytest.mark.parametrize("name", SMALL)
def test_each_family_passes_the_proof(name: str, randomised) -> None:
    """Every depth runs, every doubled norm is used; and each set of norms is the one that its flag names."""
    model = ad.create_model(name, **SMALL[name]).eval()
    x = torch.randn(2, 3, 64, 64)
    before = model(x)
    network = randomised(ad.adapt(model, example=x))
    assert torch.equal(model(x), network(x))
    assert not torch.equal(before, network(x))  # randomised
    # Norms outside of mandatory blocks have only further statistics there, for other contexts.
    parts = network.skip_norms.named_modules()
    doubled = [path for path, part in parts if is_norm(part) and not isinstance(part, RunningStatistics)]
    assert sorted(doubled) == sorted(norm for stage in network.stages for norm in stage.norms)
    outputs = [network(x, skip=skip) for skip in network.skips]
    assert all(not torch.equal(a, b) for i, a in enumerate(outputs) for b in outputs[:i])


def test_what_precedes_mobilenets_first_stage_follows_its_flag(randomised) -> None:
    network = randomised(ad.adapt(ad.create_model("mobilenetv2_035", num_classes=5))).eval()
    seen: dict[str, torch.Tensor] = {}
    x = torch.randn(1, 3, 64, 64)
    for skip in ("FFFFF", "TFFFF", "FTTTT"):
        subnet = network.subnet(skip)
        seen[skip] = subnet.bn1(subnet.conv_stem(x))
    assert torch.equal(seen["FFFFF"], seen["FTTTT"])
    assert not torch.equal(seen["FFFFF"], seen["TFFFF"])
