"""Frozen norms, and BatchNorms with their numbers."""

from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

import adaptive_depth as ad
from adaptive_depth.plan.frozen import can_be_doubled, is_frozen, thawed


def numbered(norm: Any) -> Any:
    for name, low, high in (("weight", 0.5, 2), ("bias", -1, 1), ("running_mean", -1, 1), ("running_var", 0.1, 2)):
        norm.get_buffer(name).uniform_(low, high)
    return norm.eval()


def of_transformers() -> nn.Module:
    pytest.importorskip("transformers")
    from transformers.models.rt_detr.modeling_rt_detr import RTDetrFrozenBatchNorm2d

    return RTDetrFrozenBatchNorm2d(4)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: FrozenBatchNorm2d(4), nn.BatchNorm2d),
        (lambda: FrozenBatchNorm2d(4, eps=0.0), nn.BatchNorm2d),  # as torchvision's trained weights have it
        (lambda: FrozenBatchNorm2d(4, eps=0.1).to(torch.float64), nn.BatchNorm2d),
        (lambda: FrozenBatchNormAct2d(4, eps=1e-3, act_layer=nn.SiLU), BatchNormAct2d),
        (of_transformers, nn.BatchNorm2d),
    ],
)
def test_thawed_it_computes_the_same_and_trains(make: Any, kind: type) -> None:
    norm = numbered(make())
    before = {name: each.clone() for name, each in norm.named_buffers()}
    other = thawed(norm)
    assert is_frozen(norm)
    assert type(other) is kind
    assert not other.training
    x = torch.randn(2, 4, 3, 3, dtype=norm.weight.dtype)
    torch.testing.assert_close(other(x.clone()), norm(x.clone()), rtol=1e-5, atol=1e-5)
    assert [each.requires_grad for each in other.parameters()] == [True, True]
    other.train()(x).sum().backward()
    assert not torch.equal(other.running_mean, norm.running_mean)
    assert all(torch.equal(each, before[name]) for name, each in norm.named_buffers())


class FrozenNormAndHalved(FrozenBatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class FrozenNorm1d(FrozenBatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return (x - self.running_mean) * self.weight / self.running_var.sqrt() + self.bias


class FrozenScaleNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.full((width, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


@pytest.mark.parametrize("kind", [FrozenNormAndHalved, FrozenNorm1d, FrozenScaleNorm])
def test_what_is_no_batch_norm_is_not_thawed(kind: Any) -> None:
    norm = kind(4).eval()
    assert is_frozen(norm)
    assert thawed(norm) is None
    assert not can_be_doubled(norm)


def test_others_are_not_frozen() -> None:
    norms = (nn.BatchNorm2d(4), nn.LayerNorm(4), nn.BatchNorm2d(4, affine=False))
    assert not any(map(is_frozen, norms))
    assert all(map(can_be_doubled, norms))


class Block(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.conv = norm, nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.relu(self.norm(x)))


def test_what_cannot_be_thawed_is_not_doubled(nets: Any) -> None:
    model = nets.Chain(*(Block(FrozenScaleNorm(8)) for _ in range(2)), *(Block(nn.BatchNorm2d(8)) for _ in range(2)))
    found = ad.find_stages(model, torch.randn(2, 3, 8, 8))
    assert [norm for stage in found for norm in stage.norms if not norm.startswith("blocks.2")] == []
    by_hand = [ad.Stage(("blocks.0",), ("blocks.1",))]
    assert ad.adapt(model, by_hand, example=torch.randn(2, 3, 8, 8)).stages[0].norms == ()
    named = [ad.Stage(("blocks.0",), ("blocks.1",), norms=("blocks.0.norm",))]
    with pytest.raises(ad.StagesError, match=r"norm 'blocks.0.norm' is frozen, and a FrozenScaleNorm cannot become a"):
        ad.adapt(model, named)
