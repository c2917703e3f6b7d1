"""The registry of model families."""

import re

import pytest
import torch
import torchvision
from torch import nn

import adaptive_depth as ad
from adaptive_depth.stages import registry


@pytest.fixture(autouse=True)
def _put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))


def test_a_family_of_the_users_own_is_asked_too(nets) -> None:
    stages = ad.Stages(nets.chain_stages())

    @ad.family("chains")
    def chains(model: nn.Module) -> ad.Stages | None:
        return stages if isinstance(model, nets.Chain) else None

    assert ad.families() == ("resnet", "chains")
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    assert ad.find_stages(model) is stages
    network = ad.adapt(model)
    assert network.skips == ("FF", "FT", "TF", "TT")
    assert network.proven  # a family vouches for its plan


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ad.StagesError, match="family 'resnet' is registered twice; known: resnet"):
        ad.family("resnet")(lambda _: None)
    assert ad.families() == ("resnet",)


def test_a_model_of_no_known_family(unchanged) -> None:
    with torch.device("meta"):
        vgg = torchvision.models.vgg11()
    model = torchvision.models.squeezenet1_1(num_classes=2)
    said = (
        "{} belongs to no known family (resnet): if it is residual, name its stages by hand in Python, adapt(model, "
        "stages=[Stage(mandatory=('layer1.0',), skippable=('layer1.1',)), ...])"
    )
    for use in (ad.find_stages, ad.adapt):
        with unchanged(model), pytest.raises(ad.StagesError, match=re.escape(said.format("SqueezeNet"))):
            use(model)
        with pytest.raises(ad.StagesError, match=re.escape(said.format("VGG"))):
            use(vgg)


def test_a_model_whose_stages_have_one_block_each(unchanged) -> None:
    model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=2)
    with unchanged(model), pytest.raises(ad.StagesError, match="ResNet has no residual stage of two or more blocks"):
        ad.adapt(model)
