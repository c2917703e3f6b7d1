"""What forwards leave on the modules is of the depth that ran, and what is set there reaches every depth."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.core.sharing import SharedForward


class Block(nn.Module):
    """Leaves an auxiliary loss, a list of one, and a count."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)
        self.aux: Tensor | None = None
        self.losses: list[Tensor] = []
        self.calls, self.gate = 0, 1.0

    def forward(self, x: Tensor) -> Tensor:
        change = self.gate * self.linear(self.norm(x))
        self.aux, self.losses = change.square().mean(), [change.square().mean()]
        self.calls += 1
        return x + change


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.total: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        self.total = torch.zeros(())
        for block in self.blocks:
            x = block(x)
            self.total = self.total + x.square().mean()
        return self.head(x)


def by_hand(model: Model, x: Tensor, which: tuple[int, ...]) -> tuple[Tensor, list[Tensor | None], Tensor]:
    """Output, each block's loss (None where it does not run), and the model's total."""
    x, total, losses = model.stem(x), torch.zeros(()), []
    for number, block in enumerate(model.blocks):
        change = block.gate * block.linear(block.norm(x)) if number in which else torch.zeros_like(x)
        losses.append(change.square().mean() if number in which else None)
        x = x + change
        total = total + x.square().mean()
    return model.head(x), losses, total


def same(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    assert [value is None for value in found] == [value is None for value in expected]
    for value, other in zip(found, expected, strict=True):
        if value is not None:
            torch.testing.assert_close(value, other)


@pytest.fixture
def network() -> ad.AdaptiveNetwork:
    stages = [ad.Stage((f"blocks.{n}",), (f"blocks.{n + 1}",), channel_dim=-1) for n in (0, 2)]
    return ad.adapt(Model(), stages, example=torch.randn(4, 3))


@pytest.mark.parametrize("training", [True, False])
def test_what_is_left_is_of_the_depth_that_ran(network: ad.AdaptiveNetwork, training: bool) -> None:
    network.train(training)
    model, calls = network.model, [0, 0, 0, 0]
    for skip in ("FF", "TT", "FT", "FF", "TF", "TT"):
        x = torch.randn(4, 3)
        output = network(x, skip=skip)
        ran = tuple(number for number in range(4) if number % 2 == 0 or skip[number // 2] == "F")
        expected, losses, total = by_hand(model, x, ran)
        torch.testing.assert_close(output, expected)
        same([block.aux for block in model.blocks], losses)
        same([block.losses[0] if block.losses else None for block in model.blocks], losses)
        torch.testing.assert_close(model.total, total)
        calls = [count + (number in ran) for number, count in enumerate(calls)]
        assert [block.calls for block in model.blocks] == calls


def test_a_loss_that_a_criterion_reads_is_of_this_step(network: ad.AdaptiveNetwork) -> None:
    network.train()
    model, cross_entropy = network.model, nn.CrossEntropyLoss()

    def criterion(output: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(output, y) + sum(block.aux for block in model.blocks)

    objective = ad.SelfDistillation(network, criterion)
    for form in (objective, objective.backward):
        for _ in range(2):
            x, y = torch.randn(4, 3), torch.randint(3, (4,))
            losses = form(x, y)
            output, aux, _ = by_hand(model, x, (0, 1, 2, 3))
            torch.testing.assert_close(losses.super_net.detach(), (cross_entropy(output, y) + sum(aux)).detach())
            same([block.aux for block in model.blocks], aux)  # the base-net's pass, the last, left nothing
    assert [block.calls for block in model.blocks] == [8, 4, 8, 4]  # but counts go on


@pytest.mark.parametrize("skip", ["FF", "TF", "TT"])
def test_an_attribute_that_is_annealed_reaches_every_depth(network: ad.AdaptiveNetwork, skip: str) -> None:
    x, shared = torch.randn(4, 3), SharedForward(network.eval())
    list(shared.outputs(network.skips, x))
    network(x, skip=skip)
    for block in network.model.blocks:
        block.gate = 0.25
    ran = tuple(number for number in range(4) if number % 2 == 0 or skip[number // 2] == "F")
    expected = by_hand(network.model, x, ran)[0]
    torch.testing.assert_close(network(x, skip=skip), expected)
    torch.testing.assert_close(network.extract(skip)(x), expected)
    torch.testing.assert_close({s: out for s, out, _ in shared.outputs(network.skips, x)}[skip], expected)
    torch.testing.assert_close(network.train().subnet(skip)(x), expected)


class Part(nn.Module):
    """Leaves a loss, and counts its steps since it was set back."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.aux, self.place = nn.Linear(8, 8), 0.0, 0

    def forward(self, x: Tensor) -> Tensor:
        change = self.linear(x)
        self.aux, self.place = change.square().mean(), self.place + 1
        return change


class Holds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.part = nn.LayerNorm(8), Part()

    @property
    def aux(self) -> Any:
        return self.part.aux

    def forward(self, x: Tensor) -> Tensor:
        return x + self.part(self.norm(x))


class Sums(nn.Module):
    """Reads the parts of all blocks after it has run them, and sets them back before."""

    def __init__(self, through: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Holds() for _ in range(4))
        self.parts, self.through = [block.part for block in self.blocks], through

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        parts = self.parts if self.through == "a list" else [block.part for block in self.blocks]
        for part in parts:
            part.place = 0
        for block in self.blocks:
            x = block(x)
        return x, sum(part.aux for part in parts)


@pytest.mark.parametrize("through", ["a list", "the blocks"])
@pytest.mark.parametrize("before", [False, True], ids=["new", "ran before"])
def test_what_a_model_reads_of_a_skipped_block_is_nothing(through: str, before: bool) -> None:
    model, x = Sums(through).eval(), torch.randn(4, 8)
    if before:
        model(torch.randn(4, 8))
    stages = [ad.Stage((f"blocks.{n}",), (f"blocks.{n + 1}",), channel_dim=-1) for n in (0, 2)]
    network = ad.adapt(model, stages, example=x).eval()
    for skip in ("FF", "FT", "TT", "FF", "TF"):
        network(torch.randn(4, 8))
        output, total = network(x, skip=skip)
        expected, h = torch.zeros(()), x
        for number, block in enumerate(model.blocks):
            if number % 2 == 0 or skip[number // 2] == "F":
                change = block.part.linear(block.norm(h))
                expected, h = expected + change.square().mean(), h + change
        torch.testing.assert_close(output, h)
        torch.testing.assert_close(total, expected)
        ran = [1 if number % 2 == 0 or skip[number // 2] == "F" else 0 for number in range(4)]
        assert [block.part.place for block in model.blocks] == ran
