"""The registry of model families."""

import re

import pytest
import torch
import torchvision
from torch import nn

import adaptive_depth as ad
from adaptive_depth.plan import registry


@pytest.fixture(autouse=True)
def _put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.FAMILIES, "_things", dict(registry.FAMILIES))


def test_a_family_of_the_users_own_is_asked_too(nets) -> None:
    known = ad.families()

    @ad.family("chains")
    def chains(model: nn.Module) -> list[ad.Run] | None:
        if not isinstance(model, nets.Chain):
            return None
        return [ad.Run(("blocks.0", "blocks.1"), name="one"), ad.Run(("blocks.2", "blocks.3"), name="two")]

    assert {"mobilenet_v2", "resnet", "swin", "vit"} <= {*known}
    assert ad.families() == (*known, "chains")
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    assert [(stage.name, stage.blocks) for stage in ad.find_stages(model)] == [
        ("one", ("blocks.0", "blocks.1")),
        ("two", ("blocks.2", "blocks.3")),
    ]
    network = ad.adapt(model)
    assert network.skips == ("FF", "FT", "TF", "TT")
    assert network.proven  # a family vouches for its plan


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ad.StagesError, match="family 'resnet' is registered twice; known: mobilenet_v2, resnet"):
        ad.family("resnet")(lambda _: None)
    assert "resnet" in ad.families()


def test_a_model_of_no_known_family_needs_an_example(nets, unchanged) -> None:
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    said = f"Chain belongs to no known family ({', '.join(ad.families())}): pass an input, example=tensor"
    for use in (ad.find_stages, ad.adapt):
        with unchanged(model), pytest.raises(ad.StagesError, match=re.escape(said)):
            use(model)
    assert len(ad.find_stages(model, torch.randn(2, 3, 8, 8))) == 2


def test_a_model_whose_stages_have_one_block_each(unchanged) -> None:
    model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=2)
    with unchanged(model), pytest.raises(ad.StagesError, match="ResNet has no residual stage of two or more blocks"):
        ad.adapt(model)
