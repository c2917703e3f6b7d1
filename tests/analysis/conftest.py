"""Networks whose analysis is known by hand."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import adaptive_depth as ad


class Scale(nn.Module):
    """h + a·h: ‖F(h)‖ / ‖h‖ is |a|."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.a * h


class Double(nn.Module):
    """Two of each entry, so another shape."""

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat((h, h), 1)


class Normed(nn.Module):
    """h + norm(h)."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=0.0)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.norm(h)


class Line(nn.Module):
    """Blocks one after the other; their output is the network's."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def linear(output: Tensor, y: Tensor) -> Tensor:
    """The mean of output · y: its gradient is y, so a first-order expansion is exact."""
    return (output * y).flatten(1).sum(1).mean()


class Known:
    """The classes above, and networks made of them, for tests to build."""

    Scale, Double, Normed, Line = Scale, Double, Normed, Line
    linear = staticmethod(linear)

    @staticmethod
    def network(
        mandatory: Sequence[Sequence[nn.Module]], skippable: Sequence[Sequence[nn.Module]], example: Tensor, **stage
    ) -> ad.AdaptiveNetwork:
        """A line of stages, each of mandatory and then skippable blocks."""
        blocks, stages = [], []
        for number, (always, sometimes) in enumerate(zip(mandatory, skippable, strict=True), 1):
            start = len(blocks)
            blocks += [*always, *sometimes]
            paths = [f"blocks.{place}" for place in range(start, len(blocks))]
            stages.append(ad.Stage(paths[: len(always)], paths[len(always) :], name=f"s{number}", **stage))
        return ad.adapt(Line(*blocks), stages, example=example)

    @classmethod
    def scales(
        cls, mandatory: Sequence[Sequence[float]], skippable: Sequence[Sequence[float]], width: int = 2, **stage
    ):
        """Stages of blocks h + a·h."""
        parts = ([[Scale(a) for a in row] for row in rows] for rows in (mandatory, skippable))
        return cls.network(*parts, torch.randn(2, width), **stage)


@pytest.fixture
def known() -> type[Known]:
    return Known
