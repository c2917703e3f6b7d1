"""Stochastic depth of any library is off in mandatory sub-paths, and in these alone."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

import adaptive_depth as ad


class Drops(nn.Module):
    """Drops whole samples; a subclass says by which attribute."""

    def never(self) -> float:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(len(x), 1) >= self.never()) if self.training else x


class Drop_Path(Drops):
    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.9

    def never(self) -> float:
        return self.rate


class SwinDropPath(Drops):
    def __init__(self) -> None:
        super().__init__()
        self.drop_prob = 0.9

    def never(self) -> float:
        return self.drop_prob


class MyStochasticDepth(Drops):
    def __init__(self) -> None:
        super().__init__()
        self.survival_prob = 0.1

    def never(self) -> float:
        return 1 - self.survival_prob


class OddDropPath(Drops):
    def __init__(self) -> None:
        super().__init__()
        self.how_often = 0.9

    def never(self) -> float:
        return self.how_often


class Block(nn.Module):
    def __init__(self, drops: type[Drops]) -> None:
        super().__init__()
        self.norm, self.linear, self.drop = nn.LayerNorm(8), nn.Linear(8, 8), drops()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.linear(self.norm(x)))


STAGES = [ad.Stage(("1",), ("2",), channel_dim=-1), ad.Stage(("3",), ("4",), channel_dim=-1)]


def model(drops: type[Drops]) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), *(Block(drops) for _ in range(4)), nn.Linear(8, 3))


class WithARate(nn.Module):
    """Drops by a function, with a rate that the block has."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop_path_prob = nn.Linear(8, 8), 0.9

    def forward(self, x: Tensor) -> Tensor:
        return x + torchvision.ops.stochastic_depth(self.linear(x), self.drop_path_prob, "row", self.training)


def test_a_block_that_has_a_rate_of_its_own() -> None:
    x, made = torch.randn(64, 3), nn.Sequential(nn.Linear(3, 8), *(WithARate() for _ in range(4)), nn.Linear(8, 3))
    network = ad.adapt(made, STAGES, example=x).train()
    assert torch.equal(network(x, skip="TT"), network(x, skip="TT"))
    assert [block.drop_path_prob for block in made[1:5]] == [0, 0.9, 0, 0.9]


@pytest.mark.parametrize("drops", [Drop_Path, SwinDropPath, MyStochasticDepth])
def test_it_is_off_in_mandatory_sub_paths(drops: type[Drops]) -> None:
    x = torch.randn(64, 3)
    network = ad.adapt(model(drops), STAGES, example=x).train()
    assert torch.equal(network(x, skip="TT"), network(x, skip="TT"))
    assert not torch.equal(network(x), network(x))  # the skippable ones still drop
    assert network.model[2].drop.never() == pytest.approx(0.9)


def test_one_without_a_known_rate_is_an_error(unchanged) -> None:
    made = model(OddDropPath)
    with unchanged(made), pytest.raises(ad.StagesError, match=r"OddDropPath looks like stochastic depth, .* no rate"):
        ad.adapt(made, STAGES, example=torch.randn(2, 3))
